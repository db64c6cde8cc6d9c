import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from settings import fresh_policy, sized

from experiments import ratio_study
from experiments.program import run_program
from experiments.true_density import true_log_ratio
from genpo_jax.methods import METHODS


@pytest.mark.ci
@pytest.mark.parametrize("method", METHODS)
def test_true_ratios_average_to_one_over_actions_of_the_old_policy(method):
    old = fresh_policy(sized((8,), method, initial_std=0.5), 2, 2)
    noise = nnx.Rngs(1)
    new = nnx.clone(old)
    params = nnx.state(new, nnx.Param)
    nnx.update(new, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(noise.params(), x.shape), params))
    obs, key = jnp.array([0.3, -0.7]), jax.random.key(2)

    @jax.jit
    def ratios():
        action, _ = old.sample(jnp.broadcast_to(obs, (2048, 2)), jax.random.key(3))
        return jnp.exp(true_log_ratio(new, old, obs, action, key))

    ratio = np.asarray(ratios())
    # The ratios differ enough from 1 that a wrong density would fail.
    assert ratio.std() > 0.1
    assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(ratio.size) + 0.01)


@pytest.mark.ci
def test_a_study_writes_its_results_and_does_not_repeat_them(monkeypatch, tmp_path):
    def main(*arguments):
        monkeypatch.setattr("sys.argv", ["ratio_study", "--out", str(tmp_path), *map(str, arguments)])
        run_program(ratio_study.Options, ratio_study.study, None)

    arguments = ("--num-seeds", 1, "--num-timesteps", 8192, "--batch-size", 64, "--methods", "gaussian")
    main(*arguments)
    saved = json.loads((tmp_path / "gaussian.json").read_text())
    assert [row["multiple"] for row in saved["rows"]] == list(ratio_study.MULTIPLES)
    for row in saved["rows"]:
        assert row["slope"] == pytest.approx(1, abs=1e-3) and row["correlation"] == pytest.approx(1, abs=1e-3)
        assert row["spread"] < 1e-3
    assert (tmp_path / "ratios.png").stat().st_size > 10_000
    assert "| gaussian |" in (tmp_path / "table.md").read_text()

    monkeypatch.setattr(ratio_study, "measure", lambda *_: pytest.fail("the study was repeated"))
    main(*arguments)
    with pytest.raises(SystemExit, match="made with different settings"):
        main(*arguments, "--num-seeds", 2)


@pytest.mark.slow
def test_different_numbers_of_histories_are_compared_on_the_same_policies(monkeypatch, tmp_path):
    arguments = ["--num-seeds", 1, "--num-timesteps", 8192, "--batch-size", 256, "--methods", "genpo++"]
    arguments += ["--histories", 1, 16, "--out", tmp_path]
    monkeypatch.setattr("sys.argv", ["ratio_study", *map(str, arguments)])
    run_program(ratio_study.Options, ratio_study.study, None)
    rows = json.loads((tmp_path / "genpo++.json").read_text())["rows"]
    one, many = ([row for row in rows if row["method"] == f"genpo++, K = {count}"] for count in (1, 16))
    for a, b in zip(one, many, strict=True):
        assert (a["drift"], a["distance"], a["true_kl"]) == (b["drift"], b["distance"], b["true_kl"])
        assert b["true_kl"] < b["kl"] * 1.1 < a["kl"] * 1.1
        assert 1 - b["correlation"] < 0.7 * (1 - a["correlation"])
        # At larger distances a single one of the 256 ratios dominates the spread.
        assert a["multiple"] > 2 or b["spread"] < 0.7 * a["spread"]


def test_an_invalid_number_of_histories_is_refused_before_any_measurement(monkeypatch, tmp_path):
    monkeypatch.setattr(ratio_study, "measure", lambda *_: pytest.fail("something was measured"))
    monkeypatch.setattr("sys.argv", ["ratio_study", "--histories", "1", "3", "--out", str(tmp_path / "study")])
    with pytest.raises(SystemExit, match="num-histories must be 1 or even, .*, got 3"):
        run_program(ratio_study.Options, ratio_study.study, None)
