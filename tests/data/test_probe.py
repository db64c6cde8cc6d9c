"""Damaged HDF5 files on which the library itself does not return are refused."""

import pytest
import tiny_sets

from genpo_jax.data import hdf5, read


def test_a_file_on_which_the_library_loops_forever_is_refused(tmp_path, monkeypatch):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    monkeypatch.setattr(hdf5, "PROBE", "while True: pass")
    monkeypatch.setattr(hdf5, "PROBE_SECONDS", 1.0)
    with pytest.raises(ValueError, match="the HDF5 library does not finish visiting it in 1 s; it is damaged") as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_file_on_which_the_library_crashes_is_refused(tmp_path, monkeypatch):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    monkeypatch.setattr(hdf5, "PROBE", "import os; os.abort()")
    with pytest.raises(ValueError, match="the HDF5 library crashes on it .signal 6.; it is damaged"):
        hdf5.probe(path)


def test_modules_of_the_current_folder_do_not_run_in_the_probe(tmp_path, monkeypatch):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    (tmp_path / "h5py.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    hdf5.probe(path)
    assert not (tmp_path / "ran").exists()
    assert len(read(path).episodes) == 3
