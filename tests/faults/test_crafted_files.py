"""Small forms of the campaigns; `test_campaigns` runs the large ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import command_lines, configurations, pages


def test_crafted_configurations_are_refused_in_one_sentence_or_read_as_they_are():
    assert configurations.campaign(25) == []


@pytest.mark.ci
def test_pages_of_hostile_names_and_numbers_are_harmless():
    assert pages.campaign(12) == []


@pytest.mark.ci
def test_the_campaign_of_command_lines_knows_the_options_of_every_program():
    classes = {name: options for name, (options, _) in command_lines.programs().items()}
    assert len(list(command_lines.lines(60, 0, classes))) == 60 and len(classes) == 20


@pytest.mark.ci
@pytest.mark.parametrize("script", ["configurations", "files"])
def test_a_campaign_runs_as_its_documentation_says(script):
    command = [sys.executable, "-m", f"tests.faults.{script}", "--files", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("\n0 problems\n"), done.stdout + done.stderr
