"""Brax environments, without Brax's own wrappers."""

from contextlib import nullcontext

from genpo_jax.envs.adapter import BRAX_EPISODE_LENGTH, LibraryEnvironment
from genpo_jax.envs.library_physics import CPhysics
from genpo_jax.envs.patches import brax_notice_ignored, import_mjx


class BraxEnvironment(LibraryEnvironment):
    """A Brax environment.

    Actions are in [-1, 1] for all of them: humanoid, humanoidstandup, inverted_pendulum and pusher rescale actions to
    their actuators' limits themselves, and the control range of the others is [-1, 1].

    Args:
        name: Brax's name, `ant` for example.
        backend: `spring`, `positional`, `generalized` or `mjx`; `c` simulates the `mjx` environment in MuJoCo's C
            engine; None for `fast`, which has no physics.

    """

    def __init__(self, name: str, backend: str | None = "spring"):
        import_mjx()
        from brax import envs

        kwargs = {} if backend is None else {"backend": "mjx" if backend == "c" else backend}
        with brax_notice_ignored():
            raw = envs.get_environment(name, **kwargs)
        super().__init__(
            name, raw, BRAX_EPISODE_LENGTH, CPhysics(name, raw).replaced if backend == "c" else nullcontext
        )
        self.backend = backend
