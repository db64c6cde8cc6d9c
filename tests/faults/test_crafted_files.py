"""Small forms of the campaigns; `test_campaigns` runs the large ones."""

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
