"""Several processes that train together: `jax.distributed`, and what only one of them may do."""

import jax


def connect(coordinator: str | None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes; must come before anything else that asks jax for devices.

    Args:
        coordinator: address and port of process 0; "auto" asks the cluster; None is a single process.
        num_processes: needed with an address.
        process_id: of this process, from 0; needed with an address.

    Raises:
        RuntimeError: if jax is in use already, or the others do not appear in time.
        ValueError: if "auto" finds no cluster that it knows.
    """
    if coordinator is not None:
        jax.distributed.initialize(None if coordinator == "auto" else coordinator, num_processes, process_id)


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
