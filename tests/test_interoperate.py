"""Policies in Brax's form, Gymnasium environments in both directions, and training callbacks."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from probes import IntegratorEnv, TargetEnv, planning_policy
from test_run import CONFIG

import genpo_jax
from genpo_jax import cli
from genpo_jax.config import EnvConfig
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.runs.callbacks import Callback, WandbLogger
from genpo_jax.runs.folder import read_config

pytestmark = pytest.mark.ci


class Recorder(Callback):
    """Records its calls, and raises in those that `fails` names."""

    name = "notebook"

    def __init__(self, fails=()):
        self.calls, self.fails = [], fails

    def _see(self, what, *values):
        self.calls.append((what, *values))
        if what in self.fails:
            raise RuntimeError(f"{what} is broken")

    def start(self, run_dir, run_id, config, env):
        self._see("start", run_dir, run_id)

    def metrics(self, env_steps, wall_seconds, values):
        self._see("metrics", env_steps, values)

    def evaluated(self, env_steps, policy):
        self._see("evaluated", env_steps, policy(jnp.zeros(policy.spec.obs_size)).shape)

    def close(self):
        self._see("close")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    callbacks = Recorder(), Recorder(fails=("metrics", "evaluated", "close")), Recorder(fails=("start",))
    folder = tmp_path_factory.mktemp("watched") / "run"
    return genpo_jax.train(TargetEnv(), CONFIG, folder, progress=False, callbacks=callbacks), *callbacks


def test_a_callback_gets_every_line_of_metrics_and_the_policy_after_every_evaluation(watched):
    run, callback, *_ = watched
    assert callback.calls[0] == ("start", run.run_dir, read_config(run.run_dir)["run"])
    assert [call[1] for call in callback.calls if call[0] == "metrics"] == [0, 64, 128, 192, 256]
    assert [call[1:] for call in callback.calls if call[0] == "evaluated"] == [(0, (1,)), (128, (1,)), (256, (1,))]
    assert callback.calls[-1] == ("close",)


def test_a_callback_that_always_fails_does_not_end_a_run(watched):
    run, whole, broken, never_started = watched
    assert not run.stopped and len(broken.calls) == len(whole.calls)
    assert [call[0] for call in never_started.calls] == ["start", "close"]


def test_a_policy_in_the_form_of_brax_gives_action_and_extras(watched):
    policy, obs, key = watched[0].policy, jnp.ones((3, 1)), jax.random.key(1)
    action, extras = genpo_jax.make_inference_fn(policy)(obs, key)
    np.testing.assert_array_equal(action, policy(obs, key))
    assert extras == {}
    # Brax's rendering passes the parameters to a jitted function, which makes the policy.
    act = jax.jit(lambda params: genpo_jax.make_inference_fn(params, deterministic=True)(obs, key)[0])
    np.testing.assert_allclose(act(policy), policy(obs), atol=1e-6)


class FakeWandb(types.ModuleType):
    """The functions of wandb that we use, without its process."""

    def __init__(self, key):
        super().__init__("wandb")
        self.login = lambda prompt: key is not None and not prompt
        self.Settings = lambda **settings: settings
        self.logged, self.finished = [], 0
        self.run = types.SimpleNamespace(log=self.logged.append, finish=self._finish, define_metric=self._define)

    def init(self, **settings):
        self.settings = settings
        return self.run

    def _define(self, name, step_metric):
        self.axis = (name, step_metric)

    def _finish(self):
        self.finished += 1


@pytest.mark.parametrize(("key", "mode"), [(None, "offline"), ("secret", "online")])
def test_wandb_is_online_only_if_logged_in_and_keeps_the_id_of_the_run(tmp_path, monkeypatch, key, mode):
    fake = FakeWandb(key)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    callback = WandbLogger("robots")
    callback.start(tmp_path, "abc", CONFIG, TargetEnv())
    callback.metrics(64, 1.5, {"train/kl": 0.1})
    callback.close()
    assert (fake.settings["mode"], fake.settings["id"], fake.settings["resume"]) == (mode, "abc", "allow")
    assert fake.settings["config"]["ppo"]["unroll"] == 8 and fake.axis == ("*", "env_steps")
    assert fake.logged == [{"env_steps": 64, "wall_seconds": 1.5, "train/kl": 0.1}] and fake.finished == 1


def test_missing_wandb_is_reported_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install -e '.\[wandb\]'"):
        cli.main(["train", "--env", "ring", "--run-dir", str(tmp_path / "run"), "--wandb", "robots"])
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as refused:
        cli.main(["train", "--env", "ring", "--run-dir", str(tmp_path / "run"), "--play-every", "0"])
    # With an older tyro, our own check reports it.
    assert re.search("play.every must be >= 1, got 0", capsys.readouterr().err + str(refused.value))


@pytest.fixture(scope="module")
def pendulum():
    """An environment that can be drawn, settings of a run with episodes of 5 steps, and an initial policy."""
    env = genpo_jax.make_env("inverted_pendulum", "spring")
    config = replace(CONFIG, env=env.name, env_options=EnvConfig(num_envs=8, episode_length=5))
    spec = replace(PolicySpec.of(env, config, 0), normalized=False)
    return env, config, TrainedPolicy(spec, nnx.state(spec.build(), nnx.Param), None)


def test_a_page_is_written_at_every_second_evaluation(pendulum, tmp_path):
    from genpo_jax.viewing.during_training import PlayPages

    env, config, policy = pendulum
    callback, page = PlayPages(2), tmp_path / "play.html"
    callback.start(tmp_path, "", config, env)
    callback.evaluated(0, policy)
    assert not page.exists()
    callback.evaluated(64, policy)
    assert "genpo++ on inverted_pendulum" in page.read_text()


gymnasium = pytest.importorskip("gymnasium")


def test_our_environment_passes_gymnasiums_own_check():
    from gymnasium.utils.env_checker import check_env

    from genpo_jax.gymnasium_adapter import GymnasiumEnv

    env = GymnasiumEnv("multigoal")
    check_env(env, skip_render_check=True)
    # Steps of length 1 from the center towards a goal at distance 5, which counts as reached within 1.1.
    env.reset(seed=0)
    for step in range(1, 5):
        obs, reward, terminated, truncated, info = env.step(np.array([2.0, 0.0]))
        assert obs == pytest.approx([step, 0.0])
    assert terminated and not truncated and reward == pytest.approx(10 - 0.1 * info["distance"])
    with pytest.raises(ValueError, match=r"action must be of shape \(2,\), got \(3,\)"):
        env.step(np.zeros(3))
    with pytest.raises(ValueError, match=r"action must be finite, got \[nan, 0.0\]"):
        env.step(np.array([np.nan, 0.0]))
    short = GymnasiumEnv("multigoal", episode_length=2)
    short.reset(seed=1)
    assert [short.step(np.zeros(2))[3] for _ in range(2)] == [False, True]


def test_gymnasium_makes_and_vectorizes_our_environment_in_one_or_several_processes():
    from genpo_jax.gymnasium_adapter import GymnasiumEnv

    gymnasium.register("Ours-v0", entry_point=lambda **options: GymnasiumEnv("multigoal", **options))
    try:
        made = gymnasium.make("Ours-v0", episode_length=3, max_episode_steps=10)
        first, again = (made.reset(seed=seed)[0] for seed in (1, 1))
        np.testing.assert_array_equal(first, again)
        assert [made.step(np.zeros(2, np.float32))[3] for _ in range(3)] == [False, False, True]
    finally:
        del gymnasium.registry["Ours-v0"]
    two = [lambda: GymnasiumEnv("multigoal", episode_length=3)] * 2
    for vector in (gymnasium.vector.SyncVectorEnv(two), gymnasium.vector.AsyncVectorEnv(two, context="spawn")):
        vector.reset(seed=0)
        # An environment that reached its time limit is reset by the step after it.
        truncated = [vector.step(np.ones((2, 2), np.float32))[3].tolist() for _ in range(6)]
        assert truncated == [[False] * 2, [False] * 2, [True] * 2, [False] * 2, [False] * 2, [False] * 2]
        vector.close()


RENDERED = """
import numpy as np, sys
from gymnasium.wrappers import RecordVideo
from genpo_jax.gymnasium_adapter import GymnasiumEnv

