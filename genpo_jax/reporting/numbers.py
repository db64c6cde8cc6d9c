"""Format numbers for reading: short, without digits that carry no information."""

import math
from typing import Any

# Larger numbers are errors, and their differences and squares would overflow.
LARGEST = 1e150
SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: Any) -> float | None:
    """Return a value from a file as a float; None if it is no number, or not finite, or beyond 1e150."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if abs(value) <= LARGEST else None


def short(value: float | None, digits: int = 3) -> str:
    """Return a number as `1.25M`, `0.03` or `2.4e-06`; a dash if it is None."""
    if value is None:
        return "-"
    # What rounds to the next suffix gets it, and what is below 1000 needs three digits.
    rounded = round(value, 2 - math.floor(math.log10(abs(value)))) if value else 0
    for size, suffix in SUFFIXES:
        if abs(rounded) >= size and (size > 1e3 or abs(value) >= 10 * size):
            return f"{value / size:.{max(digits, 3)}g}{suffix}"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Return a duration as `42 s`, `12.3 min` or `4.5 h`; a dash if it is None."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent(share: float | None) -> str:
    """Return a fraction as `42 %`; a dash if it is None."""
    return "-" if share is None else f"{100 * share:.0f} %"
