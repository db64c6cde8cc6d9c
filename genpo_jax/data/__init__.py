"""Demonstrations: read from the formats that robots' data comes in, checked, in one form. Needs only numpy.

`read` opens robomimic's and Minari's HDF5, DPPO's npz and LeRobot's Parquet; `write` makes the first two.
"""

from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.formats import FORMATS, format_of, read, write

__all__ = ["FORMATS", "Demonstrations", "Episode", "format_of", "read", "write"]
