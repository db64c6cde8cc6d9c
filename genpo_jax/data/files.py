"""Open files of strangers: no pipes, no endless JSON, one sentence for each damaged file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genpo_jax.checks import require

MAX_JSON_BYTES = 256 * 2**20
LONGEST_QUOTE = 200
# Suffixes of HDF5 files.
HDF5 = (".hdf5", ".h5")
FETCH = "it is damaged, incomplete or has another layout: fetch it again"


def regular(path: Path) -> Path:
    """Return the path of a regular file.

    Raises:
        ValueError: if it does not exist, or is a folder, a pipe or a device; opening a pipe would wait without end.
    """
    require(path.is_file(), "a regular file", path.name, str(path), "it is missing, a folder, a pipe or a device")
    return path


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: if the file has other contents.
    """
    return parsed_object(_text(path), path.name)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of each line of a file."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            yield parsed_object(line, f"line {number} of {path.name}")


def parsed_object(text: str | bytes, name: str) -> dict[str, Any]:
    """Return the JSON object in a text; `name` is used in errors.

    Raises:
        ValueError: if the text is no JSON object.
    """
    try:
        contents = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON, got a text that breaks off or has errors; {FETCH}") from error
    require(isinstance(contents, dict), "a JSON object", name, contents if _short(contents) else type(contents))
    return contents


def first_line(error: BaseException) -> str:
    """Return the first line of an error of a library, shortened: messages about damaged files may quote them."""
    lines = str(error).splitlines() or [""]
    text = lines[0] or type(error).__name__
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."


def _short(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 40)


def _text(path: Path) -> str:
    size = regular(path).stat().st_size
    require(size <= MAX_JSON_BYTES, f"at most {MAX_JSON_BYTES} bytes", path.name, size)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} must be text in UTF-8; {FETCH}") from error
