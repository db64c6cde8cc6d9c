import json
from contextlib import nullcontext
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from probes import TargetEnv
from settings import raw_leaves

import genpo_jax
from genpo_jax.commands import collect, pretrain
from genpo_jax.commands import finetune as finetune_command
from genpo_jax.config import EnvConfig
from genpo_jax.envs import EpisodeEnv, make
from genpo_jax.envs.avoid import Avoid
from genpo_jax.imitation import finetune
from genpo_jax.imitation.config import PretrainConfig
from genpo_jax.imitation.fidelity import (
    Fidelity,
    _conditional_entropy,
    calls_of,
    energy_distance,
    fidelity,
    mode_entropy,
)
from genpo_jax.imitation.finetune import check_return, check_sampler, finetune_config
from genpo_jax.intervals import Interval
from genpo_jax.methods import DPPO, FPO, METHODS, Gaussian, GenPOPlusPlus, SAFlow
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.presets import apply, finetune_preset
from genpo_jax.runs.evaluate import evaluate_policy
from genpo_jax.runs.folder import saved_config, write_config
from genpo_jax.runs.metrics import read_metrics
from genpo_jax.training.trainer import Trainer
from genpo_jax.training.transfer import as_method, check_start, start_from, with_networks_of

SETTINGS = PretrainConfig(sizes=(8,), num_steps=4, chunk=2)
PRETRAINED = SETTINGS.run_config("avoid")


def flow_of(seed=0, method=None, obs_size=2, action_size=4):
    method = method or PRETRAINED.method
    spec = PolicySpec(
        "avoid", 0, obs_size, "state", action_size, "clip", method, PRETRAINED.networks, True, chunk=2, executed=2
    )
    params = nnx.state(spec.build(), nnx.Param)
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)
    moments = RunningMoments(jnp.float32(10), jnp.full(obs_size, 0.5), jnp.full(obs_size, 40.0))
    return TrainedPolicy(spec, params, moments)


def tiny(method, **ppo):
    config = finetune_preset(PRETRAINED, method)
    config = replace(config, method=with_networks_of(config.method, PRETRAINED.method))
    small = {"unroll": 4, "num_minibatches": 2, "num_epochs": 2} | ppo
    return apply(config, {"env_options": {"num_envs": 4}, "ppo": small, "updates_per_chunk": 1})


@pytest.mark.ci
def test_a_flow_in_another_method_acts_the_same_without_added_noise():
    policy = flow_of()
    obs = jax.random.normal(jax.random.key(1), (5, 2))
    noise = jax.random.normal(jax.random.key(2), (5, 5, 4)).at[:, 1:].set(0.0)
    chain = as_method(policy, DPPO(num_steps=4, noise_std=0.1))
    np.testing.assert_allclose(chain(obs, noise=noise), policy(obs, noise=noise[:, :1]), atol=1e-6)


@pytest.mark.ci
def test_the_euler_start_solver_is_close_to_the_flow_and_the_published_start_is_not():
    policy = flow_of()
    obs = jax.random.normal(jax.random.key(1), (5, 2))
    noise = jax.random.normal(jax.random.key(2), (5, 2, 4))
    fine = as_method(policy, FPO(num_steps=200)).unbounded(obs, noise=noise[:, 1:])

    def error(**settings):
        sampler = as_method(policy, GenPOPlusPlus(**settings))
        return float(jnp.abs(sampler.unbounded(obs, noise=noise) - fine).max())

    near = error(num_steps=20, history_coef=0.9, solver="euler-start", base="standard", tau=0.01)
    far = error(num_steps=20, history_coef=0.9, base="standard")
    assert near < 0.25 * far


@pytest.mark.ci
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"gaussian"}))
def test_every_flow_method_has_a_preset_that_copies_the_velocity(name):
    config = tiny(name)
    assert config.ppo.freeze_observations and config.env_options.reward == "success"
    # 0.99 per env step, and an action chunk has two env steps.
    assert config.ppo.gamma == pytest.approx(0.9801)
    policy = as_method(flow_of(), config.method)
    assert jax.eval_shape(policy, jnp.zeros(2), jax.random.key(0)).shape == (4,)


def test_a_gaussian_cannot_start_from_a_flow():
    with pytest.raises(ValueError, match=r"method must be a flow, as the pretrained policy \(fpo\), got 'gaussian'"):
        as_method(flow_of(), Gaussian())
    with pytest.raises(ValueError, match="initial_kl_coef must be 0 for a method without a density"):
        finetune_config(PRETRAINED, "fpo", {"ppo": {"initial_kl_coef": 0.1}})


def differ(before, tree):
    return any((a != np.asarray(b)).any() for a, b in zip(before, jax.tree.leaves(tree), strict=True))


