"""Manipulation tasks of this package, which need no assets: `panda_reach`, `panda_push`, `push_t`, `unscrew`."""

from genpo_jax.envs.mjcf import MjcfTask


def make(name: str, backend: str | None = None) -> MjcfTask:
    """Return the task of that name."""
    from genpo_jax.envs.tasks import panda, push_t, unscrew

    tasks = (panda.PandaReach, panda.PandaPush, push_t.PushT, unscrew.Unscrew)
    return {task.name: task for task in tasks}[name](backend)
