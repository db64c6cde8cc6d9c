"""No module that a file names is imported unless the user names it too, or trusts the file."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from probes import TargetEnv
from settings import networks, sized

import genpo_jax
from genpo_jax import cli, envs
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.data import Demonstrations, Episode
from genpo_jax.envs import registry
from genpo_jax.envs.names import module_of
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.reporting.report_page import player_of
from genpo_jax.runs.environment import Recorded, environment_of, importable_name
from genpo_jax.runs.evaluate import evaluate
from genpo_jax.runs.folder import read_config, saved_config

pytestmark = pytest.mark.ci

CONFIG = Config(
    num_timesteps=64,
    updates_per_chunk=1,
    num_evals=0,
    env_options=EnvConfig(num_envs=8),
    method=sized((8,), "gaussian"),
    networks=networks((8,)),
    ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=1),
)
LONGER = ("--num-timesteps", "128")
# The module writes a file when it is imported, and again when its environment is made.
FOREIGN = """
from pathlib import Path
from probes import TargetEnv
LOG = Path(__file__).with_suffix(".log")
LOG.open("a").write("imported ")
class Arm(TargetEnv):
    name = "arm"
    def __init__(self):
        LOG.open("a").write("made ")
        super().__init__()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on an environment object."""
    return genpo_jax.train(TargetEnv(), CONFIG, tmp_path_factory.mktemp("trust") / "run", progress=False).run_dir


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module `foreign` that can be imported; return the file that it writes then."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_imported", set())
    monkeypatch.setattr(sys, "path", [str(tmp_path / "modules"), *sys.path])
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "foreign.py").write_text(FOREIGN)
    yield tmp_path / "modules" / "foreign.log"
    sys.modules.pop("foreign", None)


def stranger(trained, folder, env="foreign:Arm", **source):
    """Return a copy of the run whose files name another environment."""
    shutil.copytree(trained, folder)
    contents = read_config(folder)
    contents["config"]["env"] = env
    contents["environment"] |= {"object": False, "own_name": "arm"} | source
    (folder / "config.json").write_text(json.dumps(contents))
    return folder


def arguments_of(command, run):
    return {
        "train": ["train", "--run-dir", str(run), "--resume", *LONGER],
        "finetune": ["finetune", "--from", str(run), "--run-dir", str(run.parent / "new"), "--method", "gaussian"],
        "collect": ["collect", str(run), "--episodes", "2", "--data", str(run.parent / "demos.hdf5")],
        "eval": ["eval", str(run), "--episodes", "2", "--noise", "zero"],
    }.get(command, [command, str(run)])


@pytest.mark.parametrize("command", ["train", "play", "eval", "collect", "fidelity", "finetune"])
@pytest.mark.parametrize("source", [{"env": "foreign:Arm"}, {"env": "my-arm", "factory": "foreign:Arm"}])
def test_a_command_names_the_module_and_stops_before_importing_it(command, source, trained, foreign, tmp_path):
    run = stranger(trained, tmp_path / "run", **source)
    with pytest.raises(SystemExit) as refusal:
        cli.main(arguments_of(command, run))
    message = str(refusal.value.code)
    assert f"{run} names the environment 'foreign:Arm', so the module 'foreign' would be imported" in message
    assert "pass --trust or --env foreign:Arm if you trust it" in message
    assert not foreign.exists()


@pytest.mark.parametrize("named", [["--trust"], ["--env", "foreign:Arm"]])
def test_the_module_is_imported_if_the_user_trusts_or_names_it(named, trained, foreign, tmp_path):
    run = stranger(trained, tmp_path / "run")
    cli.main([*arguments_of("eval", run), *named])
    assert foreign.read_text() == "imported made "
    # From now on the process knows the module.
    assert environment_of(run).name == "arm"


def test_a_registered_name_and_a_name_of_a_library_need_no_trust(trained, foreign, tmp_path):
    run = stranger(trained, tmp_path / "run", "my-arm", factory="foreign:Arm")
    envs.register("my-arm", TargetEnv)
    assert isinstance(environment_of(run), TargetEnv)
    library = stranger(trained, tmp_path / "library", "ring", factory="foreign:Arm")
    assert environment_of(library).name == "ring"
    assert not foreign.exists()


def test_a_name_that_cannot_be_made_is_refused_with_what_to_type(trained, foreign, tmp_path):
    run = stranger(trained, tmp_path / "run", "my-arm")
    with pytest.raises(
        ValueError, match="there is no environment 'my-arm'; .*; pass env='my_module:NAME', or register"
    ):
        environment_of(run, trust=True)
    with pytest.raises(ValueError, match="pass env='probes:TargetEnv', a class or function that makes it again"):
        environment_of(trained, trust=True)
    with pytest.raises(ValueError, match="backend must be None with an environment object, got 'c'"):
        environment_of(trained, TargetEnv(), backend="c")


@pytest.mark.parametrize("inside", ["", "checkpoints", "seed-0"])
def test_a_module_inside_the_run_is_refused_even_if_trusted(inside, trained, foreign, tmp_path, monkeypatch):
    run = stranger(trained, tmp_path / "run")
    (run / inside).mkdir(exist_ok=True)
    (run / inside / "evil.py").write_text(FOREIGN)
    name = ".".join(filter(None, ("run", inside, "evil:Arm")))
    contents = read_config(run)
    contents["config"]["env"] = name
    (run / "config.json").write_text(json.dumps(contents))
    # `run` is a package without a file, whose module `evil` is in the folder.
    monkeypatch.chdir(tmp_path)
    for given in ({"trust": True}, {"env": name}):
        with pytest.raises(ValueError, match=r"'run\..*evil' .* is the file .*evil.py in the folder .*run, from which"):
            environment_of(run, **given)
    assert not (run / inside / "evil.log").exists()


def test_a_run_folder_is_never_on_pythons_search_path(trained, foreign, tmp_path, monkeypatch):
    run = stranger(trained, tmp_path / "run", "evil:Arm")
    (run / "evil.py").write_text(FOREIGN)
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "path", ["", str(run / "checkpoints"), *sys.path])
    with pytest.raises(ValueError, match="environment 'evil:Arm' could not be imported"):
        environment_of(run, trust=True)
    assert not [entry for entry in sys.path if Path(entry).resolve().is_relative_to(run)]
    assert not (run / "evil.log").exists()
    # The exported policy of a run lies in the folder of the run.
    assert Recorded.of_run(run).folder == run.resolve()


@pytest.mark.parametrize("name", ["foreign:", ":Arm", "foreign:Nothing", ".foreign:Arm", "foreign:LOG", "a\0b:C"])
def test_a_path_that_names_no_class_is_one_sentence(name, foreign):
    with pytest.raises(ValueError, match="could not be imported|must be a class or function"):
        envs.make(name)


def test_a_report_and_an_export_import_nothing(trained, foreign, tmp_path, capsys):
    pytest.importorskip("onnx")
    run = stranger(trained, tmp_path / "run", robot={"joints": ["a"], "actuators": ["a"], "ctrl_range": [[-1, 1]]})
    cli.main(["report", str(run)])
    assert "add --env foreign:Arm if you trust it" in (run / "report.html").read_text()
    cli.main(["export", str(run)])
    description = json.loads((run / "exported" / "policy.json").read_text())
    assert description["robot"]["joints"] == ["a"] and description["action"]["names"] == ["a"]
    assert description["environment"]["episode_length"] == 8
    note = "The environment is not one of a library: genpo-jax deploy needs --env foreign:Arm."
    assert note in capsys.readouterr().out and note in (run / "exported" / "README.md").read_text()
    assert genpo_jax.load(run).spec.obs_size == 1
    with pytest.raises(SystemExit, match="so the module 'foreign' would be imported and its code would run; pass --tr"):
        cli.main(["deploy", str(run / "exported")])
    assert not foreign.exists()
    cli.main(["deploy", str(run / "exported"), "--env", "foreign:Arm", "--episodes", "1"])
    assert "arm, 1 episodes" in capsys.readouterr().out
    # A player is drawn with an environment that the user names; this one has no model to draw.
    assert "arm has no MuJoCo model to draw" in player_of(run, "foreign:Arm").why_not


def test_values_of_another_form_in_a_record_are_left_out(trained, foreign, tmp_path):
    pytest.importorskip("onnx")
    wrong = {"robot": {"joints": 3}, "control_period_seconds": "0.1", "default_episode_length": [8]}
    run = stranger(trained, tmp_path / "run", **wrong)
    folder = genpo_jax.export.exporter.export(run, tmp_path / "out")
    description = json.loads((folder / "policy.json").read_text())
    assert description["robot"] is None and description["rate"]["control_period_seconds"] is None
    assert description["environment"]["episode_length"] is None and not foreign.exists()


def demonstrations(env):
    episodes = (Episode(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3)),) * 2
    return dataclasses.replace(Demonstrations(episodes, {"state": 1}), env=env)


def test_pretraining_imports_no_module_that_the_data_or_the_run_to_resume_names(foreign, tmp_path, caplog):
    settings = PretrainConfig(num_updates=1, updates_per_chunk=1, batch_size=2, sizes=(4,), policy="gaussian")
    left_out = genpo_jax.pretrain(demonstrations("foreign:Arm"), settings, tmp_path / "without", progress=False)
    assert left_out.env is None and not foreign.exists()
    assert "the environment 'foreign:Arm' of the data is not used" in caplog.text and "pass trust=True" in caplog.text
    run = genpo_jax.pretrain(demonstrations(""), settings, tmp_path / "run", env=TargetEnv(), progress=False)
    assert run.config.env == "target" and read_config(tmp_path / "run")["environment"]["object"]
    contents = json.loads((tmp_path / "run" / "config.json").read_text())
    contents["config"]["env"], contents["environment"]["object"] = "foreign:Arm", False
    (tmp_path / "run" / "config.json").write_text(json.dumps(contents))
    resumed = dataclasses.replace(settings, env="foreign:Arm")
    with pytest.raises(ValueError, match="run names the environment 'foreign:Arm', so the module 'foreign' would"):
        genpo_jax.pretrain(demonstrations(""), resumed, tmp_path / "run", resume=True, progress=False)
    assert not foreign.exists()
    with pytest.raises(ValueError, match="environment of a resumed run must be that of the run, 'foreign:Arm', got"):
        genpo_jax.pretrain(demonstrations(""), settings, tmp_path / "run", resume=True, env="probes:ConstantEnv")


def test_a_run_on_an_object_is_resumed_and_evaluated_by_the_path_of_its_class(trained, tmp_path, capsys):
    run = shutil.copytree(trained, tmp_path / "run")
    cli.main(["train", "--run-dir", str(run), "--resume", "--env", "probes:TargetEnv", *LONGER])
    assert saved_config(run).env == "target" and saved_config(run).num_timesteps == 128
    assert read_config(run)["environment"]["factory"] == "probes:TargetEnv"
    # The path is recorded, and this process has imported it.
    results = [evaluate(run, env=env, episodes=2, noise=("zero",)) for env in (None, "probes:TargetEnv", TargetEnv())]
    assert results[0] == results[1] == results[2]
    with pytest.raises(SystemExit, match="keeps its settings, but env: saved 'target', given 'probes:ConstantEnv'"):
        cli.main(["train", "--run-dir", str(run), "--resume", "--env", "probes:ConstantEnv"])
    again = genpo_jax.train(TargetEnv(), run_dir=run, resume=True, progress=False)
    assert read_config(run)["environment"]["object"]
    assert repr(again) == f"gaussian on target, seed 0\n128 of 128 env steps, done\nfolder {run}"


def test_a_stopped_run_names_the_command_that_continues_it(trained, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(trained, tmp_path / "a run")
    monkeypatch.setattr("genpo_jax.runs.session.any_process", lambda flag: True)
    longer = dataclasses.replace(saved_config(run), num_timesteps=192)
    genpo_jax.train("probes:TargetEnv", longer, run, resume=True)
    told = f"genpo-jax train --run-dir '{run}' --resume --env probes:TargetEnv"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("ring", None),
        ("foreign.arms:Arm", "foreign.arms"),
        ("gymnasium:Hopper-v5", None),
        ("gymnasium:Hopper-v5,xml_file=a/b.xml", None),
        ("gymnasium:foreign:Arm-v0,size=3", "foreign"),
        ("gymnasium:foreign/Arm-v0", "foreign"),
        ("gymnasium:Pendulum-v1,foreign:Arm-v0", "Pendulum-v1,foreign"),
    ],
)
def test_the_module_that_a_name_imports_is_known_before_it_is_imported(name, module, foreign):
    assert module_of(name) == (module or "")
    assert envs.is_known(name) == (module is None)
    if module is not None:
        record = Recorded.of(name, {}, "a file", None)
        with pytest.raises(ValueError, match=f"^a file names the environment '{name}', so the module '{module}' would"):
            importable_name(record)
    assert not foreign.exists()
