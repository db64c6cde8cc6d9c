"""`genpo-jax envs` and `genpo-jax methods`."""

import json
from dataclasses import dataclass

from genpo_jax.commands.base import Command


@dataclass(frozen=True)
class EnvsOptions:
    """List all environments with their backends."""

    json: bool = False
    """Print JSON: a list of environments with name, family and backends (default first)."""


@dataclass(frozen=True)
class MethodsOptions:
    """List all methods and how each computes its likelihood ratio."""

    json: bool = False
    """Print JSON: a list of methods with name and description."""


def list_envs(options: EnvsOptions) -> None:
    """Print a table or JSON."""
    from genpo_jax.envs.names import families

    if options.json:
        rows = [
            {"name": name, "family": family, "backends": [b for b in backends if b]}
            for family, members in families().items()
            for name, backends in members.items()
        ]
        print(json.dumps(rows, indent=2))
        return
    for family, members in families().items():
        print(f"{family}:")
        for name, backends in members.items():
            print(f"  {name:36} {', '.join(b for b in backends if b) or '-'}")
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
