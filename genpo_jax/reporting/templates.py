"""Open the templates of pages, with the filters that format numbers."""

from pathlib import Path

import jinja2

from genpo_jax.reporting.numbers import duration, percent, short


def template(name: str) -> jinja2.Template:
    """Return a template of this folder; values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"short": short, "duration": duration, "percent": percent}
    return environment.get_template(name)
