"""Write files so that a crash leaves either the old contents or the new, never a mixture."""

import os
from pathlib import Path


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


def sync(path: str | Path) -> None:
    """Force the file or folder `path` to disk; does nothing where folders cannot be opened (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
