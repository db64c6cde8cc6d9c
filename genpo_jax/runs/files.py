"""Write and remove files. A crash leaves the old or the new contents of a file, never a mixture."""

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Orbax and TensorStore match paths as patterns, read a backslash or `:/` as in Windows paths and URLs, and fail on
# surrogates, as which Python reads bytes that are no UTF-8.
UNUSABLE = re.compile(r"[\[\]*?\\\ud800-\udfff]|:(/|$)")
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
# Errors of file systems without locks or without `fsync` of folders.
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

logger = logging.getLogger(__name__)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace the file `path` by `data`; once this returns, `data` survives a power loss.

    Raises:
        OSError: the folder does not exist or is not writable, or the disk is full; `path` is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def check_file(path: Path) -> None:
    """Raise `ValueError` if `path` exists and is not a file: reading a pipe would never end."""
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(f"{path} is not a file; restore it, or remove it")


def read_file(path: Path) -> bytes:
    """Return the contents of a file.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: `path` is not a file, for example a folder, a pipe or a device.
    """
    check_file(path)
    return path.read_bytes()


def printable(text: str) -> str:
    r"""Return a text that UTF-8 can encode: lone surrogates become escapes such as `\udcfc`.

    Python reads undecodable bytes in names of files as such surrogates, and JSON may contain them.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed writers from `folder`; no other process may be writing there."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a link; the target of a link is kept."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise `ValueError` if no file can be created at `path` or, if `path` is a folder, in it; leave nothing behind."""
    try:
        existing = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
        if not existing.is_dir() and existing != path.absolute():
            raise ValueError(f"{path} cannot be written, because {existing} is a file; choose another path")
        # Permissions are not enough: a file system may be read-only or full.
        with tempfile.TemporaryFile(dir=existing if existing.is_dir() else existing.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; choose another path") from error


def check_usable(path: Path) -> None:
    """Raise `ValueError` if the checkpoints of a run in `path` could not be read again."""
    if match := UNUSABLE.search(str(path.absolute())):
        raise ValueError(
            f"the path of a run must not contain {match[0]!r}, because its checkpoints could not be read again, got "
            f"{str(path)!r}; choose another run_dir"
        )


def sync(path: str | Path) -> None:
    """Force the file or folder `path` to disk, if the system (not Windows) and the file system support it."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with if_supported("forcing folders to disk (fsync)"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def if_supported(operation: str) -> Iterator[None]:
    """Skip an operation that the file system does not support, and warn once in this process."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn_unsupported(operation, os.strerror(error.errno))


@cache
def _warn_unsupported(operation: str, reason: str) -> None:
    logger.warning("the file system does not support %s: %s; training continues without it", operation, reason)
