from dataclasses import replace
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arms import Arm
from settings import networks, sized

import genpo_jax
from genpo_jax.config import EnvConfig
from genpo_jax.envs import EpisodeEnv
from genpo_jax.envs.imperfect import LateActions, LateObservations, NoisyObservations, Pushed
from genpo_jax.training.trainer import Trainer

pytestmark = pytest.mark.ci


class Counter:
    """Observes the number of its steps, and the last action, which is also the reward."""

    name, action_size, observation_sizes, default_episode_length = "counter", 1, {"state": 2}, 6

    def reset(self, key):
        return jnp.float32(0), {"state": jnp.zeros(2)}

    def step(self, state, action):
        return state + 1, {"state": jnp.stack([state + 1, action[0]])}, action[0], jnp.asarray(False), {}


ACTIONS = np.linspace(0.1, 0.9, 9, dtype=np.float32)


def played(options, num_envs=1, imperfect=True, env=None, **kwargs):
    """Return observations `[T + 1, B, n]` by name and rewards `[T, B]` of nine policy calls."""
    episodes = EpisodeEnv.of(env or Counter(), replace(options, squash="clip"), imperfect=imperfect, **kwargs)

    def play(keys):
        def step(state, action):
            state, timestep = episodes.step(state, jnp.broadcast_to(action, (num_envs, 1)))
            return state, (timestep.next_obs, timestep.reward)

        state = episodes.init(keys)
        _, (seen, rewards) = jax.lax.scan(step, state, ACTIONS)
        return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), state.obs, seen), rewards

    return jax.device_get(jax.jit(play)(jax.random.split(jax.random.key(0), num_envs)))


