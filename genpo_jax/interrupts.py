"""Ctrl-C on the command line."""

import os
import signal
import threading
from types import FrameType

# Exit code of a process that was interrupted before an orderly stop: the shell's code for SIGINT.
INTERRUPTED = 130


def exit_if_an_import_is_interrupted() -> None:
    """Let Ctrl-C during an import end the process at once; elsewhere it raises `KeyboardInterrupt` as usual.

    An extension module that is being imported hides the exception, replaces it by its own, or crashes.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    inner = frame
    while inner is not None:
        if inner.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(INTERRUPTED)
        inner = inner.f_back
    signal.default_int_handler(number, frame)
