"""Read columns of Parquet files as numpy arrays, without Python objects per row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genpo_jax.data.files import FETCH, first_line, regular
from genpo_jax.data.reading import Reading

# Rows that are read at once.
BATCH = 2**16


class BadRow(ValueError):
    """A row that cannot be read.

    Attributes:
        row: its number in the column.
        problem: the problem, to be continued by the name of the column.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(f"{problem} in row {row}")
        self.row, self.problem = row, problem


def open_file(path: Path) -> pq.ParquetFile:
    """Return a Parquet file whose pages are checked where they have checksums.

    Raises:
        ValueError: if it is no regular file, or no Parquet file.
    """
    regular(path)
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def columns_of(file: pq.ParquetFile) -> dict[str, pa.DataType]:
    """Return the types of the columns by name."""
    return {column.name: column.type for column in file.schema_arrow}


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, or nested lists of numbers."""
    kind = _plain(kind)
    while _is_list(kind):
        kind = _plain(kind.value_type)
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def read_columns(file: pq.ParquetFile, path: Path, names: Sequence[str], reading: Reading) -> dict[str, np.ndarray]:
    """Return columns of numbers as arrays `[T, *]`.

    Raises:
        BadRow: if a row is null, or has another length than the first.
        ValueError: if the file is damaged or too large.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rows = 0
    try:
        # In batches, because only reading shows how large the lists are.
        for batch in file.iter_batches(BATCH, columns=list(names)):
            for name in names:
                parts[name].append(_values_from(rows, batch[name], parts[name]))
                reading.require_memory(parts[name][-1].size, path.name)
            rows += len(batch)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise damaged(path, error) from error
    return {name: np.concatenate(arrays) if arrays else np.zeros(0) for name, arrays in parts.items()}


def damaged(path: Path, error: Exception) -> ValueError:
    """Return the error of a Parquet file that cannot be read."""
    return ValueError(f"{path.name} cannot be read as Parquet ({first_line(error)}); {FETCH}")


def _values_from(start: int, array: Any, before: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rows of a batch that begins with row `start`; they must have the shape of those before.

    Raises:
        BadRow: names the first row that cannot be read.
    """
    try:
        values = _values(array)
    except BadRow as error:
        raise BadRow(start + error.row, error.problem) from error
    if before and values.shape[1:] != before[0].shape[1:]:
        raise BadRow(start, "a list of another length")
    return values


def _values(array: Any) -> np.ndarray:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        raise BadRow(int(np.argmax(array.is_null().to_numpy(zero_copy_only=False))), "no value")
    if not _is_list(array.type):
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
    else:
        lengths = np.diff(array.offsets.to_numpy())
        size = int(lengths[0]) if len(lengths) else 0
        if (lengths != size).any():
            raise BadRow(int(np.argmax(lengths != size)), "a list of another length")
    try:
        inner = _values(array.flatten())
    except BadRow as error:
        raise BadRow(error.row // max(size, 1), error.problem) from error
    return inner.reshape(len(array), size, *inner.shape[1:])


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
