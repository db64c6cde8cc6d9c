"""Demonstrations: read from common robot data formats, checked, in one form. Needs only numpy.

`read` opens HDF5 of robomimic and Minari, npz of DPPO and Parquet of LeRobot; `write` writes the first two.
"""

from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.formats import FORMATS, format_of, read, write

__all__ = ["FORMATS", "Demonstrations", "Episode", "format_of", "read", "write"]