@pytest.mark.ci
def test_a_run_starts_with_the_pretrained_networks_and_keeps_the_normalizer():
    config = replace(tiny("genpo++", initial_kl_coef=0.5, value_warmup=1), num_seeds=2)
    trainer, policy = Trainer(make("avoid"), config), flow_of()
    state = start_from(trainer.init(config.seeds), policy)
    for seed in range(2):
        copied = raw_leaves(jax.tree.map(lambda x, i=seed: x[i], state.learner.params["policy"]["velocity"]))
        for a, b in zip(copied, raw_leaves(policy.params["velocity"]), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(state.obs_moments["state"].mean, np.full((2, 2), 0.5))
    velocity = [np.asarray(x) for x in jax.tree.leaves(state.learner.params["policy"])]
    value = [np.asarray(x) for x in jax.tree.leaves(state.learner.params["value"])]
    rate = np.asarray(state.learner.learning_rate)
    # The first update trains only the value network: the policy and its learning rate do not change.
    state, metrics = trainer.chunk(state)
    assert not differ(velocity, state.learner.params["policy"])
    assert differ(value, state.learner.params["value"])
    np.testing.assert_array_equal(rate, state.learner.learning_rate)
    np.testing.assert_array_equal(rate, metrics["train/learning_rate"])
    # Rounding errors, divided by tau = 0.1, in a network with large random weights.
    assert (metrics["train/first_ratio_error"] < 5e-3).all()
    # The policy is still the initial policy, so the divergence is only rounding.
    np.testing.assert_allclose(metrics["train/initial_kl"], 0.0, atol=1e-4)
    np.testing.assert_array_equal(metrics["train/refused_statistics"], 0.0)
    state, _ = trainer.chunk(state)
    assert differ(velocity, state.learner.params["policy"])
    state, metrics = trainer.chunk(state)
    assert (np.abs(metrics["train/initial_kl"]) > 1e-5).all()
    np.testing.assert_array_equal(state.obs_moments["state"].mean, np.full((2, 2), 0.5))


@pytest.mark.ci
def test_only_the_observation_of_the_policy_keeps_its_statistics():
    config = tiny("genpo++", freeze_observations=True)
    # The critic of an imperfect robot sees the exact state.
    config = replace(config, env_options=replace(config.env_options, obs_noise=0.1))
    trainer = Trainer(make("avoid"), config)
    state, _ = trainer.chunk(start_from(trainer.init(config.seeds), flow_of()))
    assert float(state.obs_moments["state"].count[0]) == 10
    others = {name: float(moments.count[0]) for name, moments in state.obs_moments.items() if name != "state"}
    assert others and set(others.values()) == {16.0}


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [(None, "normalized", False), ("method", "head_sizes", (4,)), ("networks", "activation", "elu")],
)
def test_an_initial_policy_with_other_networks_is_refused(part, name, value):
    spec = flow_of().spec
    check_start(spec, spec)
    change = {name: value} if part is None else {part: replace(getattr(spec, part), **{name: value})}
    with pytest.raises(ValueError, match=f"{name} of the run must be .*, that of the initial policy"):
        check_start(spec, replace(spec, **change))


def test_the_energy_distance_equals_a_value_computed_by_hand():
    # 2 * (1 + 3 + 1 + 1) / 4 - 2 - 2 for {0, 2} and {1, 3}: 2 * 1.5 - 2 - 2 = -1.
    x, y = jnp.array([[0.0], [2.0]]), jnp.array([[1.0], [3.0]])
    np.testing.assert_allclose(energy_distance(x, y), -1.0, rtol=1e-6)
    same = jax.random.normal(jax.random.key(0), (2, 400, 3))
    assert abs(float(energy_distance(*same))) < 0.03 < 0.5 < float(energy_distance(same[0], same[1] + 1))


def test_the_entropy_of_the_modes_is_conditional_on_the_initial_state():
    def of(*counts):
        return _conditional_entropy(np.array(counts, float))

    assert of([5, 5, 5, 5], [2, 2, 2, 2]) == pytest.approx(1.0)
    assert of([3, 3, 0, 0], [0, 1, 1, 0]) == pytest.approx(0.5)
    # One mode per initial state has no entropy. Initial states are weighted by their numbers of successes.
    assert of([9, 0], [0, 9]) == of([0, 0], [0, 0]) == 0.0
    assert of([1, 1], [6, 0]) == pytest.approx(0.25)


@pytest.mark.ci
def test_the_entropy_of_the_modes_is_none_without_modes_and_zero_without_success():
    assert mode_entropy(flow_of(obs_size=1, action_size=2), EpisodeEnv.of(TargetEnv(), PRETRAINED.env_options)) is None
    assert mode_entropy(flow_of(), EpisodeEnv.of(make("avoid"), PRETRAINED.env_options)) == 0.0


