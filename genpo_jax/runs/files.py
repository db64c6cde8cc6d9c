"""Write files so that a crash leaves either the old contents or the new, never a mixture; remove without strays."""

import os
import re
import shutil
import tempfile
from pathlib import Path

# Orbax and TensorStore look for files by patterns, and read a backslash and `:/` as they are read elsewhere.
UNUSABLE = re.compile(r"[\[\]*?\\]|:(/|$)")
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Replace the file `path` by `data`; once this returns, `data` survives a power loss.

    Raises:
        OSError: the folder does not exist, is not writable, or the disk is full; `path` is then unchanged.

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
    """Raise `ValueError` where something else than a file lies at `path`: a pipe would be waited for, for ever."""
    if os.path.lexists(path) and not path.is_file():
        raise ValueError(f"{path} is not a file; restore it, or remove it")


def read_file(path: Path) -> bytes:
    """Return the contents of a file.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is something else, such as a folder, a pipe or a device.
    """
    check_file(path)
    return path.read_bytes()


def remove_temporaries(folder: Path) -> None:
    """Remove what writers that were killed have left in `folder`; nobody else may be writing there."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, but never what a link points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise `ValueError` where no file can be made at `path` or, if it is a folder, in it; leaves nothing behind."""
    try:
        there = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))
        if not there.is_dir() and there != path.absolute():
            raise ValueError(f"{path} cannot be written, as {there} is a file; name another place")
        # Asking for permissions is not enough: a file system may be read-only, or full.
        with tempfile.TemporaryFile(dir=there if there.is_dir() else there.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; name another place") from error


def check_usable(path: Path) -> None:
    """Raise `ValueError` where a run's checkpoints could not be read again."""
    if found := UNUSABLE.search(str(path.absolute())):
        raise ValueError(
            f"the path of a run must be without {found[0]!r}, as its checkpoints could not be read again, got "
            f"{str(path)!r}; name another run_dir"
        )


def sync(path: str | Path) -> None:
    """Force the file or folder `path` to disk; does nothing where folders cannot be opened (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
