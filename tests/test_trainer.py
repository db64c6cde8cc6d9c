import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import ClockEnv, ConstantEnv, TargetEnv
from settings import networks, raw_leaves, sized

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs.mirror import Mirror, signs
from genpo_jax.methods import METHODS
from genpo_jax.training import ppo
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.extensions import EXTENSIONS, Distillation
from genpo_jax.training.trainer import Trainer


def make_trainer(env, method="genpo++", updates=4, histories=None, **update):
    options = {
        "unroll": 8,
        "num_minibatches": 2,
        "num_epochs": 4,
        "learning_rate": 1e-3,
        "max_learning_rate": 1e-2,
    } | update
    config = Config(
        env="probe",
        updates_per_chunk=updates,
        env_options=EnvConfig(num_envs=64, squash="clip"),
        method=sized((32,), method, **({} if histories is None else {"num_histories": histories})),
        networks=networks((32,)),
        ppo=PPOConfig(**options),
    )
    return Trainer(env, config)


def train(trainer, chunks, seed=0):
    """Return the state and the metrics of one seed, without the axis of seeds."""
    state, history = trainer.init([seed]), []
    for _ in range(chunks):
        state, metrics = trainer.chunk(state)
        history.append(jax.device_get(first_seed(metrics)))
    return first_seed(state), history


def first_seed(tree):
    return jax.tree.map(lambda x: x[0], tree)


@pytest.fixture(scope="module")
def trainer():
    """A trainer with default settings that several tests share, so that its program is traced once."""
    return make_trainer(TargetEnv())


@pytest.mark.ci
@pytest.mark.parametrize("method", METHODS)
def test_a_policy_learns_an_action_that_follows_the_observation(method):
    # The published fpo++ uses small steps. So must fpo: with larger steps its actions drift to the bounds.
    options = METHODS[method].published_update | ({"learning_rate": 2e-3} if method == "fpo++" else {})
    trainer = make_trainer(TargetEnv(), method, **options)
    state, history = train(trainer, {"fpo": 50, "fpo++": 40, "policyflow": 50}.get(method, 15))
    x = jnp.linspace(-1, 1, 21)[:, None]
    action = trainer.algorithm.make_agent(state.learner.params).zero_noise_action(
        trainer.algorithm.normalize(state, {"state": x})
    )
    assert history[0]["train/reward"] < -0.3
    assert history[-1]["train/reward"] > -0.12
    np.testing.assert_allclose(action, x / 2, atol=0.2)


@pytest.mark.ci
@pytest.mark.parametrize(("terminates", "expected"), [(False, 1 / (1 - 0.5)), (True, 1.0)])
def test_the_value_bootstraps_from_a_time_limit_but_not_from_a_termination(terminates, expected):
    trainer = make_trainer(
        ConstantEnv(terminates),
        gamma=0.5,
        normalize_rewards=False,
        value_clip=None,
        value_learning_rate=1e-2,
    )
    state, _ = train(trainer, 15)
    value = trainer.algorithm.make_agent(state.learner.params).value_of(
        trainer.algorithm.normalize(state, {"state": jnp.zeros((1, 1))})
    )
    np.testing.assert_allclose(value, expected, rtol=0.05)


@pytest.mark.parametrize(
    ("method", "histories"),
    [("genpo++", 1), *(pytest.param(*case, marks=pytest.mark.ci) for case in (("gaussian", None), ("genpo++", 4)))],
)
def test_the_ratio_is_one_on_the_first_minibatch_of_every_update(method, histories):
    _, history = train(make_trainer(TargetEnv(), method, histories=histories, learning_rate=1e-2), 5)
    assert max(metrics["train/first_ratio_error"] for metrics in history) <= 1e-4
    # The error is measured, not zero by construction: the ratios of later minibatches differ from 1.
    assert history[-1]["train/kl"] > 1e-4
    assert ("train/history_ess" in history[-1]) == (histories == 4)


