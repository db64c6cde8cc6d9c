"""The best checkpoint is kept beside the newest ones, and survives interruptions; test_run.py tests it in runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.runs.checkpoint import Checkpointer


def returned(value):
    return {"eval/return_zero": value}


def saved(checkpointer, returns):
    for step, value in returns.items():
        evaluation = value if isinstance(value, dict) or value is None else returned(value)
        checkpointer.save(step, {"x": jnp.full(2, float(step))}, {}, evaluation)
    return checkpointer


def restored(directory, step):
    shape = jax.eval_shape(lambda: {"x": jnp.zeros(2)})
    return Checkpointer(directory).restore(shape, at=step)[1]["x"][0]


def test_the_best_checkpoint_is_kept_beside_the_newest_until_a_better_one_is_complete(tmp_path):
    checkpointer = saved(Checkpointer(tmp_path, keep=2), {1: 5.0, 2: 9.0, 3: 1.0, 4: 9.0, 5: None, 6: 2.0})
    assert checkpointer.steps() == [4, 5, 6] and checkpointer.best() == (4, returned(9.0)), "the latest of equals"
    saved(checkpointer, {7: 9.5, 8: 0.0})
    assert checkpointer.steps() == [7, 8] and Checkpointer(tmp_path).best() == (7, returned(9.5))
    assert restored(tmp_path, 7) == 7.0


def test_success_ranks_before_return_and_numbers_that_are_not_finite_do_not_rank(tmp_path):
    evaluations = {1: (0.5, 80.0), 2: (0.75, 10.0), 3: (0.75, 20.0), 4: (np.nan, 99.0), 5: (0.9, np.inf)}
    named = {k: {"eval/success_zero": s, "eval/return_zero": r} for k, (s, r) in evaluations.items()}
    checkpointer = saved(Checkpointer(tmp_path, keep=9), named)
    best = checkpointer.best()
    assert best is not None and best[0] == 3
    assert saved(Checkpointer(tmp_path / "none"), {1: None, 2: {}}).best() is None


def test_an_interrupted_save_of_a_better_checkpoint_loses_neither_the_best_nor_the_newest(tmp_path, monkeypatch):
    checkpointer = saved(Checkpointer(tmp_path, keep=1), {1: 5.0, 2: 1.0})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("genpo_jax.runs.checkpoint.write_manifest", interrupt)
        saved(checkpointer, {3: 8.0})
    again = Checkpointer(tmp_path, keep=1)
    assert again.best() == (1, returned(5.0)) and again.steps() == [1, 2]
    assert restored(tmp_path, None) == 2.0 and restored(tmp_path, 1) == 1.0
    saved(again, {3: 8.0})
    assert again.steps() == [3]


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(tmp_path):
    checkpointer = saved(Checkpointer(tmp_path), {1: 5.0, 2: 9.0, 3: 1.0})
    file = next(path for path in (tmp_path / "2" / "state").rglob("*") if path.is_file())
    file.write_bytes(b"other" + file.read_bytes())
    assert checkpointer.best() == (1, returned(5.0))


def test_an_evaluation_is_added_to_a_complete_checkpoint_without_a_change_of_its_files(tmp_path):
    checkpointer = saved(Checkpointer(tmp_path), {0: None, 1: 2.0})
    checkpointer.record_evaluation(0, returned(3.0))
    assert checkpointer.is_intact(0) and checkpointer.best() == (0, returned(3.0))
