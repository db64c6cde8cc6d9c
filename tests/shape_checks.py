"""What checks the annotations of every call under pytest (see conftest.py)."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the result of a function.

    Not the fields of a pytree: jax fills them with shapes, shardings and tangents as well.
    """
    return function if function.__name__ == "__init__" else beartype(function)