def test_a_chunk_compiles_once_and_donates_its_state(trainer):
    state = trainer.init([0])
    after, _ = trainer.chunk(state)
    compiled = trainer.program._cache_size()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.learner.params))
    for _ in range(3):
        after, _ = trainer.chunk(after)
    assert trainer.program._cache_size() == compiled
    assert after.num_updates.tolist() == [16]


# A second value for every number of the update, different enough to change the result within a few updates.
NUMBERS = {
    "learning_rate": 2e-3,
    "value_learning_rate": 1e-4,
    "target_kl": 10.0,
    "final_kl": 1e6,
    "min_learning_rate": 1e-3,
    "max_learning_rate": 1e-3,
    "clip_range": 0.01,
    "value_clip": 0.01,
    "gamma": 0.5,
    "final_gamma": 0.1,
    "gae_lambda": 0.5,
    "policy_coef": 0.1,
    "value_coef": 0.1,
    "max_grad_norm": 1e-6,
    "Entropy.coef": 0.1,
    "InitialKL.coef": 100.0,
    "InitialKL.final_coef": 100.0,
    "Cloning.coef": 100.0,
    "ValueWarmup.num_updates": 0.0,
}


@pytest.fixture(scope="module")
def trainer_of_numbers():
    small = {"target_kl": 1e-6, "final_kl": 1e-6, "value_clip": 1.0, "final_gamma": 0.9}
    small |= {"initial_kl_coef": 1e-3, "final_initial_kl_coef": 1e-3, "bc_coef": 1e-3, "entropy_coef": 1e-3}
    small |= {"value_warmup": 1}
    return make_trainer(TargetEnv(), updates=3, unroll=4, **small)


def changed(hyper, name, number):
    """Return the hyperparameters with one number changed, by its name in `NUMBERS`."""
    kind, _, field = name.rpartition(".")
    if not kind:
        return hyper.replace(**{field: jnp.float32(number)})
    extensions = (
        e.replace(**{field: jnp.float32(number)}) if type(e).__name__ == kind else e for e in hyper.extensions
    )
    return hyper.replace(extensions=tuple(extensions))


def numbers_of(hyper):
    """Return the names of all numbers that a program reads."""
    # A distillation needs teachers; `test_distillation` recomputes its numbers.
    own = {f.name for f in dataclasses.fields(hyper) if f.metadata.get("pytree_node", True)}
    extensions = [extension for extension in EXTENSIONS if extension is not Distillation]
    of_extensions = {f"{e.__name__}.{f.name}" for e in extensions for f in dataclasses.fields(e)}
    return (own | of_extensions) - {"last_update", "extensions", "Entropy.action_coef", "Entropy.final_action_coef"}


def test_the_table_of_numbers_is_complete():
    assert numbers_of(ppo.Hyperparameters.of(Config())) == NUMBERS.keys()


@pytest.mark.ci
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_the_update_has_an_effect_without_recompilation(trainer_of_numbers, name):
    trainer, keys = trainer_of_numbers, jnp.stack([jax.random.key(0)])

    def parameters(hyper):
        state, _ = trainer.program(trainer.init_program(keys, hyper), hyper)
        return jax.tree.leaves(state.learner.params)

    # The learning rate falls to its lower bound. A high target makes it rise to the upper bound instead.
    hyper = changed(trainer.hyper, "target_kl", 10.0) if name == "max_learning_rate" else trainer.hyper
    leaves = zip(parameters(hyper), parameters(changed(hyper, name, NUMBERS[name])), strict=True)
    assert not all(np.array_equal(a, b) for a, b in leaves)
    assert trainer.program._cache_size() == trainer.init_program._cache_size() == 1


@pytest.mark.ci
def test_a_chunk_of_four_updates_equals_four_updates(trainer):
    state, _ = train(trainer, 1)
    other, _ = train(make_trainer(TargetEnv(), updates=1), 4)
    chex.assert_trees_all_close(state.learner.params, other.learner.params, rtol=1e-4, atol=1e-5)


