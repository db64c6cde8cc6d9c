"""The campaigns as slow tests; run a script directly to choose the number of kills, folders or lines."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def campaign(script, *options):
    command = [sys.executable, "-W", "ignore", "-m", f"tests.faults.{script}", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


def test_killed_runs_resume_bit_identically(tmp_path):
    campaign("kills", "--kills", 60, "--out", tmp_path)


def test_damaged_folders_are_refused_or_resumed_correctly():
    campaign("folders", "--folders", 100)


def test_crafted_configurations_are_refused_or_read_as_they_are():
    campaign("configurations", "--files", 500)


def test_damaged_data_and_exports_are_refused_told_or_harmless():
    campaign("files", "--files", 100)


def test_pages_of_hostile_names_and_numbers_are_harmless():
    campaign("pages", "--pages", 200)


def test_bad_command_lines_end_with_one_sentence():
    campaign("command_lines", "--lines", 300)
