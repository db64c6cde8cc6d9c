"""Brax environments, without Brax's own wrappers."""

import warnings

from genpo_jax.envs.adapter import BRAX_EPISODE_LENGTH, LibraryEnvironment


class BraxEnvironment(LibraryEnvironment):
    """One of Brax's environments.

    Actions are in [-1, 1] for all of them: humanoid, humanoidstandup, inverted_pendulum and pusher rescale to
    their actuators' limits themselves, and the control range of the others is [-1, 1].

    Args:
        name: Brax's name, `ant` for example.
        backend: `spring`, `positional`, `generalized` or `mjx`; None for `fast`, which has no physics.

    """

    def __init__(self, name: str, backend: str | None = "spring"):
        from brax import envs

        kwargs = {} if backend is None else {"backend": backend}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Brax System, piplines", category=UserWarning)
            raw = envs.get_environment(name, **kwargs)
        super().__init__(name=name, raw=raw, default_episode_length=BRAX_EPISODE_LENGTH)
        self.backend = backend
