"""Several processes that train together: `jax.distributed`, and what only one of them may do."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import jax

from genpo_jax.config import HostsConfig


def connect(config: HostsConfig) -> None:
    """Join the other processes; must come before anything else that asks jax for devices.

    Raises:
        RuntimeError: if jax is in use already, or the others do not appear in time.
        ValueError: if "auto" finds no cluster that it knows.
    """
    if config.coordinator is None:
        return
    address = None if config.coordinator == "auto" else config.coordinator
    jax.distributed.initialize(address, config.num_processes, config.process_id)


def is_writer() -> bool:
    """Whether this process writes files and messages: the first one does."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in any process; all of them must ask."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(jax.numpy.asarray(flag)).any())


def wait_for_all(name: str) -> None:
    """Return when every process has come to this point."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextmanager
def local_devices_only() -> Iterator[None]:
    """Let `jax.devices` name this process's devices alone.

    MJX puts a model on the first of `jax.devices()`, which is out of reach in all processes but the first.
    """
    if jax.process_count() == 1:
        yield
    else:
        with mock.patch.object(jax, "devices", lambda backend=None: jax.local_devices(backend=backend)):
            yield