@pytest.mark.ci
def test_the_sampler_of_the_pretrained_flow_has_no_distance_from_itself():
    policy, env = flow_of(), EpisodeEnv.of(make("avoid"), PRETRAINED.env_options)
    obs = jax.random.normal(jax.random.key(1), (4, 2))
    same = fidelity("same", policy, policy.spec.method, env, obs, episodes=4)
    other = fidelity("other", policy, SAFlow(num_steps=2, base="correlated", tau=2.0), env, obs, episodes=4)
    assert abs(same.energy) < 0.05 < other.energy
    assert (same.calls, other.calls, calls_of(Gaussian())) == (4, 5, 1) and 0 <= same.success.value <= 1


@pytest.mark.ci
def test_without_the_metric_success_the_return_is_measured():
    policy = flow_of(obs_size=1, action_size=2)
    env = EpisodeEnv.of(TargetEnv(), PRETRAINED.env_options)
    found = fidelity("x", policy, policy.spec.method, env, jnp.zeros((1, 1)), episodes=4)
    expected = evaluate_policy(policy, env, 4)
    assert found.success is found.success_zero is found.modes is None
    assert found.returns == (expected["random"]["return"], *expected["random"]["return_interval"])
    assert found.returns_zero.value == expected["zero"]["return"] != found.returns.value


def parsed(*arguments):
    return finetune_command.COMMAND.parse(list(map(str, arguments)), "genpo-jax finetune")


def test_every_setting_of_train_is_an_option_and_its_default_is_that_of_the_preset(tmp_path):
    # Neither the seed nor the anchor of an earlier run is kept.
    write_config(tmp_path, apply(PRETRAINED, {"seed": 5, "ppo": {"bc_coef": 0.2}}), "cpu", 1)
    start = ["--from", tmp_path, "--run-dir", "x"]
    assert parsed(*start).config == finetune_config(PRETRAINED, "genpo++")
    size = ["--num-timesteps", 4096, "--num-envs", 32, "--num-seeds", 2, "--seed", 7, "--num-evals", 3]
    rest = ["--wandb", "arms", "--bc-coef", 0.5, "--obs-noise", 0.1]
    options = parsed(*start, "--method", "fpo:clip_range=0.2", *size, *rest)
    config = options.config
    assert (config.num_timesteps, config.env_options.num_envs, config.num_evals) == (4096, 32, 3)
    assert list(config.seeds) == [7, 8] and config.env_options.reward == "success"
    assert (config.ppo.clip_range, config.ppo.bc_coef, config.env_options.obs_noise) == (0.2, 0.5, 0.1)
    assert (options.wandb, options.named_env) == ("arms", None)
    # What the command passes on describes the same run.
    assert finetune_config(PRETRAINED, options.method, options.layer()) == config
    with pytest.raises(ValueError, match="--history-coef is not an option of method 'fpo'"):
        parsed(*start, "--method", "fpo", "--history-coef", 0.5)


@pytest.mark.parametrize("executed", range(1, 65))
def test_a_policy_that_executes_any_number_of_actions_can_be_fine_tuned(executed):
    pretrained = replace(PRETRAINED, env_options=EnvConfig(chunk=64, executed=executed))
    for method in METHODS:
        assert finetune_preset(pretrained, method).ppo.num_minibatches >= 4


@pytest.mark.parametrize(("chunk", "unroll", "num_minibatches"), [(1, 64, 8), (4, 32, 8), (8, 16, 4), (64, 16, 4)])
def test_the_preset_has_shorter_rollouts_for_longer_action_chunks(chunk, unroll, num_minibatches):
    config = finetune_preset(replace(PRETRAINED, env_options=EnvConfig(chunk=chunk)), "genpo++")
    assert (config.ppo.unroll, config.ppo.num_minibatches) == (unroll, num_minibatches)
    assert config.ppo.gamma == 0.99**chunk


def measured(label, success, returns=None):
    returns = Interval(60.0, 55.0, 65.0) if returns is None else returns
    return Fidelity(label, 1, 0.0, success, success, None, returns, returns)


@pytest.mark.parametrize(("interval", "refused"), [((0.4, 0.36, 0.44), True), ((0.4, 0.3, 0.5), False)])
def test_a_sampler_is_refused_only_if_its_interval_shows_the_loss(interval, refused):
    before, sampler = measured("pretrained", Interval(0.5, 0.45, 0.55)), measured("sampler", Interval(*interval))
    with pytest.raises(ValueError, match="at least 0.450 within its interval") if refused else nullcontext():
        check_sampler(before, sampler, anyway=False)
    check_sampler(before, sampler, anyway=True)