def test_the_same_seed_repeats_a_run_and_another_seed_does_not(trainer):
    runs = [train(trainer, 2, seed)[1][-1]["train/reward"] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_metrics_are_finite_scalars_and_episodes_are_counted(trainer):
    _, history = train(trainer, 2)
    for name, value in history[-1].items():
        assert value.shape == (), name
        assert np.isfinite(value), name
    # The sum over the 8 steps of an episode of numbers in [-1/2, 1/2].
    assert 0 < abs(history[1]["train/env/target"]) < 4
    # 64 environments, 4 updates of 8 steps, a time limit of 8. First episodes count only if the stagger leaves them
    # their full 8 steps.
    assert history[1]["train/episodes"] == 64 * 4
    assert 64 * 3 <= history[0]["train/episodes"] < 64 * 4
    assert history[0]["train/episode_length"] == history[1]["train/episode_length"] == 8


@pytest.mark.ci
def test_non_finite_physics_is_counted_and_parameters_stay_finite():
    state, history = train(make_trainer(TargetEnv(nan_at=3)), 2)
    # Every environment is non-finite at its fourth step, unless its staggered first episode ends before.
    assert history[1]["train/nan_resets"] == 64 * 2 * 4
    assert history[0]["train/skipped_gradients"] == 0
    chex.assert_tree_all_finite(state.learner.params)
    assert jnp.isfinite(state.reward_scale.moments.std)


@pytest.mark.ci
def test_only_the_critic_observes_the_privileged_state():
    trainer = make_trainer(TargetEnv(privileged=True))
    agent = trainer.algorithm.make_agent(first_seed(trainer.init([0])).learner.params)
    obs = {"state": jnp.ones((1, 1)), "privileged_state": jnp.ones((1, 2))}
    other = obs | {"privileged_state": -jnp.ones((1, 2))}
    assert agent.value_of(obs) != agent.value_of(other)
    np.testing.assert_array_equal(agent.zero_noise_action(obs), agent.zero_noise_action(other))
    _, history = train(trainer, 1)
    assert np.isfinite(history[0]["train/value_loss"])


def test_an_environment_without_a_state_observation_is_refused():
    env = TargetEnv()
    env.observation_sizes = {"pixels": 4}
    with pytest.raises(ValueError, match="state.*pixels"):
        make_trainer(env)


@pytest.mark.ci
def test_seeds_trained_in_one_program_equal_single_runs(trainer):
    state = trainer.init([0, 1, 2])
    for _ in range(2):
        state, metrics = trainer.chunk(state)
    assert metrics["train/reward"].shape == (3,)
    for seed in range(3):
        single, history = train(trainer, 2, seed)
        params = jax.tree.map(lambda x, seed=seed: x[seed], state.learner.params)
        chex.assert_trees_all_close(params, single.learner.params, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(metrics["train/reward"][seed], history[-1]["train/reward"], rtol=1e-4)


def test_single_seeds_can_be_selected_and_joined(trainer):
    state = trainer.init([4, 5])
    parts = [trainer.select(state, i) for i in range(2)]
    second = jax.tree.map(lambda x: x[1:], state)
    for tree, expected in ((parts[1], second), (trainer.join(parts), state)):
        for a, b in zip(raw_leaves(tree), raw_leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_rollout_keeps_the_final_observation_of_each_of_several_time_limits():
    trainer = make_trainer(ClockEnv())
    state = first_seed(trainer.init([0]))
    collect = jax.jit(trainer.algorithm.collect)
    _, _, rollout = collect(state)
    assert rollout.final_obs["state"].shape == (3, 64, 1), "8 steps can reach a limit of 3 three times"
    # The first limit is staggered. At every limit the observation is the number of steps of the episode.
    final = jnp.take_along_axis(rollout.final_obs["state"][..., 0], rollout.final_index, axis=0)
    limits = np.asarray(rollout.truncated)
    assert (limits.sum(axis=0) >= 2).all()
    assert set(np.asarray(state.episodes.time_limit).tolist()) == {1, 2, 3}
    np.testing.assert_array_equal(np.asarray(final)[limits], np.asarray(rollout.episode_length)[limits])


def test_evaluation_reports_the_first_whole_episode_of_each_environment():
    trainer = make_trainer(ConstantEnv())
    state = trainer.init([0])
    evaluator = Evaluator(trainer, 3)
    metrics = jax.device_get(evaluator.metrics(state, [1]))
    # Reward 1 per step up to the time limit of 4. Later steps do not count.
    assert metrics["eval/return_random"] == metrics["eval/return_zero"] == 4.0
    assert metrics["eval/length_random"] == 4
    assert metrics["eval/return_zero_std"] == 0
    assert metrics["eval/env/steps"] == metrics["eval/env_zero/steps"] == 4.0


def test_evaluation_reports_deterministic_and_sampled_actions_separately(trainer):
    state = trainer.init([0])
    for _ in range(10):
        state, _ = trainer.chunk(state)
    metrics = Evaluator(trainer, 64).metrics(state, [1])
    assert metrics["eval/return_zero"] > metrics["eval/return_random"]


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in ("genpo++", "gaussian") else pytest.mark.ci) for name in METHODS],
)
def test_a_chunk_keeps_the_types_of_its_state_with_x64_enabled(method):
    with jax.enable_x64(True):
        trainer = make_trainer(TargetEnv(), method, updates=1)
        state = trainer.abstract_state(1)
        assert state.reward_scale.moments.mean.dtype == jnp.float64
        after, _ = jax.eval_shape(trainer.program, state, trainer.hyper)
    types = [[leaf.dtype for leaf in jax.tree.leaves(tree)] for tree in (state, after)]
    assert types[0] == types[1]


