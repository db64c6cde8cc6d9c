"""Whole updates and an evaluation, recomputed in plain numpy on an environment without symmetries.

Episodes end at different times, by termination, time limit and staggered start. Observations are not centered, have
several scales, and contain the whole state. The numpy code calls only the two networks of the package.
"""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import networks, sized

from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.training import ppo
from genpo_jax.training.algorithm import evaluation_key
from genpo_jax.training.evaluation import Evaluator
from genpo_jax.training.trainer import Trainer

T, B, LIMIT, UPDATES = 14, 6, 6, 4
GAMMA, LAMBDA, CLIP, VALUE_CLIP, ENTROPY, VALUE = 0.9, 0.8, 0.05, 0.1, 0.03, 0.7
KL, RATES, BONUS = (0.02, 0.002), (1e-5, 1e-1), (5.0, 1.0)


class UnevenEnv:
    """A number x that actions push; an episode terminates after 2, 3, 4 or 9 steps. 9 is beyond the time limit."""

    name = "uneven"
    action_size = 2
    observation_sizes = {"state": 3}
    default_episode_length = LIMIT

    def observe(self, x, age, life):
        return {"state": jnp.stack([100 + 5 * x, 0.02 * age, 1000 - 100 * life])}

    def reset(self, key):
        x_key, life_key = jax.random.split(key)
        state = jax.random.normal(x_key), jnp.float32(0), jax.random.choice(life_key, jnp.array([2.0, 3.0, 4.0, 9.0]))
        return state, self.observe(*state)

    def step(self, state, action):
        x, age, life = state
        x, age = 0.8 * x + action[0], age + 1
        reward = 30 + 10 * x - 3 * age + 5 * action[1]
        return (x, age, life), self.observe(x, age, life), reward, age >= life, {}


def np_step(obs, action):
    """Return the next observations `[B, 3]`, rewards and terminations of `UnevenEnv`."""
    x, age, life = (obs[:, 0] - 100) / 5, obs[:, 1] / 0.02, (1000 - obs[:, 2]) / 100
    push = np.tanh(action)
    x, age = 0.8 * x + push[:, 0], age + 1
    obs = np.stack([100 + 5 * x, 0.02 * age, 1000 - 100 * life], axis=-1)
    return obs, 30 + 10 * x - 3 * age + 5 * push[:, 1], age > life - 0.5


def np_normal(deviation, log_std):
    return (-0.5 * (deviation / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64) if x.dtype == jnp.float32 else np.asarray(x), tree)


class Networks:
    """The two networks with given parameters, and the mean and standard deviation of all earlier observations."""

    def __init__(self, algorithm, params, seen):
        self.agent = algorithm.make_agent(params)
        self.log_std = double(self.agent.policy.log_std[...])
        seen = np.concatenate(seen).reshape(-1, 3) if seen else np.array([[-1.0] * 3, [1.0] * 3])
        self.center, self.spread = seen.mean(0), seen.std(0)

    def standardized(self, obs):
        return np.clip((obs - self.center) / self.spread, -10, 10)

    def mean(self, standardized):
        return double(self.agent.zero_noise_action({"state": jnp.asarray(standardized, jnp.float32)}))

    def value(self, standardized):
        return double(self.agent.value_of({"state": jnp.asarray(standardized, jnp.float32)}))


def played_updates(trainer, algorithm, seed, updates):
    """Return the states before and after each update of a seed, and rollout, batch and metrics of each update."""
    improve = ppo.improve

    def improve_and_record(learner, batch, *rest):
        learner, metrics = improve(learner, batch, *rest)
        return learner, metrics | {"batch": batch}

    state = jax.tree.map(lambda x: x[0], trainer.init([seed]))
    states, rollouts, metrics = [state], [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "improve", improve_and_record)
        update, collect = jax.jit(algorithm.update), jax.jit(algorithm.collect)
        for _ in range(updates):
            rollouts.append(double(collect(state)[2]))
            state, recorded = update(state, trainer.hyper)
            states.append(state)
            metrics.append(recorded)
    return states, rollouts, [double(recorded.pop("batch")) for recorded in metrics], metrics


