"""Demonstrations: read from common robot data formats, checked, in one form. Needs only numpy.

`read` opens HDF5 of robomimic and Minari, npz of DPPO and Parquet of LeRobot; `write` writes the first two.
`reading.Reading` is the context of one call of `read`; each format is a module that fills it.
"""

from genpo_jax.data.demonstrations import Demonstrations, Episode
from genpo_jax.data.formats import FORMATS, format_of, read, read_and_inspect, write
from genpo_jax.data.reading import EVERY

__all__ = ["EVERY", "FORMATS", "Demonstrations", "Episode", "format_of", "read", "read_and_inspect", "write"]
