import pytest

from genpo_jax.data import hdf5


@pytest.fixture(autouse=True)
def without_probe(request, monkeypatch):
    """Read HDF5 without the child process, which takes 0.2 s for each of hundreds of files."""
    if request.path.name != "test_probe.py":
        monkeypatch.setattr(hdf5, "probe", lambda path: None)
