"""Search spaces of sweeps: parse `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log` and `NAME=A,B,...`, and apply drawn values."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from genpo_jax.checks import require
from genpo_jax.config import Config
from genpo_jax.presets import apply

# Parts of a config whose settings can be tuned; no two of them have a setting of the same name.
PARTS = ("ppo", "method", "networks", "env_options")
FORMS = "NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,..."


@dataclass(frozen=True)
class Dimension:
    """Values of one setting.

    Attributes:
        part: the part of the config that has the setting, such as `ppo`.
        name: name of the setting.
        low: lower bound, inclusive; None for a list of choices.
        high: upper bound, inclusive; None for a list of choices.
        log: whether the logarithm is uniform.
        choices: values to choose from, as literals or plain words.
    """

    part: str
    name: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[str, ...] = ()

    def suggest(self, trial: Any) -> Any:
        """Return a value that an Optuna trial draws."""
        if self.choices:
            return self.restored(trial.suggest_categorical(self.name, list(self.choices)))
        draw = trial.suggest_int if isinstance(self.low, int) else trial.suggest_float
        return draw(self.name, self.low, self.high, log=self.log)

    def stored(self, value: Any) -> Any:
        """Return what Optuna stores for a value of the setting; None if the value is not in this space."""
        if self.choices:
            return next((choice for choice in self.choices if literal(choice) == value), None)
        assert self.low is not None and self.high is not None
        return value if isinstance(value, int | float) and self.low <= value <= self.high else None

    def restored(self, stored: Any) -> Any:
        """Return the value of the setting that Optuna stored."""
        return literal(stored) if self.choices else stored

    @property
    def ends(self) -> list[Any]:
        """The values whose validity is checked before a sweep: the bounds, or all choices."""
        return [literal(choice) for choice in self.choices] or [self.low, self.high]


def parse_space(texts: Sequence[str], config: Config) -> list[Dimension]:
    """Parse a search space.

    Args:
        texts: one text for each setting.
        config: the settings of all trials; its method determines which settings exist.

    Raises:
        ValueError: if a text has another form, a setting is unknown, is named twice, or a bound is not allowed.
    """
    space = [_dimension(text, config) for text in texts]
    names = [dimension.name for dimension in space]
    require(len(set(names)) == len(names), "different settings", "tune", names)
    for dimension in space:
        for value in dimension.ends:
            with_values(config, {dimension: value})
    return space


def with_values(config: Config, values: dict[Dimension, Any]) -> Config:
    """Return the config with these values of settings; raises `ValueError` if they are not allowed."""
    layer: dict[str, dict[str, Any]] = {}
    for dimension, value in values.items():
        layer.setdefault(dimension.part, {})[dimension.name] = value
    return apply(config, layer)


def literal(text: str) -> Any:
    """Return the value of a Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _dimension(text: str, config: Config) -> Dimension:
    name, equals, values = text.partition("=")
    part, name = _place(name.replace("-", "_"), config)
    require(bool(equals and values), f"in the form {FORMS}", "tune", text)
    bounds = values.split(":")
    if len(bounds) == 1:
        # A comma between parentheses is part of a list of layer sizes.
        choices = tuple(re.split(r",(?![^()]*\))", values))
        require(len(set(choices)) > 1, "a list of at least two different values", "tune", text)
        return Dimension(part, name, choices=choices)
    log = bounds[2:] == ["log"]
    require(len(bounds) == 2 or log, f"in the form {FORMS}", "tune", text)
    low, high = (_number(bound, _is_integer(getattr(config, part), name), text) for bound in bounds[:2])
    require(low < high and (low > 0 or not log), "LOW < HIGH, and LOW > 0 with log", "tune", text)
    return Dimension(part, name, low, high, log)


def _place(name: str, config: Config) -> tuple[str, str]:
    """Return part and name of a setting, given as `learning_rate` or `ppo.learning_rate`."""
    places = {f.name: part for part in PARTS for f in fields(getattr(config, part))}
    part, _, short = name.rpartition(".")
    if short not in places or part not in ("", places[short]):
        raise ValueError(
            f"tune must name a setting of ppo, method, networks or env_options, got {name!r}; choose from "
            f"{', '.join(sorted(places))}"
        )
    return places[short], short


def _is_integer(part: Any, name: str) -> bool:
    kind = get_type_hints(type(part))[name]
    kinds = get_args(kind) or (kind,)
    return int in kinds and float not in kinds


def _number(text: str, integer: bool, where: str) -> float | int:
    try:
        return int(text) if integer else float(text)
    except ValueError:
        kind = "an integer" if integer else "a number"
        raise ValueError(f"tune must have {kind} as each bound, got {where!r}; use the form {FORMS}") from None
