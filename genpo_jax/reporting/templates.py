"""Fill in the templates of pages, with the filters that format numbers."""

from pathlib import Path
from typing import Any

import jinja2

from genpo_jax.reporting.numbers import duration, percent, short
from genpo_jax.runs.files import printable


def filled_in(name: str, **values: Any) -> str:
    """Return a page from a template of this folder; values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"short": short, "duration": duration, "percent": percent}
    return printable(environment.get_template(name).render(values))
