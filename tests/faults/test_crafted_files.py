"""Small forms of the campaigns on configurations and pages; `test_campaigns` runs the large ones."""

import pytest

from tests.faults import configurations, pages


def test_crafted_configurations_are_refused_in_one_sentence_or_read_as_they_are():
    assert configurations.campaign(25) == []


@pytest.mark.ci
def test_pages_of_hostile_names_and_numbers_are_harmless():
    assert pages.campaign(12) == []
