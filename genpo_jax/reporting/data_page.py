"""Write what demonstrations hold as one HTML page that needs no network, with a histogram of every coordinate."""

from genpo_jax.data.summary import Coordinate, Summary
from genpo_jax.reporting.charts import COLORS, histogram
from genpo_jax.reporting.templates import filled_in

TEMPLATE = "data_page.html"
# More charts make a page that browsers scroll slowly.
MAX_CHARTS = 300


def data_page(summary: Summary) -> str:
    """Return the page of a summary."""
    return filled_in(
        TEMPLATE,
        summary=summary,
        title=dict(summary.facts)["data"],
        lengths=histogram(summary.lengths, "Steps per episode", "steps", COLORS[2]),
        parts=[
            ("Actions", _charts(summary.actions, COLORS[0]), len(summary.actions)),
            ("Observations", _charts(summary.observations, COLORS[1]), len(summary.observations)),
        ],
    )


def _charts(coordinates: list[Coordinate], color: str) -> list[tuple[Coordinate, str]]:
    """Return the coordinates and their histograms; a constant one has none."""
    return [
        (each, "" if each.constant else histogram(each.values, each.name, "value", color))
        for each in coordinates[:MAX_CHARTS]
    ]
