"""`genpo-jax data` prints what demonstrations hold, and writes a page."""

import re
from typing import Any

import h5py
import numpy as np
import pytest
import tiny_sets

from genpo_jax import cli
from genpo_jax.commands.pretrain import PretrainOptions, demonstrations_of
from genpo_jax.reporting.charts import histogram


def printed(capsys, *arguments):
    cli.main(["data", *map(str, arguments)])
    return capsys.readouterr().out


def test_it_prints_episodes_names_rate_ranges_and_what_is_left_out(tmp_path, capsys):
    text = printed(capsys, tiny_sets.lerobot(tmp_path / "set"))
    assert re.search(r"^episodes +3, 15 steps; 4 to 6, median 5 steps per episode$", text, re.M)
    assert re.search(r"^rate +20 Hz; 1 s in all$", text, re.M)
    assert re.search(r"^by default +observation.state$", text, re.M)
    assert re.search(r"^left out +observation.images.top \(video\)$", text, re.M)
    elbow = np.concatenate([each.action[:, 1] for each in tiny_sets.EPISODES]).astype(np.float64)
    row = re.search(r"^elbow +(\S+) +(\S+) +(\S+) +(\S+)$", text, re.M)
    expected = [elbow.min(), elbow.max(), elbow.mean(), elbow.std()]
    np.testing.assert_allclose([float(number) for number in row.groups()], expected, rtol=1e-3)


def test_it_describes_all_vectors_and_names_constant_coordinates(tmp_path, capsys):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as opened:
        file: Any = opened
        for i, length in enumerate(tiny_sets.LENGTHS):
            file[f"data/demo_{i}/obs/table"] = np.full((length, 2), 0.8)
            file[f"data/demo_{i}/actions"][:, 1] = 0.25
    text = printed(capsys, path)
    assert re.search(r"^observations +state \[3\], table \[2\]$", text, re.M)
    assert re.search(r"^table\[1\] +0.8 +0.8 +0.8 .* constant$", text, re.M)
    assert re.search(r"^action\[1\] +0.25 +0.25 +0.25 +0 constant$", text, re.M)
    assert re.search(r"^held out +1 episodes by the file$", text, re.M)
    text = printed(capsys, path, "--obs-keys", "state", "--episodes", "0,2")
    assert re.search(r"^episodes +2, 10 steps", text, re.M)
    assert re.search(r"^left out +obs/table \[2\]$", text, re.M)


def test_suspicious_data_is_named(tmp_path, capsys):
    path = tiny_sets.robomimic(tmp_path / "demos.hdf5")
    with h5py.File(path, "r+") as opened:
        file: Any = opened
        file["data/demo_1/actions"][...] = 0.5
    assert re.search(r"^check +action never changes in demo_1$", printed(capsys, path), re.M)


def test_it_writes_a_page_with_a_histogram_of_each_coordinate_and_no_link(tmp_path, capsys):
    folder = tiny_sets.lerobot(tmp_path / "<script>")
    printed(capsys, folder, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1 + 2 + 3
    for name in (*tiny_sets.NAMES, *tiny_sets.STATES, "observation.images.top (video)"):
        assert name in page
    assert "<script" not in page and "http" not in re.sub('http-equiv="[^"]*"', "", page)


def test_data_that_cannot_be_read_ends_in_one_sentence(tmp_path):
    (tmp_path / "demos.hdf5").write_bytes(b"no data")
    with pytest.raises(SystemExit, match=r"^error: .*demos.hdf5: it cannot be read as HDF5 .*fetch it again$"):
        cli.main(["data", str(tmp_path / "demos.hdf5")])


def test_pretraining_reads_several_files_a_part_and_a_mask(tmp_path):
    first, second = (tiny_sets.robomimic(tmp_path / f"{name}.hdf5") for name in "ab")
    both, source = demonstrations_of(PretrainOptions(data=(first, second), run_dir=tmp_path / "run"))
    assert len(both) == 6 and source == f"{first}, {second}"
    part, _ = demonstrations_of(PretrainOptions(data=(first,), part="0,2", run_dir=tmp_path / "run"))
    assert not tiny_sets.differences(part, numbers=[0, 2])
    train, _ = demonstrations_of(PretrainOptions(data=(first,), mask="train", run_dir=tmp_path / "run"))
    assert not tiny_sets.differences(train, numbers=[0, 1])
    with pytest.raises(ValueError, match="data must name the file or folder of the demonstrations, got none"):
        demonstrations_of(PretrainOptions(run_dir=tmp_path / "run"))


def test_a_histogram_has_a_bar_for_each_occupied_bin():
    svg = histogram(np.array([0.0, 0.0, 1.0]), "two values", "value")
    bars = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)
    (left, _, tall), (right, _, low) = ([float(number) for number in bar] for bar in bars)
    assert left < right and tall == pytest.approx(2 * low, abs=0.2)
