"""Compare a cloned policy's actions with those of held-out episodes, beside two trivial predictors."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genpo_jax.data import Demonstrations
from genpo_jax.policy import TrainedPolicy
from genpo_jax.runs.files import write_atomically
from genpo_jax.runs.folder import HELD_OUT_FIGURE, HELD_OUT_FILE, write_json

# Steps of the held-out episodes that are compared, at most, evenly spaced.
MAX_STEPS = 4096
# Distances that are computed at once.
BLOCK = 2**24
# Coordinates in one panel of the figure.
PANEL = 7
LABELS = {
    "deterministic": "policy, deterministic actions",
    "sampled": "policy, sampled actions",
    "hold": "hold the last action",
    "nearest": "nearest training observation",
}


def held_out_errors(
    policy: TrainedPolicy, demonstrations: Demonstrations, train: list[int], held_out: list[int]
) -> dict[str, Any]:
    """Return the root mean square errors `[H]` of predicted action chunks, by steps ahead, in units of the data.

    The mean is over steps and coordinates. Rows: the policy's deterministic and sampled actions; `hold`, the last
    action repeated; `nearest`, the recorded actions after the training observation that is nearest to the current one.

    Args:
        policy: the cloned policy.
        demonstrations: the data.
        train: episodes with which the policy was trained.
        held_out: episodes to compare with.
    """
    history, chunk = policy.spec.history, policy.spec.chunk
    obs = demonstrations.observations(held_out, history)
    lengths = [len(demonstrations.episodes[number]) for number in held_out]
    step = np.concatenate([np.arange(n) for n in lengths])
    # The first step has no last action, and beyond the end there is nothing to compare with.
    left = np.concatenate([n - np.arange(n) for n in lengths])
    rows = np.flatnonzero(step > 0)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_STEPS)).astype(int)] if len(rows) else rows
    if not len(rows):
        return {}
    actual = demonstrations.chunks(held_out, chunk).reshape(len(obs), chunk, -1)
    known = np.arange(chunk) < left[rows, None]
    act = jax.jit(policy)
    predicted = {
        "deterministic": act(jnp.asarray(obs[rows])),
        "sampled": act(jnp.asarray(obs[rows]), jax.random.key(0)),
        "hold": np.repeat(actual[rows - 1, :1], chunk, axis=1),
        "nearest": demonstrations.chunks(train, chunk)[
            _nearest(policy, obs[rows], demonstrations.observations(train, history))
        ],
    }
    error = partial(_errors, actual[rows], known)
    return {
        "steps": len(rows),
        "episodes": held_out,
        "rate": demonstrations.rate,
        "errors": {name: error(np.asarray(value)) for name, value in predicted.items()},
    }


def _errors(actual: np.ndarray, known: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Return the root mean square error of each step ahead `[H]`, over the steps at which it is known."""
    square = np.square(predicted.reshape(actual.shape) - actual).mean(axis=-1)
    count = np.maximum(known.sum(axis=0), 1)
    return np.sqrt((square * known).sum(axis=0) / count).astype(float).tolist()


def _nearest(policy: TrainedPolicy, obs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the row of the nearest of other observations, in standardized units, for each observation."""
    standardized = [np.asarray(policy.standardized(x)) for x in (obs, others)]
    squares = np.square(standardized[1]).sum(axis=1)
    blocks = np.array_split(standardized[0], -(-len(obs) * len(others) // BLOCK))
    return np.concatenate([(squares - 2 * block @ standardized[1].T).argmin(axis=1) for block in blocks])


def write_held_out(
    run_dir: Path, policy: TrainedPolicy, demonstrations: Demonstrations, train: list[int], held_out: list[int]
) -> None:
    """Write `held_out.json` with the errors and `held_out.png` with one episode; nothing if no step is held out."""
    errors = held_out_errors(policy, demonstrations, train, held_out)
    if errors:
        write_json(run_dir / HELD_OUT_FILE, errors)
        write_atomically(run_dir / HELD_OUT_FIGURE, _figure(policy, demonstrations, held_out[0], errors))


def _figure(policy: TrainedPolicy, demonstrations: Demonstrations, number: int, errors: dict[str, Any]) -> bytes:
    """Draw the errors by steps ahead, and recorded and predicted actions of one episode, as PNG."""
    from matplotlib.figure import Figure

    action = demonstrations.episodes[number].action
    predicted = _stitched(policy, demonstrations.observations([number], policy.spec.history))
    seconds = np.arange(len(action)) / (demonstrations.rate or 1.0)
    unit = "s" if demonstrations.rate else "steps"
    names = demonstrations.action_names or tuple(f"action {i}" for i in range(action.shape[1]))
    panels = [range(i, min(i + PANEL, len(names))) for i in range(0, len(names), PANEL)]
    figure = Figure(figsize=(10, 2.6 * (1 + len(panels))), layout="constrained")
    top, *axes = figure.subplots(1 + len(panels))
    ahead = (1 + np.arange(policy.spec.chunk)) / (demonstrations.rate or 1.0)
    for name, values in errors["errors"].items():
        top.plot(ahead, values, marker=".", label=LABELS[name])
    top.set(xlabel=f"time ahead ({unit})", ylabel="RMS error", ylim=(0, None))
    top.legend(frameon=False)
    top.set_title(
        f"Held-out episodes {', '.join(map(str, errors['episodes']))}: error of predicted actions", fontsize=10
    )
    for axis, panel in zip(axes, panels, strict=True):
        for color, i in enumerate(panel):
            axis.plot(seconds, action[:, i], color=f"C{color}", lw=1, alpha=0.5)
            axis.plot(seconds, predicted[:, i], color=f"C{color}", lw=1, ls="--", label=names[i])
        axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        axis.set_ylabel("action")
    axes[0].set_title(f"Episode {number}: recorded (solid) and predicted from its observations (dashed)", fontsize=10)
    axes[-1].set_xlabel(f"time ({unit})")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()


def _stitched(policy: TrainedPolicy, obs: np.ndarray) -> np.ndarray:
    """Return the actions `[T, d]` that are executed if the policy is called at each end of its executed actions."""
    spec = policy.spec
    chunks = np.asarray(jax.jit(policy)(jnp.asarray(obs[:: spec.executed])))
    single = chunks.reshape(len(chunks), spec.chunk, -1)[:, : spec.executed]
    return single.reshape(-1, single.shape[-1])[: len(obs)]
