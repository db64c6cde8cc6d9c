"""Distillation: updates with two hand-made teachers in plain numpy, and runs without the folders of their teachers."""

import shutil
from dataclasses import fields, replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from settings import networks, raw_leaves, sized
from test_replay import double, np_normal, played_updates

import genpo_jax
from genpo_jax.commands.distill import COMMAND as DISTILL
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs import EpisodeEnv
from genpo_jax.imitation.distill import STD, distill_config
from genpo_jax.imitation.finetune import finetune_config
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.runs.evaluate import evaluate
from genpo_jax.runs.folder import CHECKPOINTS, read_policy_spec, saved_config, write_config
from genpo_jax.runs.manifest import read_evaluation
from genpo_jax.runs.metrics import METRICS_FILE, read_metrics
from genpo_jax.runs.teachers import Teacher, read_teachers, teachers_of, write_teachers
from genpo_jax.training import ppo
from genpo_jax.training.extensions import Distillation, Update, extensions_of
from genpo_jax.training.extensions.distillation import TEACHER
from genpo_jax.training.trainer import Trainer

pytestmark = pytest.mark.ci

# An episode is longer than a rollout: an environment that ends twice in a rollout starts twice from the same state.
T, B, UPDATES, LIMIT = 16, 12, 3, 17
COEF, SPREAD = 0.7, 0.4
LOW, HIGH = -2.0, 4.0


class WalkEnv:
    """A point at x that two actions in volts push; the privileged observation is positive: 4 + x, and the step."""

    name, action_size, default_episode_length = "walk", 2, LIMIT
    observation_sizes = {"state": 1, "privileged_state": 2}
    action_low, action_high = LOW, HIGH

    def reset(self, key):
        return self.observed(jax.random.uniform(key, minval=-1.0), jnp.float32(0))

    def step(self, state, action):
        x = jnp.clip(state[0] + action[0] / 4 - action[1] / 8, -3, 3)
        return (*self.observed(x, state[1] + 1), x, jnp.asarray(False), {})

    def observed(self, x, count):
        return (x, count), {"state": 2 * x[None], "privileged_state": jnp.stack([4 + x, 1 + count])}


def linear_teacher(kernel, bias, obs_name, **spec):
    """Return a Gaussian policy with the mean `obs @ kernel + bias` for positive observations, for actions in volts."""
    obs_size, action_size = np.shape(kernel)
    values = {"history": 1, "chunk": 1, "action_repeat": 1} | spec
    spec = PolicySpec(
        env="walk",
        seed=0,
        obs_size=obs_size,
        obs_name=obs_name,
        action_size=action_size,
        squash="clip",
        method=sized((obs_size,), "gaussian", initial_std=0.05),
        networks=networks((8,), activation="elu"),
        normalized=False,
        action_low=(LOW,) * action_size,
        action_high=(HIGH,) * action_size,
        **values,
    )
    policy = spec.build()
    hidden, output = policy.mean.layers[0], policy.mean.output
    hidden.kernel[...], hidden.bias[...] = jnp.eye(obs_size), jnp.zeros(obs_size)
    output.kernel[...], output.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)
    return TrainedPolicy(spec, nnx.state(policy, nnx.Param), None)


# The first teacher sees the last two privileged observations, the second only the present one.
KERNELS = (np.array([[0.1, 0], [0, 0.05], [-0.05, 0], [0, 0.02]]), np.array([[-0.1, 0.1], [0.05, 0]]))
BIASES = (np.array([0.2, -0.4]), np.array([-0.3, 0.1]))


@cache
def teachers():
    """Made by the first test that needs them, as each process imports every test."""
    return (
        linear_teacher(KERNELS[0], BIASES[0], "privileged_state", history=2),
        linear_teacher(KERNELS[1], BIASES[1], "privileged_state"),
    )


def config_of(**ppo_settings):
    return Config(
        env="walk",
        num_timesteps=UPDATES * T * B,
        updates_per_chunk=1,
        env_options=EnvConfig(num_envs=B, history=3),
        method=sized((8,), "gaussian"),
        networks=networks((8,)),
        ppo=PPOConfig(
            **{
                "unroll": T,
                "num_epochs": 4,
                "num_minibatches": 1,
                "learning_rate": 0.02,
                "max_learning_rate": 0.02,
                "target_kl": None,
                "policy_coef": 0.0,
                "distill_coef": COEF,
                "distill_labels": "zero",
                "distill_std": SPREAD,
            }
            | ppo_settings
        ),
    )


