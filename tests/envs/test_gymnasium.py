"""Gymnasium's environments as environments of this package: what an episode, an action and an observation are."""

import json
import logging
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium import spaces  # noqa: E402
from settings import networks, raw_leaves, sized  # noqa: E402

import genpo_jax  # noqa: E402
from genpo_jax import cli, envs  # noqa: E402
from genpo_jax.config import Config, EnvConfig, PPOConfig  # noqa: E402
from genpo_jax.data import Demonstrations, Episode  # noqa: E402
from genpo_jax.envs import EpisodeEnv, registry  # noqa: E402
from genpo_jax.envs.gymnasium import GymnasiumEnvironment  # noqa: E402
from genpo_jax.gymnasium_adapter import GymnasiumEnv  # noqa: E402
from genpo_jax.imitation.config import PretrainConfig  # noqa: E402
from genpo_jax.policy import PolicySpec  # noqa: E402
from genpo_jax.runs.environment import Recorded, importable_name  # noqa: E402
from genpo_jax.runs.evaluate import evaluate_policy  # noqa: E402
from genpo_jax.training.evaluation import Evaluator  # noqa: E402
from genpo_jax.training.trainer import Trainer  # noqa: E402

pytestmark = pytest.mark.ci


class Counting(gymnasium.Env):
    """Counts steps: observation [n, start, action], reward n; `start` is random, so it identifies the reset.

    The action space is [0, 4]. The episode terminates at step `terminate_at` and is truncated at step `truncate_at`.
    It is a success from step `succeed_at` on.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Box(0.0, 4.0, (1,), np.float32)

    def __init__(self, terminate_at=1000, truncate_at=1000, succeed_at=None):
        self.terminate_at, self.truncate_at, self.succeed_at = terminate_at, truncate_at, succeed_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.start = 0, self.np_random.uniform()
        return self._observation(0.0), self._info()

    def step(self, action):
        assert action.dtype == np.float32 and action.shape == self.action_space.shape
        assert self.count < min(self.terminate_at, self.truncate_at), "an episode that has ended is not stepped"
        self.count += 1
        ends = self.count == self.terminate_at, self.count == self.truncate_at
        return self._observation(float(action[0])), float(self.count), *ends, self._info()

    def _observation(self, action):
        return np.array([self.count, self.start, action])

    def _info(self):
        return {} if self.succeed_at is None else {"is_success": self.count >= self.succeed_at}


class Parts(Counting):
    """The same with a Dict observation; `image` cannot be used."""

    observation_space = spaces.Dict(
        {
            "robot": spaces.Dict({"count": spaces.Box(0, 9, (1, 1)), "start": spaces.Box(0, 1, (1,))}),
            "action": spaces.Box(0, 4, (1,)),
            "image": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        }
    )

    def _observation(self, action):
        robot = {"count": np.full((1, 1), self.count, np.float32), "start": np.float32([self.start])}
        return {"robot": robot, "action": np.float32([action]), "image": np.zeros((2, 2, 3), np.uint8)}


def keys(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def episodes(limit=1000, num=2, seed=0, options=None, **counting):
    """Return episodes of `Counting` with their first state, and a jitted step."""
    env = of(GymnasiumEnvironment(partial(Counting, **counting)), limit, **(options or {}))
    return env, env.init(keys(num, seed)), jax.jit(env.step)


def of(env, limit, **options):
    return EpisodeEnv.of(env, EnvConfig(episode_length=limit, squash="clip", **options))


def play(step, state, count, action=0.0):
    timesteps = []
    for _ in range(count):
        state, timestep = step(state, jnp.full((len(state.episode_length), 1), action))
        timesteps.append(timestep)
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *timesteps)


def test_actions_are_scaled_from_our_bounds_to_those_of_the_space():
    _, state, step = episodes(num=4)
    _, timestep = step(state, jnp.array([[-1.0], [-0.5], [1.0], [3.0]]))
    assert timestep.next_obs["state"][:, 2].tolist() == [0.0, 1.0, 4.0, 4.0]


def test_a_termination_is_no_time_limit_and_its_final_observation_is_the_true_one():
    _, state, step = episodes(terminate_at=3)
    first = np.asarray(state.obs["state"][:, 1])
    state, seen = play(step, state, 3)
    assert seen.terminated.tolist() == [[False, False], [False, False], [True, True]] and not seen.truncated.any()
    assert seen.whole[2].all() and seen.episode_return[2].tolist() == [1 + 2 + 3] * 2
    np.testing.assert_array_equal(seen.next_obs["state"][2, :, :2], np.stack([[3.0, 3.0], first], axis=1))
    # The next episode begins at another start, by another seed.
    assert state.obs["state"][:, 0].tolist() == [0.0, 0.0] and not np.isin(state.obs["state"][:, 1], first).any()
    assert state.episode_length.tolist() == [0, 0]


def test_a_truncation_by_the_environment_is_no_termination():
    _, state, step = episodes(truncate_at=2)
    state, seen = play(step, state, 5)
    assert not seen.terminated.any() and seen.whole.tolist() == seen.truncated.tolist()
    assert seen.truncated[:, 0].tolist() == [False, True, False, True, False]
    assert seen.next_obs["state"][:, 0, 0].tolist() == [1.0, 2.0, 1.0, 2.0, 1.0]
    assert state.obs["state"][:, 0].tolist() == [1.0, 1.0]


def test_our_time_limit_truncates_an_environment_that_has_none_or_a_longer_one():
    _, state, step = episodes(limit=2, truncate_at=5)
    state, seen = play(step, state, 4)
    assert seen.truncated[:, 0].tolist() == [False, True, False, True] and not seen.terminated.any()
    assert seen.next_obs["state"][:, 0, 0].tolist() == [1.0, 2.0, 1.0, 2.0] and seen.whole[3].all()


def test_a_termination_at_the_time_limit_is_a_termination():
    _, state, step = episodes(limit=2, terminate_at=2, truncate_at=2)
    _, seen = play(step, state, 2)
    assert seen.terminated[1].all() and not seen.truncated.any()


def test_the_own_time_limit_of_an_environment_becomes_that_of_the_run():
    # Gymnasium's Pendulum is truncated at step 200, by its wrapper TimeLimit.
    env = envs.make("gymnasium:Pendulum-v1")
    assert (env.name, env.default_episode_length, env.observation_sizes) == ("gymnasium:Pendulum-v1", 200, {"state": 3})
    longer = of(env, 202)
    state = longer.init(keys(1))
    _, lengths = jax.jit(lambda state: jax.lax.scan(lambda s, _: play_one(longer, s), state, None, length=203))(state)
    assert lengths.tolist() == [*[0] * 201, 202, 0]


def play_one(env, state):
    state, timestep = env.step(state, jnp.zeros((1, 1)))
    return state, jnp.where(timestep.truncated, timestep.episode_length, 0)[0]


def test_only_ended_episodes_restart():
    env, state, step = episodes(limit=6, num=32)
    state = env.init(keys(32), stagger=True)
    limits, starts = np.asarray(state.time_limit), np.asarray(state.obs["state"][:, 1])
    assert set(limits) == {1, 2, 3, 4, 5, 6}
    state, seen = play(step, state, 6)
    first = seen.truncated.argmax(axis=0)
    np.testing.assert_array_equal(first, limits - 1)
    for row, end in enumerate(first):
        assert (seen.next_obs["state"][: end + 1, row, 1] == starts[row]).all()
        assert (seen.next_obs["state"][end + 1 :, row, 1] != starts[row]).all()
    # An episode that a staggered start cut short is not reported.
    assert seen.whole.sum() == (limits == 6).sum()


def test_equal_keys_give_equal_episodes_whatever_was_simulated_before():
    env, state, step = episodes(terminate_at=2, num=3)
    _, once = play(step, state, 5)
    play(step, env.init(keys(3, seed=1)), 3)
    _, again = play(step, env.init(keys(3)), 5)
    other = env.init(keys(3, seed=1))
    np.testing.assert_array_equal(once.next_obs["state"], again.next_obs["state"])
    assert not np.isin(other.obs["state"][:, 1], once.next_obs["state"][0, :, 1]).any()
    # Each row depends only on its own key.
    _, single = play(step := jax.jit(env.step), env.init(keys(3)[1:2]), 5)
    np.testing.assert_array_equal(single.next_obs["state"][:, 0], once.next_obs["state"][:, 1])


def test_success_in_info_is_our_metric():
    env, state, step = episodes(succeed_at=2, truncate_at=3)
    assert env.metric_names == ("success",)
    _, seen = play(step, state, 3)
    assert seen.episode_metrics["success"][:, 0].tolist() == [0.0, 1.0, 1.0]
    assert episodes()[0].metric_names == ()
    paid, state, step = episodes(succeed_at=2, options={"reward": "success"})
    _, seen = play(step, state, 2)
    assert seen.reward[:, 0].tolist() == [0.0, 1.0] and seen.terminated[1].all()


def test_a_history_begins_anew_with_each_episode():
    _, state, step = episodes(terminate_at=3, options={"history": 2})
    rows = [state.obs["state"][0, ::3]]
    for _ in range(4):
        state, timestep = step(state, jnp.zeros((2, 1)))
        rows.append(timestep.next_obs["state"][0, ::3])
    assert np.stack(rows).tolist() == [[0.0, 0.0], [0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [0.0, 1.0]]


def test_an_episode_may_end_within_a_chunk():
    # All episodes end at the third of four steps; the fourth is not counted.
    _, state, step = episodes(terminate_at=3, options={"chunk": 2, "action_repeat": 2})
    state, timestep = step(state, jnp.array([[-1.0, 1.0], [-1.0, 1.0]]))
    assert timestep.terminated.all() and timestep.reward.tolist() == [6.0, 6.0]
    assert timestep.next_obs["state"][:, ::2].tolist() == [[3.0, 4.0]] * 2
    assert timestep.episode_length.tolist() == [3, 3] and state.obs["state"][:, 0].tolist() == [0.0, 0.0]
    state, timestep = step(state, jnp.zeros((2, 2)))
    assert timestep.episode_length.tolist() == [3, 3]


def test_a_step_that_is_not_finite_ends_the_episode():
    class Broken(Counting):
        def _observation(self, action):
            return np.array([self.count, self.start, np.nan if self.count == 2 else action])

    env = of(GymnasiumEnvironment(Broken), 1000)
    state, seen = play(jax.jit(env.step), env.init(keys(2)), 3)
    assert seen.nonfinite[:, 0].tolist() == [False, True, False] and seen.truncated[1].all()
    assert seen.next_obs["state"][:, 0, 0].tolist() == [1.0, 1.0, 1.0] and not seen.whole.any()


def test_the_parts_of_a_dict_observation_are_joined_in_the_order_of_the_space_or_of_the_keys():
    with pytest.raises(ValueError, match=r"the observation 'image' of gymnasium:Parts must be .* not an image"):
        GymnasiumEnvironment(Parts)
    env = GymnasiumEnvironment(Parts, keys=("action", "robot/start", "robot/count"))
    state, obs = jax.jit(env.reset)(jax.random.key(0))
    _, after, reward, terminated, _ = jax.jit(env.step)(state, jnp.array([3.0]))
    assert after["state"].tolist() == [3.0, float(obs["state"][1]), 1.0]
    assert float(reward) == 1.0 and not bool(terminated)
    with pytest.raises(ValueError, match=r"keys of gymnasium:Parts must be a list of some of \['action', 'image', "):
        GymnasiumEnvironment(Parts, keys="joints")
    from gymnasium.wrappers import FilterObservation

    filtered = GymnasiumEnvironment(lambda: FilterObservation(Parts(), ["robot", "action"]))
    assert filtered._paths == ((("action",), 1), (("robot", "count"), 1), (("robot", "start"), 1))


def test_a_state_can_be_stepped_once_and_only_until_other_episodes_start():
    env, state, step = episodes()
    after, _ = step(state, jnp.zeros((2, 1)))
    for old in (state, after):
        if old is after:
            env.init(keys(2))
        # jax raises the one or the other.
        errors = (ValueError, jax.errors.JaxRuntimeError)
        with pytest.raises(errors, match="a state of gymnasium:Counting can be stepped once"):
            jax.block_until_ready(step(old, jnp.zeros((2, 1))))


def test_a_policy_acts_in_the_units_of_the_space():
    env = GymnasiumEnvironment(Counting)
    assert (env.action_low, env.action_high) == ((0.0,), (4.0,))
    spec = PolicySpec.of(env, CONFIG, 0)
    assert (spec.action_low, spec.action_high) == ((0.0,), (4.0,))


def test_a_missing_gymnasium_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "genpo_jax.envs.gymnasium")
    with pytest.raises(ModuleNotFoundError, match=r"gymnasium is not installed; .*\[gymnasium\]"):
        envs.make("gymnasium:Pendulum-v1")


def test_an_error_in_a_simulator_is_reported_in_one_line():
    class Stuck(Counting):
        def step(self, action):
            if self.np_random_seed > 0:
                raise RuntimeError("the gripper is stuck")
            return super().step(action)

    env = of(GymnasiumEnvironment(Stuck), 5)
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError)) as error:
        jax.block_until_ready(jax.jit(env.step)(env.init(keys(1)), jnp.zeros((1, 1))))
    assert cli._sentence(error.value) == "RuntimeError: the gripper is stuck"


def test_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(ValueError, match=r"must be one, for Gymnasium's environments, got \(4, 1\); use one process"):
        GymnasiumEnvironment(Counting)


def test_training_and_evaluation_have_their_own_simulators():
    env, state, step = episodes(num=2)
    state, _ = play(step, env.init(keys(2), stagger=True), 2)
    play(step, env.init(keys(2, seed=5)), 3)
    _, seen = play(step, state.replace(time_limit=jnp.full(2, 1000)), 1)
    assert seen.next_obs["state"][0, :, 0].tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnasium:CartPole-v1", r"the action space of gymnasium:CartPole-v1 must be a Box of continuous actions"),
        ("gymnasium:Nothing-v0", r"Gymnasium cannot make 'Nothing-v0' \(Environment `Nothing` doesn't exist"),
        ("gymnasium:Pendulum-v1,mass=2", r"Gymnasium cannot make 'Pendulum-v1' \(.*unexpected keyword argument 'mass'"),
        ("gymnasium:nowhere/Push-v0", r"Gymnasium cannot make 'nowhere/Push-v0' \(Namespace nowhere not found"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused_in_one_sentence(name, message):
    with pytest.raises(ValueError, match=message) as refused:
        envs.make(name)
    assert "\n" not in str(refused.value)


def test_actions_without_bounds_and_backends_are_refused():
    class Unbounded(Counting):
        action_space = spaces.Box(-np.inf, np.inf, (1,))

    with pytest.raises(ValueError, match="must be a Box of floats with finite bounds.*wrap it in RescaleAction"):
        GymnasiumEnvironment(Unbounded)
    with pytest.raises(ValueError, match="'gymnasium:Pendulum-v1' has no backend 'mjx'; leave the backend out"):
        envs.make("gymnasium:Pendulum-v1", "mjx")
    with pytest.raises(ValueError, match="default_episode_length of gymnasium:Counting must .* got None; or set ep"):
        EpisodeEnv.of(GymnasiumEnvironment(Counting), EnvConfig())


def test_arguments_of_the_name_reach_the_environment():
    env = envs.make("gymnasium:Pendulum-v1,g=0.0,max_episode_steps=7")
    assert env.default_episode_length == 7 and env._arguments == {"g": 0.0, "max_episode_steps": 7}


CONFIG = Config(
    env="gymnasium:Counting",
    num_timesteps=64,
    updates_per_chunk=1,
    num_evals=1,
    eval_envs=4,
    env_options=EnvConfig(num_envs=8, episode_length=5),
    method=sized((8,), "gaussian"),
    networks=networks((8,)),
    ppo=PPOConfig(unroll=8, num_minibatches=2, num_epochs=1),
)


@pytest.fixture(scope="module")
def counting_run(tmp_path_factory):
    """A run with as many simulators for training as for evaluation."""
    env = GymnasiumEnvironment(partial(Counting, terminate_at=4, succeed_at=4))
    return env, genpo_jax.train(env, CONFIG, tmp_path_factory.mktemp("counting") / "run", progress=False)


def test_a_run_trains_and_evaluates(counting_run):
    env, run = counting_run
    # Every episode has the rewards 1, 2, 3 and 4.
    assert run.metrics["eval/return_zero"] == run.metrics["eval/return_random"] == 10.0
    assert run.metrics["eval/success_zero"] == run.metrics["train/env/success"] == 1.0
    assert run.metrics["train/episode_return"] == 10.0 and run.metrics["train/first_ratio_error"] < 1e-6
    results = evaluate_policy(run.policy, EpisodeEnv.of(env, CONFIG.env_options), 3)
    assert results["zero"]["return"] == 10.0 and results["random"]["success"] == 1.0


def test_a_resumed_run_starts_new_episodes_and_reports_this(counting_run, caplog):
    _, run = counting_run
    fresh = GymnasiumEnvironment(partial(Counting, terminate_at=4, succeed_at=4))
    longer = replace(CONFIG, num_timesteps=128)
    with caplog.at_level(logging.WARNING):
        resumed = genpo_jax.train(fresh, longer, run.run_dir, resume=True, progress=False)
    assert [r.message for r in caplog.records if "a resumed run starts new episodes" in r.message]
    assert resumed.metrics["train/episode_return"] == 10.0


def test_the_value_of_a_truncated_episode_is_that_of_its_true_final_observation():
    env = GymnasiumEnvironment(partial(Counting, truncate_at=3))
    trainer = Trainer(env, replace(CONFIG, env_options=EnvConfig(num_envs=8, episode_length=1000)))
    state = jax.tree.map(lambda x: x[0], trainer.init([0]))
    *_, rollout = jax.jit(trainer.algorithm.collect)(state)
    final = np.take_along_axis(np.asarray(rollout.final_obs["state"][..., 0]), np.asarray(rollout.final_index), axis=0)
    limits = np.asarray(rollout.truncated)
    # Without our limit of 1000, an episode is truncated at its third step: twice in 8 steps.
    assert limits.sum() == 8 * 2 and (final[limits] == 3).all()


def test_several_seeds_in_one_program_are_those_of_single_runs():
    def trained(seeds):
        env = GymnasiumEnvironment(partial(Counting, terminate_at=4))
        trainer = Trainer(env, replace(CONFIG, num_seeds=len(seeds)))
        return trainer.chunk(trainer.init(seeds))[0].learner.params

    both, second = trained([0, 1]), trained([1])
    for a, b in zip(raw_leaves(both), raw_leaves(second), strict=True):
        np.testing.assert_allclose(a[1:], b, rtol=1e-4, atol=1e-5)


class Varying(Counting):
    """Its episodes have 1 to 9 steps."""

    def reset(self, *, seed=None, options=None):
        first = super().reset(seed=seed)
        self.terminate_at = 1 + int(9 * self.start)
        return first


def test_seeds_whose_evaluations_end_at_different_times_are_evaluated_as_single_runs():
    options = replace(CONFIG.env_options, episode_length=20)

    def returns(seeds):
        config = replace(CONFIG, num_seeds=len(seeds), env_options=options)
        trainer = Trainer(GymnasiumEnvironment(Varying), config)
        return Evaluator(trainer, 2).metrics(trainer.init(seeds), seeds)["eval/return_zero"].tolist()

    # The deterministic episodes have 7, 3; 1, 7; 3, 9; 7 and 1 steps.
    together = returns([0, 1, 2, 3])
    assert together == [(28 + 6) / 2, (1 + 28) / 2, (6 + 45) / 2, (28 + 1) / 2]
    assert returns([2]) == together[2:3]


def test_a_restart_of_a_finished_seed_alone_does_not_invalidate_the_other_seeds():
    env = of(GymnasiumEnvironment(Varying), 20)
    length = 1 + (9 * np.asarray(env.init(keys(40)).obs["state"][:, 1])).astype(int)
    short, long = int(np.argmax(length == 1)), int(np.argmax(length >= 4))
    step, action = jax.jit(jax.vmap(env.step)), jnp.zeros((2, 1, 1))
    before = jax.vmap(env.init)(keys(40)[np.array([[short], [long]])])
    after, timestep = step(before, action)
    assert timestep.terminated.tolist() == [[True], [False]]
    # A program of several seeds no longer updates the state of a finished seed, but still steps its simulators.
    kept = jax.tree.map(lambda old, new: jnp.stack([old[0], new[1]]), before, after)
    _, timestep = step(kept, action)
    assert timestep.next_obs["state"][1, 0, 0] == 2 and timestep.reward[1, 0] == 2


def test_simulators_in_processes_give_the_same_episodes():
    def observations(name):
        env = of(envs.make(name), 3)
        _, seen = play(jax.jit(env.step), env.init(keys(2)), 5, action=0.5)
        return seen.next_obs["state"]

    here = observations("gymnasium:Pendulum-v1")
    np.testing.assert_array_equal(observations("gymnasium:Pendulum-v1,processes=True"), here)


def test_a_pendulum_is_trained_from_the_command_line(tmp_path):
    folder = tmp_path / "run"
    arguments = ["--env", "gymnasium:Pendulum-v1", "--num-timesteps", "4096", "--num-evals", "1", "--eval-envs", "2"]
    cli.main(
        ["train", *arguments, "--num-envs", "4", "--unroll", "128", "--method", "gaussian", "--run-dir", str(folder)]
    )
    policy = genpo_jax.load(folder)
    assert policy(jnp.zeros(3)).shape == (1,)
    cli.main(["eval", str(folder), "--episodes", "2", "--out", str(tmp_path / "eval.json")])


def test_a_clone_is_fine_tuned_on_the_reward_of_a_simulator_without_success(tmp_path):
    env = GymnasiumEnvironment(partial(Counting, terminate_at=4))
    obs = np.array([[step, 0.5, step] for step in range(4)], np.float32)
    episode = Episode(obs, np.arange(4, dtype=np.float32)[:, None], np.ones(4), terminated=True)
    small = PretrainConfig(sizes=(8,), num_steps=2, num_updates=2, updates_per_chunk=2, batch_size=4)
    genpo_jax.pretrain(Demonstrations((episode,) * 2, {"state": 3}), small, tmp_path / "flow", env=env)
    settings = {
        "num_timesteps": 64,
        "updates_per_chunk": 1,
        "num_evals": 1,
        "eval_envs": 2,
        "env_options": {"num_envs": 8, "episode_length": 5},
        "ppo": {"unroll": 8, "num_minibatches": 2, "num_epochs": 1},
    }
    tune = partial(genpo_jax.finetune, tmp_path / "flow", env=env, episodes=3, progress=False)
    with pytest.raises(ValueError, match="needs a metric 'success'.*use reward='task'"):
        tune(tmp_path / "success", settings=settings)
    rewarded = settings | {"env_options": settings["env_options"] | {"reward": "task"}}
    tune(tmp_path / "tuned", settings=rewarded)
    record = json.loads((tmp_path / "tuned" / "finetuned.json").read_text())
    # Every episode has the rewards 1, 2, 3 and 4.
    for name in ("pretrained", "sampler"):
        assert record[name]["returns"] == record[name]["returns_zero"] == [10.0, 10.0, 10.0]
        assert record[name]["success"] is None
    assert [values["return"] for values in record["after"][0]["noise"].values()] == [10.0] * 3


def test_the_preset_has_few_simulators_also_on_an_accelerator():
    for accelerator in (False, True):
        config = genpo_jax.preset("gymnasium:Hopper-v5", "gaussian", accelerator=accelerator)
        assert (config.env_options.num_envs, config.ppo.unroll, config.num_timesteps) == (16, 128, 1_000_000)


def test_a_package_that_only_a_file_names_is_not_imported_without_trust(monkeypatch):
    monkeypatch.setattr(registry, "_imported", set())
    library, package, colon = (
        Recorded.of(f"gymnasium:{name}", {}, "run", None)
        for name in ("Pendulum-v1,g=1", "arms/Arm-v0,x=a:b", "arms:A-v0")
    )
    assert importable_name(library) == library.name and library.imports_nothing
    for foreign in (package, colon):
        with pytest.raises(ValueError, match="so the module 'arms' would be imported.*pass trust=True"):
            importable_name(foreign)
    assert importable_name(package, trust=True) == importable_name(package) == package.name


def test_our_adapter_ends_an_episode_with_its_simulator():
    def lengths(env):
        env.reset(seed=0)
        return [env.step(np.zeros(1))[2:4] for _ in range(4)]

    own = GymnasiumEnv(GymnasiumEnvironment(partial(Counting, truncate_at=3)), episode_length=9)
    assert lengths(own) == [(False, False), (False, False), (False, True), (False, False)]
    longer = GymnasiumEnv("gymnasium:Pendulum-v1", episode_length=202)
    longer.reset(seed=0)
    assert [longer.step(np.zeros(1))[3] for _ in range(202)] == [False] * 201 + [True]
    with pytest.raises(ValueError, match="default_episode_length of .* must be an integer >= 1, got None"):
        GymnasiumEnv(GymnasiumEnvironment(Counting))
