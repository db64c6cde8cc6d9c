"""Pack numbers into short text for a page; `player.js` unpacks them."""

import base64
import zlib
from typing import Any

import numpy as np

INT16 = 32767


def packed(values: np.ndarray, dtype: Any) -> str:
    """Return numbers as text: little-endian bytes, compressed by zlib, in base 64."""
    contents = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()
    return packed_bytes(contents)


def packed_bytes(contents: bytes) -> str:
    """Return bytes as text: compressed by zlib, in base 64."""
    return base64.b64encode(zlib.compress(contents, 9)).decode()


def rounded(values: np.ndarray) -> list[float]:
    """Round numbers to five decimals."""
    return [round(float(value), 5) for value in values]