@pytest.fixture(scope="module")
def run():
    """States before and after each of the updates, with their rollouts, batches, metrics and keys of the shuffles."""
    config = Config(
        env="uneven",
        num_timesteps=UPDATES * T * B,
        updates_per_chunk=1,
        env_options=EnvConfig(num_envs=B),
        method=sized((8,), "gaussian", action_entropy_coef=BONUS[0], final_action_entropy_coef=BONUS[1]),
        networks=networks((8,)),
        ppo=PPOConfig(
            unroll=T,
            num_epochs=3,
            num_minibatches=2,
            learning_rate=3e-2,
            min_learning_rate=RATES[0],
            max_learning_rate=RATES[1],
            target_kl=KL[0],
            final_kl=KL[1],
            clip_range=CLIP,
            value_clip=VALUE_CLIP,
            gamma=GAMMA,
            gae_lambda=LAMBDA,
            entropy_coef=ENTROPY,
            value_coef=VALUE,
        ),
    )
    trainer, shuffle_keys = Trainer(UnevenEnv(), config), []
    split = trainer.algorithm.shuffle

    def shuffle(batch, keys):
        jax.debug.callback(lambda data: shuffle_keys.append(tuple(data.ravel().tolist())), jax.random.key_data(keys))
        return split(batch, keys)

    algorithm = replace(trainer.algorithm, shuffle=shuffle)
    states, rollouts, batches, metrics = played_updates(trainer, algorithm, 3, UPDATES)
    jax.effects_barrier()
    seen = [rollout.obs["state"] for rollout in rollouts]
    nets = [Networks(algorithm, state.learner.params, seen[:n]) for n, state in enumerate(states)]
    return SimpleNamespace(
        trainer=trainer,
        states=states,
        rollouts=rollouts,
        batches=batches,
        metrics=metrics,
        nets=nets,
        shuffle_keys=shuffle_keys,
        replayed=[replay(run_so_far) for run_so_far in prefixes(states, rollouts, nets)],
    )


def prefixes(states, rollouts, nets):
    return [(states[: n + 1], rollouts[: n + 1], nets[: n + 1]) for n in range(len(rollouts))]


def replay(run_so_far):
    """Return the episode ends, next observations and rewards of the last rollout, and the reward scale after it."""
    states, rollouts, nets = run_so_far
    age, limit = np.zeros(B), np.asarray(states[0].episodes.time_limit)
    discounted, totals = np.zeros(B), []
    for n, (rollout, net) in enumerate(zip(rollouts, nets, strict=True)):
        log_prob = np_normal(rollout.record.action - net.mean(net.standardized(rollout.obs["state"])), net.log_std)
        slope = np.log(1 - np.tanh(rollout.record.action) ** 2).sum(-1)
        coef = BONUS[0] + n / UPDATES * (BONUS[1] - BONUS[0])
        out = {name: [] for name in ("obs", "reward", "terminated", "truncated", "shaped")}
        for t in range(T):
            obs, reward, terminated = np_step(rollout.obs["state"][t], rollout.record.action[t])
            age += 1
            truncated = ~terminated & (age >= limit)
            ended = terminated | truncated
            age, limit = np.where(ended, 0, age), np.where(ended, LIMIT, limit)
            shaped = reward - coef * (log_prob[t] - slope[t])
            discounted = GAMMA * discounted + shaped
            totals.append(discounted)
            discounted = np.where(ended, 0.0, discounted)
            for name, value in zip(out, (obs, reward, terminated, truncated, shaped), strict=True):
                out[name].append(value)
    out = {name: np.stack(values) for name, values in out.items()}
    return SimpleNamespace(**out, scale=np.std(totals), log_prob=log_prob)


def grouped(x):
    """Reshape `[T, B, ...]` to the groups `[2, T * 3, ...]` from which minibatches are drawn."""
    return np.stack([x[:, :3].reshape(-1, *x.shape[2:]), x[:, 3:].reshape(-1, *x.shape[2:])])


@pytest.fixture(params=range(UPDATES))
def nth(request):
    return request.param