def test_a_delay_of_two_executes_the_action_and_shows_the_observation_of_two_steps_ago():
    seen, rewards = played(EnvConfig(action_delay="2", obs_delay="2"))
    # The episode ends after six steps, and the first action of the next one has none before it.
    expected = [0.1, 0.1, 0.1, 0.2, 0.3, 0.4, 0.7, 0.7, 0.7]
    np.testing.assert_allclose(rewards[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(seen["state"][:7, 0, 0], [0, 0, 0, 1, 2, 3, 4])
    # The critic sees the present.
    np.testing.assert_array_equal(seen["privileged_state"][:7, 0, 0], [0, 1, 2, 3, 4, 5, 6])


# A teacher that sees its last two privileged observations.
TEACHER = SimpleNamespace(history=2, observations="privileged_state")


def test_a_teacher_sees_the_present_and_the_action_taken_is_the_one_before_its_delay():
    seen, _ = played(EnvConfig(action_delay="2", obs_delay="2", obs_noise=1.0), teachers=[TEACHER])
    np.testing.assert_array_equal(seen["teacher_0"][:6, 0, ::2], [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]])
    np.testing.assert_array_equal(seen["teacher_taken"][:6, 0, 0], [0, *ACTIONS[:5]])


def test_delays_of_a_range_differ_between_episodes_and_stay_within_one():
    _, rewards = played(EnvConfig(action_delay="0:2"), num_envs=32)
    delays = np.round((ACTIONS[4] - rewards[4]) / 0.1)
    assert set(delays.tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(np.round((ACTIONS[5] - rewards[5]) / 0.1), delays)


def test_the_history_contains_what_the_delayed_and_repeated_steps_showed():
    seen, rewards = played(EnvConfig(obs_delay="1", action_delay="1", history=2, action_repeat=2))
    # Each repetition is an env step: the actions are 0.1, 0.1, 0.2, 0.2, ... and arrive one step late.
    np.testing.assert_array_equal(seen["state"][:3, 0, 0::2], [[0, 0], [0, 1], [2, 3]])
    np.testing.assert_allclose(rewards[:3, 0], [0.2, 0.3, 0.5], rtol=1e-6)


def test_noise_and_bias_have_their_standard_deviation_and_scale_and_leave_the_critic_exact():
    env = Counter()
    # The first coordinate stays exact.
    env.noise_scale = (0.0, 2.0)
    seen, _ = played(EnvConfig(obs_noise=0.15, obs_bias=1.0), num_envs=4000, env=env)
    error = seen["state"][1:6] - seen["privileged_state"][1:6]
    assert (error[..., 0] == 0).all()
    bias = error[..., 1].mean(axis=0)
    assert bias.std() == pytest.approx(2, rel=0.05)
    # The mean of five steps is subtracted.
    assert (error[..., 1] - bias).std() == pytest.approx(0.3 * np.sqrt(4 / 5), rel=0.05)
    np.testing.assert_allclose(seen["privileged_state"][1:6, :, 1], np.tile(ACTIONS[:5, None], 4000), rtol=1e-6)


def test_a_scale_of_another_size_is_refused():
    env = Counter()
    env.noise_scale = (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="noise_scale of counter must be one number >= 0, or 2"):
        NoisyObservations(env, 1.0, 0.0)


def test_the_robot_is_perfect_unless_asked_for_and_the_critic_sees_the_same():
    options = EnvConfig(obs_noise=0.3, obs_delay="2", action_delay="2")
    seen, rewards = played(options, imperfect=False)
    np.testing.assert_array_equal(seen["state"], seen["privileged_state"])
    np.testing.assert_allclose(rewards[:, 0], ACTIONS, rtol=1e-6)


@pytest.fixture(scope="module")
def arm():
    return Arm("c")


def test_a_push_changes_the_velocity_of_its_joint_after_each_interval(arm):
    env = Pushed(arm, ("elbow=3",), "2")
    state, _ = env.reset(jax.random.key(0))
    step, plain = jax.jit(env.step), jax.jit(arm.step)
    changes = []
    for _ in range(6):
        expected = plain(state.env_state, jnp.zeros(2))[0].data.qvel
        state = step(state, jnp.zeros(2))[0]
        changes.append(float(jnp.abs(state.env_state.data.qvel - expected).max()))
    assert [change > 0 for change in changes] == [False, False, True, False, True, False]
    before = arm.pushed(state.env_state, jnp.asarray([0.0, 3.0])).data.qvel - state.env_state.data.qvel
    np.testing.assert_array_equal(before, [0, 3])


def test_a_robot_with_teachers_is_pushed(arm):
    teacher = SimpleNamespace(history=2, observations="state")
    episodes = EpisodeEnv.of(arm, EnvConfig(push=("elbow=3",), history=2), imperfect=True, teachers=[teacher])
    assert set(episodes.metric_names) == {"success"}


def test_a_free_body_is_pushed_along_the_ground():
    class Box(Arm):
        model = """<mujoco><worldbody><body name="box"><freejoint/><geom size=".1"/></body><body><joint name="j"/>
        <geom size=".1" contype="0"/></body></worldbody><actuator><motor joint="j" ctrlrange="-1 1"/></actuator>
        </mujoco>"""
        control_dt = 0.002

        def initial(self, key):
            return genpo_jax.Start()

        def observe(self, s):
            return s.qvel

        def reward(self, s, action):
            return s.time

        def success(self, s):
            return None

    box = Box("c")
    np.testing.assert_array_equal(Pushed(box, ("box=0.5",), "1").speeds, [0.5, 0.5, 0, 0, 0, 0, 0])


def test_what_cannot_be_pushed_or_is_no_range_is_refused(arm):
    with pytest.raises(ValueError, match="an environment with push must be an MJCF task, got 'counter'"):
        EpisodeEnv.of(Counter(), EnvConfig(push=("elbow=1",)), imperfect=True)
    with pytest.raises(ValueError, match="push elbo: there is no joint or free body 'elbo' in the model; did you mean"):
        Pushed(arm, ("elbo=1",), "2")
    with pytest.raises(ValueError, match="the speed of push elbow must be positive, got '-1'"):
        Pushed(arm, ("elbow=-1",), "2")
    with pytest.raises(ValueError, match=r"obs_delay must be whole numbers in \[0, 1000\], got '0.5:2'"):
        EnvConfig(obs_delay="0.5:2")
    with pytest.raises(ValueError, match="action_delay must be LOW:HIGH with LOW <= HIGH, or one number, got '2:1'"):
        EnvConfig(action_delay="2:1")


IMPERFECT = EnvConfig(
    num_envs=4,
    chunk=2,
    executed=1,
    action_repeat=2,
    history=2,
    physics=("mass=0.5:2",),
    physics_variants=4,
    obs_noise=0.1,
    obs_bias=0.1,
    obs_delay="0:2",
    action_delay="0:2",
    push=("elbow=1",),
    push_interval="2:4",
)


def config(**changes):
    settings = genpo_jax.preset("arm", accelerator=False)
    return replace(
        settings,
        num_timesteps=512,
        updates_per_chunk=1,
        num_evals=2,
        eval_envs=2,
        num_seeds=2,
        env_options=IMPERFECT,
        method=sized((8,), "gaussian"),
        networks=networks((8,)),
        ppo=replace(settings.ppo, unroll=16, num_minibatches=2, num_epochs=1),
        **changes,
    )


def test_evaluations_in_training_have_a_perfect_robot_unless_asked_for(arm):
    varied = arm.varied(IMPERFECT.physics, 4)
    trainer = Trainer(varied, config())
    sizes = {"state": 14, "privileged_state": 8}
    for episodes, late in ((trainer.env, True), (trainer.evaluation_env, False)):
        inner, kinds = episodes.env, set()
        assert episodes.env.observation_sizes == sizes
        while hasattr(inner, "env"):
            kinds.add(type(inner))
            inner = inner.env
        assert ({Pushed, LateActions, NoisyObservations, LateObservations} <= kinds) == late
        assert bool({Pushed, LateActions, NoisyObservations, LateObservations} & kinds) == late
    asked = replace(config(), env_options=replace(IMPERFECT, imperfect_evals=True))
    asked = Trainer(varied, asked)
    assert asked.evaluation_env is asked.env


def test_a_run_resumes_bit_identically_and_is_evaluated_with_what_is_asked_for(tmp_path):
    whole = genpo_jax.train(Arm("c"), config(), tmp_path / "whole", progress=False)
    genpo_jax.train(Arm("c"), replace(config(), num_timesteps=256), tmp_path / "half", progress=False)
    half = genpo_jax.train(Arm("c"), config(), tmp_path / "half", resume=True, progress=False)
    chex.assert_trees_all_equal(whole._state.learner, half._state.learner)
    chex.assert_trees_all_equal(whole._state.obs_moments, half._state.obs_moments)

    def returns(**options):
        from genpo_jax.runs.evaluate import evaluate

        results = evaluate(tmp_path / "whole", episodes=4, noise=("zero",), seed=0, env=Arm("c"), **options)
        return results["noise"]["zero"]["return"]

    nominal = returns()
    assert nominal == returns()
    others = [returns(randomize=True), returns(physics=("mass=4:5",)), returns(imperfect=True)]
    assert len({nominal, *others}) == 4


@pytest.mark.ci
def test_play_and_deploy_have_the_conditions_of_eval(tmp_path):
    from genpo_jax.export.deploy import deploy
    from genpo_jax.export.exporter import export
    from genpo_jax.viewing.recording import record_run

    genpo_jax.train(
        Arm("c"), replace(config(), num_seeds=1, num_timesteps=1, num_evals=0), tmp_path / "run", progress=False
    )
    folder = export(tmp_path / "run", tmp_path / "exported")
    heavy = ("mass=4:5",)

    def recorded(**options):
        recording = record_run(tmp_path / "run", env=Arm("c"), steps=12, **options)
        return recording.title.partition("arm")[2], recording.episodes[0].positions["qpos"]

    def deployed(**options):
        return deploy(folder, env=Arm("c"), episodes=1, **options).returns[0]

    conditions = {"": {}, ", randomized physics": {"randomize": True}, ", mass=4:5": {"physics": heavy}}
    conditions |= {", imperfect robot": {"imperfect": True}}
    paths, returns = [], []
    for title, options in conditions.items():
        shown, path = recorded(**options)
        assert shown == title
        paths.append(path)
        returns.append(deployed(**options))
    for i, path in enumerate(paths):
        assert not any(np.array_equal(path, other) for other in paths[:i])
    assert len(set(returns)) == 4
    np.testing.assert_array_equal(recorded()[1], paths[0])
