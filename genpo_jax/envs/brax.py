"""Brax environments, without Brax's own wrappers."""

import warnings
from contextlib import nullcontext

from genpo_jax.envs.adapter import BRAX_EPISODE_LENGTH, LibraryEnvironment
from genpo_jax.envs.library_physics import CPhysics


class BraxEnvironment(LibraryEnvironment):
    """One of Brax's environments.

    Actions are in [-1, 1] for all of them: humanoid, humanoidstandup, inverted_pendulum and pusher rescale to
    their actuators' limits themselves, and the control range of the others is [-1, 1].

    Args:
        name: Brax's name, `ant` for example.
        backend: `spring`, `positional`, `generalized` or `mjx`; `c` is what `mjx` simulates, in MuJoCo's C engine;
            None for `fast`, which has no physics.

    """

    def __init__(self, name: str, backend: str | None = "spring"):
        from brax import envs

        kwargs = {} if backend is None else {"backend": "mjx" if backend == "c" else backend}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Brax System, piplines", category=UserWarning)
            raw = envs.get_environment(name, **kwargs)
        super().__init__(
            name, raw, BRAX_EPISODE_LENGTH, CPhysics(name, raw).exchanged if backend == "c" else nullcontext
        )
        self.backend = backend
