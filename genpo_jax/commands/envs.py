"""`genpo-jax envs` and `genpo-jax methods`."""

import json
from dataclasses import dataclass

from genpo_jax.commands.base import Command


@dataclass(frozen=True)
class EnvsOptions:
    """List all environments with their backends and features.

    The first backend is the default without a preset; the preset of some environments chooses another.

    Features:
    - success: reports the metric `success`;
    - expert: has a scripted expert, for `genpo-jax collect`;
    - modes: reports the mode of a success as `mode_0`, `mode_1`, ...;
    - randomization: works with --randomize, except on backend c;
    - mirror: works with --mirror.
    """

    json: bool = False
    """Print JSON: a list of environments with name, family, backends and features.
    The first backend is the default without a preset."""


@dataclass(frozen=True)
class MethodsOptions:
    """List all methods and how each computes its likelihood ratio."""

    json: bool = False
    """Print JSON: a list of methods with name and description."""


def list_envs(options: EnvsOptions) -> None:
    """Print a table or JSON."""
    from genpo_jax.envs.names import families, features_of

    if options.json:
        rows = [
            {"name": name, "family": family, "backends": [b for b in backends if b], **features_of(name)._asdict()}
            for family, members in families().items()
            for name, backends in members.items()
        ]
        print(json.dumps(rows, indent=2))
        return
    print(f"  {'environment':36} {'backends, the default without a preset first':42} features")
    for family, members in families().items():
        print(f"{family}:")
        for name, backends in members.items():
            listed = ", ".join(b for b in backends if b) or "-"
            print(f"  {name:36} {listed:42} {features_of(name)}")
    print("Gymnasium's: --env gymnasium:NAME, with bounded continuous actions (docs/interoperate.md).")
    print("Your own: --env package.module:NAME, a class or function that returns an environment (docs/extend.md).")


def list_methods(options: MethodsOptions) -> None:
    """Print a table or JSON."""
    from genpo_jax.methods import METHODS

    rows = {name: (method.__doc__ or "").partition("\n")[0] for name, method in METHODS.items()}
    if options.json:
        print(json.dumps([{"name": name, "description": text} for name, text in rows.items()], indent=2))
    else:
        print("\n".join(f"  {name:12} {text}" for name, text in rows.items()))


ENVS = Command(EnvsOptions, list_envs, jax=False)
METHODS_COMMAND = Command(MethodsOptions, list_methods, jax=False)