env = GymnasiumEnv("panda_reach", render_mode="rgb_array", episode_length=5)
try:
    env.render()
except ValueError as error:
    assert "the environment must be reset before it is drawn, got 'panda_reach'" in str(error), error
env.reset(seed=0)
try:
    first = env.render()
except OSError as error:
    sys.exit(f"CANNOT DRAW {error}")
[env.step(np.ones(7)) for _ in range(4)]
assert first.shape == (480, 640, 3) and first.dtype == np.uint8 and first.std() > 10 and (first != env.render()).any()
assert env.metadata["render_fps"] == 20 and env.render_mode == "rgb_array"
if len(sys.argv) > 1:
    film = RecordVideo(env, sys.argv[1])
    film.reset(seed=0)
    [film.step(np.ones(7)) for _ in range(5)]
    film.close()
env.close()
"""


def test_our_environment_is_drawn_for_gymnasiums_video(tmp_path):
    pytest.importorskip("mujoco.batch")
    # Gymnasium writes videos by moviepy.
    folder = [str(tmp_path)] if importlib.util.find_spec("moviepy") else []
    ran = subprocess.run([sys.executable, "-c", RENDERED, *folder], capture_output=True, text=True, timeout=300)
    if "CANNOT DRAW" in ran.stderr:
        pytest.skip("MuJoCo cannot draw on this machine")
    assert ran.returncode == 0, ran.stderr
    assert not folder or list(tmp_path.glob("*.mp4"))


def test_images_need_a_mujoco_model_and_a_known_mode():
    from genpo_jax.gymnasium_adapter import GymnasiumEnv

    with pytest.raises(ValueError, match="multigoal has no MuJoCo model to draw"):
        GymnasiumEnv("multigoal", render_mode="rgb_array")
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', got 'human'"):
        GymnasiumEnv("multigoal", render_mode="human")
    assert GymnasiumEnv("multigoal").render() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_an_environment_in_a_forked_process_is_refused_instead_of_hanging():
    adapter = pytest.importorskip("genpo_jax.gymnasium_adapter")
    child = os.fork()
    if child == 0:
        try:
            adapter.GymnasiumEnv(TargetEnv())
        except ValueError as error:
            os._exit(10 if "context='spawn'" in str(error) else 11)
        os._exit(12)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


def test_our_policy_acts_within_the_bounds_of_another_environment(watched):
    from gymnasium import spaces

    from genpo_jax.gymnasium_adapter import policy_for, returns

    class Other(gymnasium.Env):
        observation_space = spaces.Box(-1.0, 1.0, (1,))
        action_space = spaces.Box(-4.0, 0.0, (1,))

        def reset(self, *, seed=None, options=None):
            self.left = 3
            return np.float32([seed]), {}

        def step(self, action):
            self.left -= 1
            return np.zeros(1, np.float32), float(action[0]), self.left == 0, False, {}

    policy = watched[0].policy
    # Actions are scaled from [-1, 1] to [-4, 0]. The observations of an episode are its seed and two zeros.
    scaled = [2 * float(policy(jnp.array([seen]))[0]) - 2 for seen in (0.0, 7.0, 8.0)]
    assert policy_for(policy, Other())(np.float32([7.0])) == pytest.approx(scaled[1], abs=1e-5)
    played = returns(policy, Other(), 2, seed=7)
    assert played == pytest.approx([scaled[1] + 2 * scaled[0], scaled[2] + 2 * scaled[0]], abs=1e-4)
    Other.observation_space = spaces.Box(-1.0, 1.0, (3,))
    with pytest.raises(ValueError, match="must have observation size 1 and action size 1, got 3 and 1"):
        policy_for(policy, Other())
    Other.action_space = spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(ValueError, match="the action space must be a Box with bounds"):
        policy_for(policy, Other())


def test_the_parts_of_a_dict_observation_are_found_by_name(watched):
    from gymnasium import spaces

    from genpo_jax.gymnasium_adapter import policy_for

    class Parts(gymnasium.Env):
        observation_space = spaces.Dict({"angle": spaces.Box(-9.0, 9.0, (1,)), "state": spaces.Box(-9.0, 9.0, (1,))})
        action_space = spaces.Box(-1.0, 1.0, (1,))

    policy, obs = watched[0].policy, {"angle": np.float32([7.0]), "state": np.float32([0.5])}
    action = lambda seen: float(policy(jnp.array([seen]))[0])  # noqa: E731
    assert float(policy_for(policy, Parts())(obs)[0]) == pytest.approx(action(0.5), abs=1e-6)
    assert float(policy_for(policy, Parts(), keys=["angle"])(obs)[0]) == pytest.approx(action(7.0), abs=1e-6)
    with pytest.raises(ValueError, match="observation size 1 and action size 1, got 2 and 1"):
        policy_for(policy, Parts(), keys=("state", "angle"))
    with pytest.raises(ValueError, match=r"keys must be among \['angle', 'state'\], got \('x',\)"):
        policy_for(policy, Parts(), keys=("x",))
    Parts.observation_space = spaces.Dict({"b": spaces.Box(-9.0, 9.0, (1,)), "a": spaces.Box(-9.0, 9.0, (1,))})
    with pytest.raises(ValueError, match="keys must be given for a Dict observation.*in the order of training"):
        policy_for(policy, Parts())


def test_a_policy_describes_itself(watched):
    policy = planning_policy(chunk=4, executed=2, action_repeat=2)
    assert repr(watched[0].policy) == "<genpo++ policy of target, seed 3, observation [1], action [1]>"
    assert repr(policy).endswith(
        "observation [1], action [4], a chunk of 4, 2 executed, each repeated for 2 env steps>"
    )


def test_a_policy_with_chunks_executes_them_in_a_gymnasium_environment():
    from genpo_jax.gymnasium_adapter import GymnasiumEnv, policy_for, returns

    policy, env = planning_policy(chunk=4, executed=2, action_repeat=2), GymnasiumEnv(IntegratorEnv())
    # The chunk at x = 0 begins with 0.1 and 0.2, and each is executed for two steps. The next chunk, at x = 0.6, begins
    # with 0.4; the time limit ends the episode after two steps.
    assert returns(policy, env, 2) == pytest.approx(2 * [0.1 + 0.2 + 0.4 + 0.6 + 1.0 + 1.4])
    act = policy_for(policy, env)
    assert [float(act(np.float32([0.2]))[0]) for _ in range(3)] == pytest.approx([0.2, 0.2, 0.25])
    act.reset()
    assert float(act(np.float32([0.4]))[0]) == pytest.approx(0.3)


def test_a_policy_knows_its_action_repeat_and_older_descriptions_have_none():
    options = EnvConfig(num_envs=8, chunk=2, action_repeat=3)
    spec = PolicySpec.of(TargetEnv(), replace(CONFIG, env_options=options), 0)
    values = json.loads(json.dumps(spec.to_dict()))
    assert spec.action_repeat == 3 and PolicySpec.from_dict(values) == spec
    del values["action_repeat"]
    assert PolicySpec.from_dict(values) == replace(spec, action_repeat=1)
