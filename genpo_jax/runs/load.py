"""Load the policy of a run without its environment or any physics library."""

from pathlib import Path
from typing import Literal, get_args

import jax
from flax import nnx

from genpo_jax.checks import require
from genpo_jax.envs.base import ACTOR_OBS
from genpo_jax.normalizer import RunningMoments
from genpo_jax.policy import PolicySpec, TrainedPolicy
from genpo_jax.runs.checkpoint import Checkpointer
from genpo_jax.runs.folder import (
    CHECKPOINTS,
    CONFIG_FILE,
    identity_of,
    read_policy_spec,
    run_id_of,
    saved_config,
    seed_folders,
)

# Checkpoints with a name.
CheckpointName = Literal["newest", "best"]


def load(
    run_dir: str | Path,
    step: int | None = None,
    *,
    seed: int | None = None,
    checkpoint: CheckpointName = "newest",
) -> TrainedPolicy:
    """Load the policy of a run without its environment.

    Args:
        run_dir: folder of the run, or of one of its seeds.
        step: env steps of the checkpoint; None: the checkpoint named by `checkpoint`.
        seed: the seed to load; required if the run has several.
        checkpoint: `newest`, the newest intact checkpoint; or `best`, the one with the highest success rate (if the
            environment has one), then return, of deterministic actions at the evaluations during training.

    Returns:
        the policy: `policy(obs)` is the deterministic action, `policy(obs, key)` a sampled action.

    Raises:
        FileNotFoundError: `run_dir` holds no run, no checkpoint at `step`, or no evaluated checkpoint for `best`.
        ValueError: the run has several seeds and `seed` is None, `step` and `checkpoint` name two checkpoints, another
            version wrote the run, or no checkpoint is intact.
    """
    folder = folder_of(Path(run_dir), seed)
    options = saved_config(folder).env_options
    # Runs of version 0.1 have these only in their config.json.
    steps = {"chunk": options.chunk, "executed": options.executed or options.chunk}
    steps |= {"action_repeat": options.action_repeat}
    spec = PolicySpec.from_dict(steps | read_policy_spec(folder))
    params = nnx.state(nnx.eval_shape(spec.build), nnx.Param)
    moments = jax.eval_shape(lambda: RunningMoments.create((spec.obs_size,))) if spec.normalized else None
    parts = {".learner.params['policy']": params, f".obs_moments['{ACTOR_OBS}']": moments}
    names = {
        prefix + jax.tree_util.keystr(path): leaf
        for prefix, tree in parts.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    checkpointer = _checkpointer(folder)
    # The saved state has a leading axis of seeds, here of size 1.
    abstract = {name: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype) for name, leaf in names.items()}
    # The newest one is verified when it is restored.
    at = step if checkpoint == "newest" else checkpoint_step(folder, step, checkpoint)
    arrays = checkpointer.restore_leaves(abstract, at=at)
    checkpointer.close()
    leaves = iter([arrays[name][0] for name in names])
    filled = jax.tree.map(lambda _: next(leaves), list(parts.values()))
    return TrainedPolicy(spec, *filled)


def checkpoint_step(run_dir: Path, step: int | None = None, checkpoint: CheckpointName = "newest") -> int:
    """Return the step of a checkpoint of a run with one seed; see `load`."""
    require(checkpoint in get_args(CheckpointName), "newest or best", "checkpoint", checkpoint)
    if checkpoint == "newest":
        return _checkpointer(run_dir).newest() if step is None else step
    if step is not None:
        raise ValueError(f"step {step} and checkpoint {checkpoint!r} name two checkpoints; leave one of them out")
    if (best := _checkpointer(run_dir).best()) is None:
        raise FileNotFoundError(f"no checkpoint in {run_dir} was evaluated, so none is the best; load the newest")
    return best[0]


def _checkpointer(run_dir: Path) -> Checkpointer:
    return Checkpointer(run_dir / CHECKPOINTS, identity=identity_of(run_id_of(run_dir), saved_config(run_dir).seed))


def folder_of(run_dir: Path, seed: int | None) -> Path:
    """Return the folder of one seed of a run.

    Args:
        run_dir: folder of the run, or of one of its seeds.
        seed: the seed; None if the run has only one.

    Raises:
        FileNotFoundError: `run_dir` holds no run.
        ValueError: the run has several seeds and `seed` is None, or it does not have this seed.
    """
    if not (run_dir / CONFIG_FILE).exists():
        raise FileNotFoundError(f"there is no run in {run_dir}, because it has no {CONFIG_FILE}; check the path")
    config = saved_config(run_dir)
    if seed is None and config.num_seeds > 1:
        one = seed_folders(run_dir, config)[0]
        raise ValueError(f"{run_dir} holds the seeds {', '.join(map(str, config.seeds))}; choose one, such as {one}")
    if seed is not None and seed not in config.seeds:
        raise ValueError(
            f"{run_dir} holds the seeds {', '.join(map(str, config.seeds))}, not {seed}; choose one of them"
        )
    return dict(zip(config.seeds, seed_folders(run_dir, config), strict=True))[config.seed if seed is None else seed]
