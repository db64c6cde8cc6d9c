"""What `EpisodeEnv` needs of an environment whose simulators keep their states on the host, outside jax.

Such an environment has the attribute `host`. Its simulators are reset in place, and a state can be stepped only once.
"""

from contextlib import AbstractContextManager
from typing import Any, Protocol

import jax
from flax.struct import PyTreeNode
from jax import Array


class Ticket(PyTreeNode):
    """State of one simulator, as far as jax knows it.

    Attributes:
        session: number of the simulators that are stepped together.
        calls: calls of the session so far; each call needs the number of the call before, which gives their order.
        begun: whether the last call began an episode.
        truncated: whether the environment itself truncated its episode.
        qpos: positions of MuJoCo's joints; None for an environment without a MuJoCo model, as the next two.
        mocap_pos: positions of mocap bodies.
        mocap_quat: orientations of mocap bodies.
    """

    session: Array
    calls: Array
    begun: Array
    truncated: Array
    qpos: Array | None = None
    mocap_pos: Array | None = None
    mocap_quat: Array | None = None


class Host(Protocol):
    """Decides what `reset` of an environment does while it is traced; `reset` still returns `(state, observation)`."""

    def starting(self, limit: int, lasting: bool) -> AbstractContextManager[None]:
        """`reset` starts episodes of at most `limit` steps, in a session of all rows of a `vmap`.

        `lasting` episodes are restarted for a long time, as in training; others are played once. Each kind has its own
        simulators.
        """
        ...

    def restarting(self, ticket: Ticket, ended: Array) -> AbstractContextManager[None]:
        """`reset` resets the simulator if its episode has ended."""
        ...

    def resuming(self, limit: int, ticket: Ticket) -> AbstractContextManager[None]:
        """`reset` starts new episodes if the simulators are gone, as in a resumed run."""
        ...


def host_of(env: Any) -> Host | None:
    """Return the host of an environment, also of a wrapped one; None if it is a function of its state."""
    return getattr(env, "host", None)


def ticket_of(state: Any) -> Ticket:
    """Return the ticket in the state of an environment, which wrappers may have wrapped."""
    found = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_ticket) if is_ticket(leaf)]
    assert len(found) == 1, "the state of an environment with simulators on the host has one ticket"
    return found[0]


def is_ticket(leaf: Any) -> bool:
    """Return whether a part of a state is a ticket."""
    return isinstance(leaf, Ticket)
