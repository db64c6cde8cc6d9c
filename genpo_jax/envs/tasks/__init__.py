"""Manipulation tasks of this package, which need no assets: `panda_reach`, `panda_push`, `push_t`."""

from genpo_jax.envs.mjcf import MjcfTask


def make(name: str, backend: str | None = None) -> MjcfTask:
    """Return the task of that name."""
    from genpo_jax.envs.tasks import panda, push_t

    return {"panda_reach": panda.PandaReach, "panda_push": panda.PandaPush, "push_t": push_t.PushT}[name](backend)