@pytest.mark.parametrize(("before", "after", "lowest"), [(400.0, 379.0, "380"), (-200.0, -211.0, "-210")])
def test_a_sampler_may_lose_a_twentieth_of_the_return(before, after, lowest):
    pretrained = measured("pretrained", None, Interval(before, before, before))
    worse = measured("sampler", None, Interval(after, after - 9, after))
    with pytest.raises(ValueError, match=f"return of the sampler must be at least {lowest} within its interval"):
        check_return(pretrained, worse, anyway=False)
    check_return(pretrained, worse, anyway=True)
    check_return(pretrained, measured("sampler", None, Interval(after, after - 9, after + 1)), anyway=False)


def test_a_sampler_that_equals_the_pretrained_sampler_is_measured_once(monkeypatch):
    labels = []

    def fake(label, *_, **__):
        labels.append(label)
        return measured(label, Interval(0.5, 0.4, 0.6))

    monkeypatch.setattr(finetune, "fidelity", fake)
    monkeypatch.setattr(finetune, "visited", lambda *_: None)
    results = finetune.measure_before(None, PRETRAINED, PRETRAINED, None, False, 10, False)
    assert labels == ["pretrained"]
    assert results["sampler"] == results["pretrained"] | {"label": "sampler"}


@pytest.mark.ci
def test_a_pretrained_flow_is_fine_tuned_by_the_commands(tmp_path, capsys):
    from experiments import avoid_paths, finetuned

    data, start, tuned = tmp_path / "avoid.hdf5", tmp_path / "flow", tmp_path / "tuned"
    collect.run(collect.CollectOptions(env="avoid", episodes=20, data=data))
    mean = np.mean([episode.reward.sum() for episode in genpo_jax.read_demonstrations(data).episodes])
    assert f"; return {mean:.3g}, " in capsys.readouterr().out
    small = {"sizes": (16,), "num_updates": 40, "updates_per_chunk": 20, "episodes": 20}
    pretrain.run(pretrain.PretrainOptions(data=(data,), run_dir=start, **small))
    options = parsed("--from", start, "--run-dir", tuned, "--num-timesteps", 4096, "--episodes", 20, "--bc-coef", 0.1)
    with pytest.raises(ValueError, match="pretrained success must be above 0|success of the sampler"):
        finetune_command.run(options)
    finetune_command.run(replace(options, anyway=True))
    assert np.isfinite(read_metrics(tuned / "metrics.jsonl")[-1]["train/bc_loss"])
    with pytest.raises(ValueError, match="method must be without settings of the networks"):
        genpo_jax.finetune(start, tmp_path / "other", method="genpo++:skip=True")
    # A resumed run needs no folder of the pretrained policy, and measures the policy anew.
    record = json.loads((tuned / "finetuned.json").read_text())
    assert record.keys() == {"from", "pretrained", "sampler", "after"}
    del record["after"]
    (tuned / "finetuned.json").write_text(json.dumps(record))
    start.rename(tmp_path / "moved")
    resumed = finetune_command.defaults(["--resume", "--run-dir", str(tuned)])
    assert resumed.config == saved_config(tuned)
    finetune_command.run(replace(resumed, run_dir=tuned, resume=True, episodes=20))
    (tmp_path / "moved").rename(start)
    again = json.loads((tuned / "finetuned.json").read_text())
    assert len(again.pop("after")) == 1 and again == record
    assert genpo_jax.load(tuned)(jnp.zeros(2)).shape == (2,)
    found = finetuned.read(tuned)
    assert found.before.value == json.loads((tuned / "finetuned.json").read_text())["sampler"]["success"][0]
    # A run has at least one chunk.
    assert found.during.shape == (1, 2) and found.env_steps.tolist() == [0, 4 * 64 * 64]
    assert found.first_ratio_error is not None and found.first_ratio_error < 5e-3
    assert found.modes is not None and found.modes_before == found.modes.value == 0
    finetuned.study(finetuned.Options((tuned, tuned), tmp_path / "out"))
    assert "| tuned | 1 |" in (tmp_path / "out/table.md").read_text()
    assert {"table.json", "finetuned.png"} < {path.name for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError, match="a folder must be the run folder of a finished `genpo-jax finetune`"):
        finetuned.read(start)
    avoid_paths.study(avoid_paths.Options((start, tuned), tmp_path / "paths.png", episodes=3))
    assert (tmp_path / "paths.png").stat().st_size > 10_000
    recorded = avoid_paths.paths(tuned, Avoid(), 0.05, 3)
    assert [episode.obs[0].tolist() for episode in recorded.episodes] == [[0.0, np.float32(0.05)]] * 3
