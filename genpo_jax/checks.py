"""Checks of settings and arguments; each error has the rule, the value received and a remedy.

This module does not import jax.
"""

import dataclasses
import math
import typing
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

# Longer values, as in damaged files, are cut in messages.
LONGEST_QUOTE = 500


def require(condition: bool, rule: str, name: str, value: object, remedy: str = "") -> None:
    """Raise `ValueError` with rule, value and remedy unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {_quoted(value)}" + (f"; {remedy}" if remedy else ""))


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def require_between(settings: Any, low: float, high: float, *names: str) -> None:
    """Check that each named setting is None or in [low, high]."""
    for name in names:
        value = getattr(settings, name)
        require(value is None or low <= value <= high, f"in [{low:g}, {high:g}]", name, value)


def require_one_shape(ndim: int, **arrays: Any) -> None:
    """Check that the named arrays have the same shape with `ndim` dimensions; broadcasting would give wrong values."""
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    one = len(set(shapes.values())) == 1 and len(next(iter(shapes.values()))) == ndim
    require(one, f"arrays of one shape with {ndim} dimensions", ", ".join(shapes), shapes)


def require_flags(**arrays: Any) -> None:
    """Check that the named arrays are boolean, because `~` and `|` act bitwise on integers."""
    for name, array in arrays.items():
        require(array.dtype == bool, "boolean", name, array.dtype, "compare with 0")


def require_fraction(**numbers: Any) -> None:
    """Check that the named numbers are in [0, 1]; an array, which may be traced, must only be a scalar."""
    for name, number in numbers.items():
        known, shape = isinstance(number, int | float), getattr(number, "shape", ())
        require(not known or 0 <= number <= 1, "in [0, 1]", name, number)
        require(shape == (), "a scalar", name, f"shape {shape}")


def require_count(**numbers: Any) -> None:
    """Check that the named numbers are positive integers that fit int32."""
    for name, number in numbers.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        require(whole and 1 <= number < 2**31, "an integer in [1, 2^31)", name, number)


def check_types(settings: Any) -> None:
    """Check that every field of a settings dataclass matches its annotation, and that numbers are finite.

    The command line parser checks types itself; values from Python or from a file are checked only here.

    Raises:
        ValueError: if the value of a field does not match its annotation; the first such field is named.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        require(_fits(value, hints[field.name]), _rule(hints[field.name]), field.name, value)


def _fits(value: Any, annotation: Any) -> bool:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if get_origin(annotation) in (UnionType, typing.Union):
        return any(_fits(value, option) for option in arguments)
    if get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if annotation is bool or isinstance(value, bool):
        return annotation is bool and isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, annotation)


def _rule(annotation: Any) -> str:
    names = {int: "an integer", float: "a finite number", str: "a string", bool: "True or False", NoneType: "None"}
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if get_origin(annotation) in (UnionType, typing.Union):
        return " or ".join(map(_rule, arguments))
    if get_origin(annotation) is tuple:
        return f"a tuple, each item {_rule(arguments[0])}"
    return names.get(annotation, f"a {annotation.__name__}")
