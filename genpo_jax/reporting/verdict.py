"""Judge whether a run learned: compare its last evaluation with its first, with an interval."""

import math
from typing import NamedTuple

import numpy as np

from genpo_jax import intervals
from genpo_jax.intervals import Interval
from genpo_jax.reporting.numbers import short
from genpo_jax.reporting.records import Records, points

# Half of the width of a 95 % interval, in standard errors.
Z = 1.96
# Chunks averaged at each end of a run without evaluations.
CHUNKS = 5
# Quantile for the difference of two such means.
QUANTILE_OF_CHUNKS = intervals.t_quantile(2 * CHUNKS - 2)


class Verdict(NamedTuple):
    """The judgment of one run.

    Attributes:
        word: `learned`, `worse`, `unclear` or `young`.
        sentence: the judgment in words and numbers.
        final: return at the end, with its interval.
        best: env steps and return of the best evaluation; None without evaluations.
    """

    word: str
    sentence: str
    final: Interval | None
    best: tuple[float, float] | None


def judge(run: Records) -> Verdict:
    """Compare the return at the end of a run with the return at its start.

    A cloned policy has no returns: its errors on held-out episodes are compared with those of trivial predictors.

    With several seeds, the interval of the difference is Student's over the seeds. With one seed, it is the interval of
    the difference of two means: over the episodes of the first and the last evaluation. With fewer than two
    evaluations, the first and the last chunks of training are compared.
    """
    if run.held_out:
        return _cloned(run.held_out["errors"])
    evaluations = run.points("eval/return_random")
    best = max(evaluations, key=lambda point: point[1]) if evaluations else None
    if len(run.seeds) > 1:
        changes = _changes_of_seeds(run)
        if len(changes) < 2:
            return Verdict("young", "Too early to judge: fewer than two seeds have two evaluations.", None, best)
        starts, ends = np.array(changes).T
        change, final = intervals.mean_of_few(ends - starts), intervals.mean_of_few(ends)
        return _verdict(float(starts.mean()), final, change, f"over {len(changes)} seeds", best)
    comparison = _evaluated(run) if len(evaluations) > 1 else _trained(run)
    if comparison is None:
        return Verdict("young", "Too early to judge: there are too few returns.", None, best)
    # Errors are halves of the widths of 95 % intervals.
    (start, start_error), (end, end_error), source = comparison
    error = math.hypot(start_error, end_error)
    change = Interval(end - start, end - start - error, end - start + error)
    final = Interval(end, end - end_error, end + end_error)
    return _verdict(start, final, change, source, best)


def _verdict(start: float, final: Interval, change: Interval, source: str, best: tuple[float, float] | None) -> Verdict:
    if change.low > 0:
        word, text = "learned", "It learned: the return rose"
    elif change.high < 0:
        word, text = "worse", "It got worse: the return fell"
    else:
        word, text = "unclear", "Unclear, the change may be chance: the return changed"
    sentence = f"{text} from {short(start)} to {short(final.value)}, by {interval(change)} ({source})."
    if best is not None and best[1] > final.high:
        sentence += f" The best evaluation was {short(best[1])}, at {short(best[0])} env steps."
    return Verdict(word, sentence, final, best)


def _cloned(errors: dict[str, list[float]]) -> Verdict:
    """Judge a cloned policy by its errors by steps ahead; see `genpo_jax.imitation.held_out`."""
    policy, hold = errors["deterministic"], errors["hold"]
    nearer = next(
        (i + 1 for i in range(len(hold)) if all(a < b for a, b in zip(policy[i:], hold[i:], strict=True))), None
    )
    where = f"from step {nearer} of {len(hold)} on" if nearer else f"at none of the last of {len(hold)} steps"
    means = {name: sum(values) / len(values) for name, values in errors.items()}
    sentence = (
        "Mean error on held-out episodes, in units of the data: "
        f"{short(means['deterministic'])} with deterministic and {short(means['sampled'])} with sampled actions. "
        f"Holding the last action has {short(means['hold'])}, the nearest training observation "
        f"{short(means['nearest'])}. The policy is better than holding the last action {where}."
    )
    better = means["deterministic"] < means["nearest"] and nearer is not None
    return Verdict("learned" if better else "unclear", sentence, None, None)


def interval(value: Interval) -> str:
    """Return an estimate and its interval as text."""
    return f"{short(value.value)} [{short(value.low)}, {short(value.high)}]"


def _changes_of_seeds(run: Records) -> list[tuple[float, float]]:
    returns = [[y for _, y in points(lines, "eval/return_random")] for lines in run.seeds]
    return [(values[0], values[-1]) for values in returns if len(values) > 1]


def _evaluated(run: Records) -> tuple[tuple[float, float], tuple[float, float], str] | None:
    episodes = run.eval_episodes
    spread = dict(run.points("eval/return_random_std"))
    evaluations = run.points("eval/return_random")
    ends = [evaluations[0], evaluations[-1]]
    if episodes is None or any(steps not in spread for steps, _ in ends):
        return _trained(run)
    start, end = ((value, Z * spread[steps] / math.sqrt(episodes)) for steps, value in ends)
    return start, end, f"first and last evaluation, {episodes:.0f} episodes each"


def _trained(run: Records) -> tuple[tuple[float, float], tuple[float, float], str] | None:
    returns = [y for _, y in run.points("train/episode_return")]
    if len(returns) < 2 * CHUNKS:
        return None
    start, end = (
        (float(np.mean(part)), QUANTILE_OF_CHUNKS * float(np.std(part, ddof=1)) / math.sqrt(CHUNKS))
        for part in (returns[:CHUNKS], returns[-CHUNKS:])
    )
    return start, end, f"first and last {CHUNKS} chunks of training"
