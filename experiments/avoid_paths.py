"""Draw the paths of policies through `avoid` from one initial position, to show which modes are left.

    python -m experiments.avoid_paths runs/flow runs/tuned/seed-0 --file paths.png

The folders are run folders of `genpo-jax pretrain` and `genpo-jax finetune`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from experiments.compare_plots import COLORS
from experiments.program import run_program
from genpo_jax.checks import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from genpo_jax.data.collect import Recorded
    from genpo_jax.envs.avoid import Avoid


@dataclass(frozen=True)
class Options:
    """Runs to draw."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders on avoid."""
    file: Path = Path("paths.png")
    """Figure to write."""
    episodes: int = 80
    """Episodes per run, with sampled actions."""
    start: float = 0.0
    """Initial height of all episodes."""


def paths(run: Path, env: "Avoid", start: float, episodes: int) -> "Recorded":
    """Record episodes of a run's policy from one initial height.

    Raises:
        ValueError: if the run used another environment.
    """
    import jax
    import jax.numpy as jnp

    import genpo_jax
    from genpo_jax.data.collect import record_demonstrations, trained_actor
    from genpo_jax.envs.avoid import Avoid, AvoidState

    class FromOneStart(Avoid):
        def reset(self, key: jax.Array) -> tuple[AvoidState, dict[str, jax.Array]]:
            state, _ = super().reset(key)
            position = jnp.array([0.0, start])
            return state.replace(position=position), {"state": position}

    policy = genpo_jax.load(run)
    require(policy.spec.env == env.name, env.name, f"the environment of the run {run}", policy.spec.env)
    return record_demonstrations(FromOneStart(), trained_actor(policy, episodes, "random"), episodes, jax.random.key(0))


def draw(axes: "Axes", env: "Avoid", recorded: "Recorded") -> None:
    """Draw posts, walls and paths; a successful path has the color of its gap, a failed one is gray."""
    from matplotlib.patches import Circle

    from genpo_jax.config import MODE, SUCCESS

    modes = np.stack([recorded.metrics[f"{MODE}{k}"] for k in range(env.NUM_MODES)], axis=-1)
    for episode, mode in zip(recorded.episodes, modes, strict=True):
        path = np.vstack([part for part in (episode.obs, episode.last_obs) if part is not None])
        color = COLORS[mode.argmax()] if mode.any() else "0.75"
        axes.plot(*path.T, color=color, linewidth=0.7, alpha=0.7, zorder=2 if mode.any() else 1)
    for post in env.posts:
        axes.add_patch(Circle(tuple(post), env.RADIUS, color="0.25", zorder=3))
    for wall in (-env.WALL, env.WALL):
        axes.axhline(wall, color="0.25", linewidth=2)
    axes.axvline(env.FAR_SIDE, color="0.6", linestyle=":")
    axes.set(xlim=(-0.05, env.FAR_SIDE + 0.08), ylim=(-env.WALL - 0.03, env.WALL + 0.03), aspect="equal")
    axes.set(xticks=[], yticks=[], xlabel=f"success {recorded.metrics[SUCCESS].mean():.2f}")


def study(options: Options) -> None:
    """Write a figure with one panel per run."""
    from matplotlib.figure import Figure

    from genpo_jax.envs.avoid import Avoid

    env = Avoid()
    columns = min(len(options.runs), 4)
    rows = -(-len(options.runs) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, run in zip(panels, options.runs, strict=False):
        draw(axes, env, paths(run, env, options.start, options.episodes))
        axes.set_title(run.parent.name if run.name.startswith("seed-") else run.name)
    for axes in panels[len(options.runs) :]:
        axes.set_axis_off()
    options.file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.file, dpi=120)
    print(f"wrote {options.file}")


if __name__ == "__main__":
    run_program(Options, study, __doc__)
