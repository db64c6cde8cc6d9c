import json
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import multimodality
from experiments.program import run_program
from genpo_jax.envs import make
from genpo_jax.envs.toys import turned_back

ALPHA = 0.1


class Learner(NamedTuple):
    params: jax.Array


class States(NamedTuple):
    learner: Learner


def evaluated(env, sample):
    """Evaluate one seed of a policy, given as a function from contexts `[C, N, 2]` and a key to actions."""
    agent = SimpleNamespace(sample=lambda obs, key: (sample(obs["state"], key), None))
    algorithm = SimpleNamespace(make_agent=lambda params: agent, normalize=lambda state, obs: obs)
    trainer = SimpleNamespace(algorithm=algorithm, env=SimpleNamespace(bounded=lambda action: action))
    (result,) = multimodality.evaluate_bandit(env, trainer, States(Learner(jnp.zeros(1))), ALPHA)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "moons"])
def test_the_soft_optimum_has_full_coverage_and_no_distance_from_itself(name):
    env = make(name)
    middles = (jnp.arange(multimodality.BINS) + 0.5) / multimodality.BINS * 2 - 1
    cells = jnp.stack(jnp.meshgrid(middles, middles), axis=-1).reshape(-1, 2)

    def logits(context):
        return env.reward_of(turned_back(cells, context)) / ALPHA

    def sample(contexts, key):
        keys = jax.random.split(key, len(contexts))
        draw = jax.vmap(lambda context, k: jax.random.categorical(k, logits(context), shape=contexts.shape[1:2]))
        return cells[draw(contexts[:, 0], keys)]

    result = evaluated(env, sample)
    share = jax.nn.softmax(logits(jnp.array([1.0, 0.0])))
    # The rest is the noise of 50,000 draws over 1024 cells.
    assert result["total_variation"] < 0.06
    assert result["coverage"] > 0.98
    # Other contexts rotate the curve relative to the cells.
    assert result["return"] == pytest.approx(float((share * env.reward_of(cells)).sum()), abs=0.02)
    entropy = float(-(share * jnp.log(share)).sum()) + np.log(4 / multimodality.BINS**2)
    assert result["entropy"] == pytest.approx(entropy, abs=0.05)


def test_a_single_best_action_has_no_coverage_and_is_far_from_the_soft_optimum():
    env = make("ring")
    point = jnp.asarray(env.points[10], jnp.float32)

    def sample(contexts, key):
        return turned_back(jnp.broadcast_to(point, contexts.shape), contexts * jnp.array([1.0, -1.0]))

    result = evaluated(env, sample)
    assert result["return"] == pytest.approx(1.0, abs=1e-4)
    assert result["coverage"] == 0
    assert result["total_variation"] > 0.95


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5, 5], 1.0), ([7, 0, 0, 0], 0.0), ([3, 3, 0, 0], 0.5), ([0, 0, 0, 0], 0.0)],
)
def test_coverage_is_the_entropy_relative_to_equal_shares(counts, expected):
    assert multimodality.coverage(np.array(counts)) == pytest.approx(expected)


@pytest.mark.ci
def test_a_study_writes_numbers_and_figures_and_trains_nothing_twice(tiny_presets, monkeypatch, tmp_path):
    monkeypatch.setattr(multimodality, "NUM_ACTIONS", 200)
    monkeypatch.setattr(multimodality, "NUM_EPISODES", 100)

    def main(*more):
        arguments = ("--envs", "ring", "multigoal", "--methods", "reinflow", "--num-seeds", "2", "--out", tmp_path)
        monkeypatch.setattr("sys.argv", ["multimodality", *map(str, arguments), "--num-timesteps", "512", *more])
        run_program(multimodality.Options, multimodality.study, None)

    main()
    for env in ("ring", "multigoal"):
        rows = json.loads((tmp_path / f"{env}.json").read_text())
        assert [(row["method"], row["bonus"], len(row["seeds"])) for row in rows] == [("reinflow", False, 2)]
        assert (tmp_path / f"{env}.png").stat().st_size > 10_000
    before = {path: path.read_bytes() for path in tmp_path.rglob("metrics.jsonl")}
    main()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("metrics.jsonl")}
    with pytest.raises(SystemExit, match="different settings: --num-timesteps"):
        main("--num-timesteps", "1024")


def test_policies_with_a_density_are_also_trained_with_the_bonus_and_flows_with_every_base():
    options = multimodality.Options(methods=("gaussian", "genpo++", "fpo"), alpha=0.3, final_alpha=0.2, num_steps=7)
    rows = multimodality.variants(options)
    assert [row.label for row in rows] == [
        *("gaussian", "gaussian, bonus", "genpo++", "genpo++, bonus"),
        *("genpo++, standard base", "genpo++, standard base, bonus", "fpo"),
    ]
    methods = [multimodality.make_config("ring", row, options).method for row in rows]
    assert [getattr(method, "action_entropy_coef", 0) for method in methods] == [0, 0.3, 0, 0.3, 0, 0.3, 0]
    assert methods[1].final_action_entropy_coef == 0.2
    assert [getattr(method, "num_steps", None) for method in methods] == [None, None, 7, 7, 7, 7, 7]
    assert [method.base for method in methods[2:6]] == ["learned-scale"] * 2 + ["standard"] * 2
