"""Ctrl-C while modules are imported."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interrupt_ends_process() -> Iterator[None]:
    """Let Ctrl-C end the process at once: an extension module that is being imported may hide a KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def start_jax() -> None:
    """Import and configure jax."""
    with interrupt_ends_process():
        from genpo_jax.runtime import configure_jax
    configure_jax()
