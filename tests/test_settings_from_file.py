"""`train --config FILE`: the settings of an earlier run instead of a preset."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from genpo_jax.cli import parse_train
from genpo_jax.commands import collect
from genpo_jax.config import Config, EnvConfig
from genpo_jax.methods import Gaussian
from genpo_jax.runs.folder import write_config

SAVED = Config(
    env="WalkerWalk",
    backend="warp",
    seed=4,
    env_options=EnvConfig(playground_config=("action_repeat=2",)),
    method=Gaussian(initial_std=0.3),
)


@pytest.fixture
def file(tmp_path):
    write_config(tmp_path / "old", SAVED, "cpu", 1)
    return str(tmp_path / "old" / "config.json")


def test_the_settings_of_a_run_replace_the_preset_and_options_override_them(file):
    assert parse_train(["--config", file]).config == SAVED
    changed = parse_train(["--config", file, "--seed", "7", "--method", "gaussian", "--env", "CheetahRun"]).config
    assert changed == replace(SAVED, seed=7, env="CheetahRun")


@pytest.mark.parametrize(
    ("contents", "lacks"), [({"model_type": "gpt2"}, "format, config, environment"), ({}, "format")]
)
def test_a_config_of_something_else_is_no_run(tmp_path, contents, lacks):
    (tmp_path / "config.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=f"config.json is not the file of a run: it lacks {lacks}.*name the folder"):
        parse_train(["--config", str(tmp_path)])


def test_collected_data_name_the_environment_as_its_option_does(file):
    run = {str(Path(file).parent): None}
    assert collect._name(collect.CollectOptions(env="probes:TargetEnv"), {}) == "probes:TargetEnv"
    assert collect._name(collect.CollectOptions(env="probes:TargetEnv"), run) == "probes:TargetEnv"
    assert collect._name(collect.CollectOptions(demonstrators=tuple(run)), run) == SAVED.env


def test_the_factory_of_the_environment_is_imported_only_if_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "kept_module.py").write_text("def make(): pass\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    environment = {"factory": "kept_module:make"}
    write_config(tmp_path / "run", replace(SAVED, env="kept-target", backend=None), "cpu", 1, environment=environment)
    file = str(tmp_path / "run" / "config.json")
    with pytest.raises(
        ValueError, match="would be imported .*; pass trust=True or env='kept_module:make' if you trust it"
    ):
        parse_train(["--config", file])
    assert parse_train(["--config", file, "--trust"]).config.env == "kept_module:make"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "genpo"), "are for method 'gaussian', got --method genpo; leave --method out"),
        (("--resume", "--run-dir", "x"), "leave out --config, or --resume"),
    ],
)
def test_what_contradicts_the_file_is_refused(file, options, message):
    with pytest.raises(ValueError, match=message):
        parse_train(["--config", file, *options])


def test_a_run_on_an_object_is_refused_with_the_option_that_names_it(tmp_path):
    environment = {"object": True, "class": "probes:TargetEnv"}
    write_config(tmp_path, SAVED, "cpu", 1, environment=environment)
    with pytest.raises(ValueError, match="trained on an environment object, .*; pass env='probes:TargetEnv'"):
        parse_train(["--config", str(tmp_path / "config.json")])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        parse_train(["--config", str(tmp_path / "none.json")])