class MirroredEnv(TargetEnv):
    """The target environment with its symmetry: negated observations and actions."""

    mirror = Mirror({"state": signs(-1)}, signs(-1))


@pytest.mark.ci
def test_mirror_images_train_the_policy_and_keep_the_statistics_symmetric():
    trainer = make_trainer(MirroredEnv(), mirror=True)
    state, history = train(trainer, 10)
    assert max(float(metrics["train/first_ratio_error"]) for metrics in history) < 1e-4
    moments = state.obs_moments["state"]
    # 10 chunks of 4 updates of 8 steps of 64 environments, and their images, with which the mean is zero.
    assert moments.count == 10 * 4 * 8 * 64 * 2
    np.testing.assert_allclose(moments.mean, 0.0, atol=1e-5)
    assert history[0]["train/reward"] < -0.3
    assert history[-1]["train/reward"] > -0.12


def test_mirror_images_of_an_environment_without_a_symmetry_are_refused():
    with pytest.raises(ValueError, match="attribute mirror of target"):
        make_trainer(TargetEnv(), mirror=True)


@pytest.mark.parametrize("setting", [{"base": "correlated"}, {"solver": "euler-start", "base": "standard"}])
def test_mirror_images_of_iterates_that_stay_close_are_refused(setting):
    config = Config(env="probe", method=sized((8,), **setting), ppo=PPOConfig(mirror=True))
    with pytest.raises(ValueError, match="mirror must be False with .*, whose images have weights of 0"):
        Trainer(MirroredEnv(), config)


def test_compiler_options_do_not_change_the_abstract_state():
    trainer = make_trainer(TargetEnv())
    other = Trainer(TargetEnv(), dataclasses.replace(trainer.config, fusion_emitters=False))
    assert jax.tree.structure(other.abstract_state(2)) == jax.tree.structure(trainer.abstract_state(2))