def test_episodes_end_and_continue_at_the_same_steps_as_in_numpy(run, nth):
    rollout, expected = run.rollouts[nth], run.replayed[nth]
    np.testing.assert_array_equal(rollout.terminated, expected.terminated)
    np.testing.assert_array_equal(rollout.truncated, expected.truncated)
    np.testing.assert_allclose(rollout.reward, expected.reward, rtol=1e-4, atol=1e-3)
    following = rollout.obs["state"][1:]
    continues = ~(expected.terminated | expected.truncated)[:-1]
    np.testing.assert_allclose(following[continues], expected.obs[:-1][continues], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(following[~continues][:, 1], 0.0)
    assert expected.terminated.any(axis=0).all() or expected.truncated.any(), "too few episodes end"


def test_the_environment_has_terminations_truncations_and_different_episode_ends(run):
    ends = np.concatenate([r.terminated | r.truncated for r in run.replayed])
    assert len({tuple(column) for column in ends.T}) == B, "no two environments end together"
    assert sum(r.truncated.sum() for r in run.replayed) >= 10
    assert sum(r.terminated.sum() for r in run.replayed) >= 10


def test_observations_are_standardized_with_statistics_of_earlier_updates(run, nth):
    standardized = run.nets[nth].standardized(run.rollouts[nth].obs["state"])
    np.testing.assert_allclose(run.batches[nth].obs["state"], grouped(standardized), rtol=1e-3, atol=2e-3)


def test_values_advantages_and_targets_equal_numpy(run, nth):
    rollout, net, expected = run.rollouts[nth], run.nets[nth], run.replayed[nth]
    value = net.value(net.standardized(rollout.obs["state"]))
    # The values of the real observations after each step, also at the end of an episode or of the rollout.
    next_value = net.value(net.standardized(expected.obs))
    reward = expected.shaped / expected.scale
    advantage, later = np.zeros((T, B)), np.zeros(B)
    for t in reversed(range(T)):
        delta = reward[t] + GAMMA * np.where(expected.terminated[t], 0, next_value[t]) - value[t]
        later = delta + GAMMA * LAMBDA * np.where(expected.terminated[t] | expected.truncated[t], 0, later)
        advantage[t] = later
    batch = run.batches[nth]
    np.testing.assert_allclose(batch.value, grouped(value), atol=2e-3)
    np.testing.assert_allclose(batch.value_target, grouped(advantage + value), rtol=1e-3, atol=5e-3)
    standard = (advantage - advantage.mean()) / advantage.std()
    np.testing.assert_allclose(batch.advantage, grouped(standard), rtol=1e-3, atol=1e-2)
    assert abs(advantage.std() - 1) > 0.05, "otherwise a division by the variance would pass"


def test_the_loss_of_a_minibatch_equals_numpy(run, nth):
    rows = np.s_[:, 5:25]
    batch, net, trainer = run.batches[nth], run.nets[nth + 1], run.trainer
    minibatch = jax.tree.map(lambda x: jnp.asarray(x[rows], jnp.float32), batch)
    agent = trainer.algorithm.make_agent(run.states[nth + 1].learner.params)
    total, metrics = ppo.loss(agent, minibatch, trainer.hyper)

    obs, action, advantage = batch.obs["state"][rows], batch.record.action[rows], batch.advantage[rows]
    log_ratio = np_normal(action - net.mean(obs), net.log_std) - grouped(run.replayed[nth].log_prob)[rows]
    ratio = np.exp(log_ratio)
    policy_loss = -np.minimum(ratio * advantage, np.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage).mean()
    value, old, target = net.value(obs), batch.value[rows], batch.value_target[rows]
    near = old + np.clip(value - old, -VALUE_CLIP, VALUE_CLIP)
    value_loss = 0.5 * np.maximum((value - target) ** 2, (near - target) ** 2).mean()
    entropy = (net.log_std + 0.5 * np.log(2 * np.pi * np.e)).sum()
    np.testing.assert_allclose(metrics["train/kl"], (ratio - 1 - log_ratio).mean(), rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(total, policy_loss + VALUE * value_loss - ENTROPY * entropy, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(metrics["train/clip_fraction"], (np.abs(ratio - 1) > CLIP).mean(), rtol=1e-6)
    assert metrics["train/clip_fraction"] > 0


def test_the_learning_rate_follows_a_target_that_falls_over_the_run(run, nth):
    before, after = (float(state.learner.learning_rate) for state in run.states[nth : nth + 2])
    target = KL[0] + nth / UPDATES * (KL[1] - KL[0])
    factor = min(np.sqrt(target / float(run.metrics[nth]["train/kl"])), 1.5)
    expected = np.clip(before * factor, *RATES)
    # A step that was undone has lowered the rate before.
    if run.metrics[nth]["train/braked"] == 0:
        np.testing.assert_allclose(after, expected, rtol=1e-4)
    else:
        assert after < expected


def test_all_actions_of_a_run_have_different_noise(run):
    noise = np.concatenate(
        [
            ((r.record.action - net.mean(net.standardized(r.obs["state"]))) / np.exp(net.log_std)).reshape(-1, 2)
            for r, net in zip(run.rollouts, run.nets, strict=False)
        ]
    )
    distance = np.abs(noise[:, None] - noise).max(-1) + np.eye(len(noise))
    assert distance.min() > 1e-3, "no two of 336 pairs of normal numbers are this close"
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 1], atol=0.15)


def test_all_epochs_of_all_updates_are_shuffled_with_different_keys(run):
    assert len(run.shuffle_keys) == len(set(run.shuffle_keys)) == UPDATES * 3


def test_evaluation_of_deterministic_actions_equals_numpy(run):
    state, net, env, half = run.states[-1], run.nets[-1], run.trainer.env, 16
    metrics = Evaluator(run.trainer, half).metrics(jax.tree.map(lambda x: x[None], state), [3])
    reset_key, _ = jax.random.split(evaluation_key(jax.random.key(3), state.num_updates))
    obs = double(env.init(jax.random.split(reset_key, 2 * half)).obs["state"])[half:]
    returns, lengths, alive = np.zeros(half), np.zeros(half), np.ones(half, bool)
    for _ in range(LIMIT):
        obs, reward, terminated = np_step(obs, net.mean(net.standardized(obs)))
        returns, lengths = returns + alive * reward, lengths + alive
        alive &= ~terminated
    assert len(set(lengths)) == 4
    np.testing.assert_allclose(metrics["eval/return_zero"][0], returns.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["eval/return_zero_std"][0], returns.std(), rtol=1e-4)
    np.testing.assert_allclose(metrics["eval/length_zero"][0], lengths.mean(), rtol=1e-6)


class ThereAndBackEnv:
    """Two steps: the reward is the action, then minus the action."""

    name = "there and back"
    action_size = 1
    observation_sizes = {"state": 1}
    default_episode_length = 2

    def reset(self, key):
        return jnp.float32(1), {"state": jnp.zeros(1)}

    def step(self, state, action):
        return -state, {"state": jnp.zeros(1)}, state * action[0], jnp.asarray(False), {}


@pytest.fixture(scope="module")
def back_and_forth():
    config = Config(
        env="there and back",
        env_options=EnvConfig(num_envs=2),
        method=sized((4,), "gaussian"),
        networks=networks((4,)),
        ppo=PPOConfig(unroll=2, num_minibatches=1),
    )
    trainer = Trainer(ThereAndBackEnv(), config)
    return trainer.init([0]), Evaluator(trainer, 8)


def test_steps_and_episodes_of_an_evaluation_have_different_noise(back_and_forth):
    state, evaluator = back_and_forth
    metrics = evaluator.metrics(state, [0])
    assert abs(metrics["eval/return_random"]) > 1e-3, "the same noise in both steps would cancel"
    assert metrics["eval/return_random_std"] > 0.1
    assert metrics["eval/return_zero"] == 0


def test_evaluations_have_different_noise_and_can_be_repeated(back_and_forth):
    state, evaluator = back_and_forth
    later = state.replace(num_updates=state.num_updates + 1)
    returns = [float(evaluator.metrics(s, [0])["eval/return_random"][0]) for s in (state, later, state)]
    assert returns[0] == returns[2] != returns[1]


def test_evaluation_and_training_share_no_keys():
    key = jax.random.key(5)
    training = {tuple(data.tolist()) for data in jax.random.key_data(jax.random.split(key, 3))}
    for n in range(5):
        assert tuple(jax.random.key_data(evaluation_key(key, jnp.int32(n))).tolist()) not in training