@pytest.fixture(scope="module")
def run():
    trainer = Trainer(WalkEnv(), config_of(), teachers())
    states, rollouts, batches, metrics = played_updates(trainer, trainer.algorithm, 5, UPDATES)
    return SimpleNamespace(trainer=trainer, states=states, rollouts=rollouts, batches=batches, metrics=metrics)


@pytest.fixture(params=range(UPDATES))
def at(request, run):
    """One update: its rollout, its labels `[T, B, 2]`, and in which steps `[T, B]` an episode begins in the rollout."""
    n = request.param
    rollout = run.rollouts[n]
    ended = rollout.terminated | rollout.truncated
    begins = np.concatenate([np.zeros((1, B), bool), ended[:-1].astype(bool)])
    # G groups of environments, each with its steps and environments in one axis.
    groups = run.trainer.algorithm.num_groups
    label = run.batches[n].other_records[TEACHER].action
    label = label.reshape(groups, T, B // groups, 2).swapaxes(0, 1).reshape(T, B, 2)
    return SimpleNamespace(rollout=rollout, begins=begins, label=label, n=n)


def teacher_actions(rollout, begins):
    """Return the actions `[2, T, B, 2]` in [-1, 1] of both teachers, from the privileged observations."""
    now = rollout.obs["privileged_state"]
    # Only the first teacher's own observation has the step before the rollout.
    before = np.concatenate([rollout.obs["teacher_0"][:1, :, :2], now[:-1]])
    before = np.where(begins[..., None], now, before)
    seen = np.concatenate([before, now], axis=-1)
    return np.stack([seen @ KERNELS[0] + BIASES[0], now @ KERNELS[1] + BIASES[1]])


def test_each_teacher_sees_its_own_observation_with_its_own_history_and_the_student_another(at):
    obs, now = at.rollout.obs, at.rollout.obs["privileged_state"]
    known = np.s_[1:]
    before = np.where(at.begins[known][..., None], now[1:], now[:-1])
    np.testing.assert_allclose(obs["teacher_0"][known], np.concatenate([before, now[1:]], axis=-1))
    np.testing.assert_allclose(obs["teacher_1"], now)
    assert obs["state"].shape == (T, B, 3)
    np.testing.assert_allclose(obs["state"][..., 2], 2 * (now[..., 0] - 4), atol=1e-5)


def test_every_episode_draws_its_numbers_anew_and_keeps_them(at):
    turn = at.rollout.obs["teacher_turn"]
    changed = (turn[1:] != turn[:-1]).any(axis=-1)
    np.testing.assert_array_equal(changed, at.begins[1:])
    assert at.begins.sum() > B / 2, "otherwise hardly any episode begins"


def test_a_label_is_the_action_of_the_teacher_that_fits_the_actions_of_the_episode_so_far(at):
    actions = teacher_actions(at.rollout, at.begins)
    taken = np.tanh(at.rollout.record.action)
    scores = np.zeros((T, B, 2))
    for t in range(1, T):
        distance = np.square(taken[t - 1] - actions[:, t - 1]).sum(axis=-1)
        scores[t] = np.where(at.begins[t][:, None], 0, scores[t - 1] - distance.T / (2 * SPREAD**2))
    turn = at.rollout.obs["teacher_turn"]
    chosen = (turn + scores).argmax(axis=-1)
    expected = np.take_along_axis(actions, chosen[None, ..., None], axis=0)[0]
    unbounded = np.arctanh(np.clip(expected, -0.999, 0.999))
    np.testing.assert_allclose(at.label, unbounded, rtol=1e-3, atol=1e-3)
    drawn = turn.argmax(axis=-1)
    assert 0.2 < drawn.mean() < 0.8 and (chosen != drawn).mean() > 0.05 and scores.min() < -1


def test_only_the_likelihood_of_the_labels_trains_the_policy(run):
    batch = run.batches[-1]
    minibatch = jax.tree.map(lambda x: jnp.asarray(x, x.dtype if x.dtype == bool else jnp.float32), batch)
    agent, hyper = run.trainer.algorithm.make_agent(run.states[-1].learner.params), run.trainer.hyper
    total, metrics = ppo.loss(agent, minibatch, hyper)
    mean = double(agent.zero_noise_action({"state": minibatch.obs["state"]}))
    log_prob = np_normal(batch.other_records[TEACHER].action - mean, double(agent.policy.log_std[...]))
    np.testing.assert_allclose(metrics["train/distill_loss"], -log_prob.mean(), rtol=1e-3)
    np.testing.assert_allclose(total, metrics["train/value_loss"] - COEF * log_prob.mean(), rtol=1e-3)
    assert abs(float(metrics["train/policy_loss"])) > 1e-3, "otherwise its weight could be anything"
    with_gradient = ppo.loss(agent, minibatch, hyper.replace(policy_coef=jnp.float32(2.0)))[0]
    np.testing.assert_allclose(with_gradient - total, 2 * metrics["train/policy_loss"], rtol=1e-2, atol=1e-4)


def test_the_loss_falls_and_the_student_approaches_the_teachers(run):
    losses = [float(metrics["train/distill_loss"]) for metrics in run.metrics]
    assert losses[0] > losses[1] > losses[2]
    leaf = jax.tree.leaves(run.trainer.hyper.extensions[0].teachers[0].params)[0]
    np.testing.assert_array_equal(leaf, jax.tree.leaves(teachers()[0].params)[0])


def test_without_a_spread_the_teacher_drawn_for_the_episode_labels_all_its_steps():
    (extension,) = extensions_of(config_of(distill_std=None), teachers())
    turn = jnp.array([[[2.0, 1.0], [0.0, 3.0]]] * 2)
    values = dict.fromkeys((f.name for f in fields(Update)), None)
    update = Update(**(values | {"rollout": SimpleNamespace(obs={"teacher_turn": turn})}))  # type: ignore[arg-type]
    np.testing.assert_array_equal(extension._turns(update).argmax(axis=-1), [[0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ((), "teachers must be given with distill_coef > 0"),
        (
            [linear_teacher(np.zeros((2, 2)), np.zeros(2), "camera")],
            "must be one of privileged_state, state, .*'camera'",
        ),
        ([linear_teacher(np.zeros((3, 2)), np.zeros(2), "state")], r"observation size of teacher 0 \(walk\) must be 1"),
        ([linear_teacher(np.zeros((1, 1)), np.zeros(1), "state")], "action size of teacher 0 .* must be 2.* got 1"),
        ([linear_teacher(np.zeros((1, 4)), np.zeros(4), "state", chunk=2)], "chunk of teacher 0 .* must be 1"),
        ([linear_teacher(np.zeros((1, 2)), np.zeros(2), "state", action_repeat=2)], "action_repeat of teacher 0"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_in_one_sentence(teachers, message):
    with pytest.raises(ValueError, match=message):
        Trainer(WalkEnv(), config_of(), tuple(teachers))


def test_a_student_cannot_see_what_only_its_teachers_see():
    seen = EnvConfig(num_envs=B, observations="teacher_0")
    with pytest.raises(ValueError, match="must be one of privileged_state, state, those of walk, got 'teacher_0'"):
        Trainer(WalkEnv(), replace(config_of(), env_options=seen), teachers())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_options": EnvConfig(chunk=2)}, "chunk must be 1 to distill"),
        ({"method": sized((8,), "genpo++", base="learned-scale")}, "base must be standard or correlated to distill"),
        ({"method": sized((8,), "fpo", initial_std=0.5)}, "initial noise must be 1, .* to distill a flow, got 0.5"),
        ({"method": sized((8,), "dppo")}, "initial noise must be 1, .* got 0.707.*; set initial_std=1, and noise_std"),
    ],
)
def test_a_student_that_the_loss_cannot_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Distillation.of(replace(config_of(), **changes))


def test_teachers_are_copied_into_the_folder_and_a_damaged_copy_is_refused(tmp_path):
    write_teachers(tmp_path, [Teacher(teachers()[0], "runs/a"), Teacher(teachers()[1], "runs/b")])
    first, second = read_teachers(tmp_path)
    assert (first.source, second.source) == ("runs/a", "runs/b") and first.policy.spec == teachers()[0].spec
    obs = jnp.arange(1.0, 5)
    np.testing.assert_array_equal(first.policy(obs), teachers()[0](obs))
    np.testing.assert_allclose(
        first.policy(obs), LOW + (obs @ KERNELS[0] + BIASES[0] + 1) / 2 * (HIGH - LOW), rtol=1e-5
    )
    file = tmp_path / "teacher-1.npz"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"teacher-1.npz must be the file that was written"):
        read_teachers(tmp_path)


def test_teachers_without_a_weight_are_refused_and_so_are_new_teachers_on_resume(tmp_path):
    for coef, sources in ((0.0, ["runs/a"]), (1.0, [])):
        with pytest.raises(ValueError, match="teachers must be given with distill_coef > 0, and only then"):
            teachers_of(None, False, config_of(distill_coef=coef), sources)
    with pytest.raises(ValueError, match="left out with resume=True"):
        teachers_of(tmp_path, True, config_of(), ["runs/a"])


def written(folder, config):
    """Write the settings of a run that was never trained; return the folder."""
    write_config(folder, config, "cpu", 1)
    return folder


def parsed(*arguments):
    return DISTILL.parse(list(map(str, arguments)), "genpo-jax distill").config


def test_a_student_keeps_the_environment_of_its_teacher_except_for_the_options_that_are_given(tmp_path):
    seen = EnvConfig(
        observations="privileged_state", action_repeat=2, obs_noise=0.5, push=("a=1",), physics=("mass=2",)
    )
    run = written(tmp_path / "teacher", replace(config_of(), env="avoid", env_options=seen, num_seeds=1, seed=7))
    kept = parsed("--from", run, "--run-dir", "x").env_options
    assert (kept.obs_noise, kept.push, kept.physics, kept.action_repeat) == (0.5, ("a=1",), ("mass=2",), 2)
    assert (kept.observations, kept.history, kept.num_envs) == ("state", 1, 64)
    robot = ["--obs-noise", "0", "--push", "--physics", "mass=1:3", "--history", "8", "--obs-delay", "0:2"]
    update = [
        "--method",
        "gaussian:learning_rate=0.0005",
        "--distill-labels",
        "zero",
        "--num-envs",
        "32",
        "--seed",
        "3",
    ]
    config = parsed("--from", run, run, "--run-dir", "x", *robot, *update)
    given = config.env_options
    assert (given.obs_noise, given.push, given.physics, given.obs_delay) == (0.0, (), ("mass=1:3",), "0:2")
    assert (given.history, given.num_envs, given.action_repeat, config.seed) == (8, 32, 2, 3)
    assert (config.ppo.distill_labels, config.ppo.learning_rate, config.ppo.distill_std) == ("zero", 0.0005, STD)
    assert config.method.name == "gaussian" and parsed("--from", run, "--run-dir", "x").ppo.distill_std is None


def test_another_environment_has_its_own_backend_and_a_resumed_distillation_its_saved_settings(tmp_path):
    run = written(tmp_path / "teacher", replace(config_of(), env="hopper", backend="mjx"))
    assert parsed("--from", run, "--run-dir", "x").backend == "mjx"
    other = parsed("--from", run, "--run-dir", "x", "--env", "walker2d")
    assert (other.env, other.backend) == ("walker2d", None)
    saved = config_of()
    student = written(tmp_path / "student", saved)
    assert parsed("--run-dir", student, "--resume") == saved
    assert parsed("--run-dir", student, "--resume", "--num-timesteps", 9).num_timesteps == 9
    with pytest.raises(ValueError, match="method must be gaussian, as in the run to resume, got 'fpo'"):
        parsed("--run-dir", student, "--resume", "--method", "fpo")


def test_a_run_of_several_seeds_names_a_folder_to_type(tmp_path):
    run = written(tmp_path / "run", replace(config_of(), seed=4, num_seeds=2))
    with pytest.raises(ValueError, match=rf"holds the seeds 4, 5; choose one, such as {run}/seed-4"):
        parsed("--from", run, "--run-dir", "x")


def test_fine_tuning_after_a_distillation_learns_from_reward_alone():
    teacher = replace(config_of(), env="avoid", env_options=EnvConfig(history=2, action_repeat=2))
    config = distill_config(teacher, "genpo++", {"env_options": {"history": 8}}, 2)
    assert (config.ppo.policy_coef, config.ppo.distill_coef, config.method.base) == (0.0, 1.0, "standard")
    tuned = finetune_config(config, "genpo++")
    assert (tuned.ppo.policy_coef, tuned.ppo.distill_coef, tuned.env_options.history) == (1.0, 0.0, 8)


TINY = {
    "updates_per_chunk": 1,
    "num_evals": 1,
    "eval_envs": 4,
    "method": {"hidden_sizes": (8,)},
    "networks": {"value_sizes": (8,)},
    "env_options": {"num_envs": 8, "history": 2},
    "ppo": {"unroll": 8, "num_epochs": 1, "num_minibatches": 1},
}
STEPS = 64


def evaluation_of(run, step):
    """Return the evaluation by which the checkpoint of a step is ranked; None: it is not ranked."""
    return read_evaluation(run.run_dir / CHECKPOINTS / str(step)) or None


def test_a_student_is_resumed_used_and_exported_without_the_folder_of_its_teacher(tmp_path, capsys):
    config = replace(
        config_of(policy_coef=1.0, distill_coef=0.0, distill_std=None),
        env="probes:privileged_target",
        num_evals=0,
        num_timesteps=1,
        env_options=EnvConfig(num_envs=B, observations="privileged_state"),
    )
    teacher = genpo_jax.train(config.env, config, tmp_path / "teacher", progress=False)
    assert teacher.policy.spec.obs_name == "privileged_state" and teacher.policy.spec.obs_size == 2
    assert evaluate(tmp_path / "teacher", episodes=2)["noise"].keys() == {"zero", "random"}

    def student(name, chunks):
        settings = TINY | {"num_timesteps": chunks * STEPS}
        return genpo_jax.distill(
            tmp_path / "teacher", tmp_path / name, method="gaussian", settings=settings, progress=chunks == 3
        )

    straight = student("straight", 3)
    shown = capsys.readouterr().out
    assert "distill loss" in shown and "KL" not in shown
    # The untrained student was evaluated too.
    assert [line["env_steps"] for line in read_metrics(straight.run_dir / METRICS_FILE)][0] == 0
    assert evaluation_of(straight, 0) is None and evaluation_of(straight, 3 * STEPS) is not None
    student("resumed", 1)
    shutil.rmtree(tmp_path / "teacher")
    saved = saved_config(tmp_path / "resumed")
    full = replace(saved, num_timesteps=3 * STEPS)
    resumed = genpo_jax.train(None, full, tmp_path / "resumed", resume=True, progress=False)
    for one, other in zip(raw_leaves(straight._state), raw_leaves(resumed._state), strict=True):
        np.testing.assert_array_equal(one, other)
    spec = read_policy_spec(tmp_path / "resumed")
    assert (spec["obs_name"], spec["obs_size"], spec["history"]) == ("state", 2, 2)
    policy = genpo_jax.load(tmp_path / "resumed")
    np.testing.assert_array_equal(policy(jnp.array([0.1, 0.2])), resumed.policy(jnp.array([0.1, 0.2])))
    assert evaluate(tmp_path / "resumed", episodes=2)["noise"].keys() == {"zero", "random"}
    from genpo_jax.export.exporter import export

    assert (export(tmp_path / "resumed", tmp_path / "exported") / "policy.json").exists()
    tuned = replace(finetune_config(saved, "gaussian", TINY), num_timesteps=STEPS)
    tuned = replace(tuned, env_options=replace(tuned.env_options, reward="task"))
    run = genpo_jax.train(tuned.env, tuned, tmp_path / "tuned", start=policy, progress=False)
    assert run.policy.spec.history == 2 and not (tmp_path / "tuned" / "teachers.json").exists()


def test_a_policy_with_a_privileged_observation_is_played_collected_and_deployed(tmp_path):
    from genpo_jax.cli import main
    from genpo_jax.data import read
    from genpo_jax.export.deploy import deploy
    from genpo_jax.export.exporter import export
    from genpo_jax.gymnasium_adapter import GymnasiumEnv, policy_for

    config = replace(
        config_of(policy_coef=1.0, distill_coef=0.0, distill_std=None),
        env="probes:privileged_target",
        num_evals=0,
        num_timesteps=1,
        env_options=EnvConfig(num_envs=B, observations="privileged_state", history=2),
    )
    run = genpo_jax.train(config.env, config, tmp_path / "run", progress=False)
    env = genpo_jax.make_env(config.env)
    episodes = EpisodeEnv.of(env, run.policy.spec.seen(config.env_options))
    assert episodes.env.observation_sizes == {"state": 4, "privileged_state": 2}
    main(["collect", str(tmp_path / "run"), "--trust", "--episodes", "2", "--data", str(tmp_path / "d.hdf5")])
    assert read(tmp_path / "d.hdf5").obs_size == env.observation_sizes["state"]
    folder = export(tmp_path / "run", tmp_path / "exported")
    assert "`privileged_state`" in (folder / "README.md").read_text()
    assert deploy(folder, episodes=1, trust=True).returns.shape == (1,)
    simulator = GymnasiumEnv(env)
    obs, _ = simulator.reset(seed=0)
    act = policy_for(run.policy, simulator)
    np.testing.assert_allclose(act(obs), run.policy(np.tile(obs["privileged_state"], 2)), atol=1e-6)
