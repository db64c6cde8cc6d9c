"""Completion of the command line in bash, and in zsh by its `bashcompinit`."""

import dataclasses
import types
import typing
from typing import Any

from genpo_jax.commands import COMMANDS
from genpo_jax.commands.base import Command, option_of
from genpo_jax.commands.train import HostsConfig, TrainOptions
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs.names import NAMES
from genpo_jax.methods import METHODS, NetworksConfig

SETTINGS = (Config, EnvConfig, PPOConfig, NetworksConfig, *METHODS.values())
SCRIPT = """_genpo_jax() {
  local current="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}" words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="%s"
  else
    case "$command ${COMP_WORDS[COMP_CWORD-1]}" in
%s
    *) case "$command" in
%s
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
# Without a match, complete the name of a file.
complete -o default -F _genpo_jax genpo-jax
"""


def completion_script() -> str:
    """Return the script that completes commands, options, and the values of options with a fixed set of them."""
    options = {name: _options(command) for name, command in COMMANDS.items()}
    values = [
        f'    "{name} {option}") words="{" ".join(choices)}" ;;'
        for name, own in options.items()
        for option, choices in own.items()
        if choices
    ]
    listed = [f'      {name}) words="{" ".join(own)}" ;;' for name, own in options.items()]
    return SCRIPT % (" ".join(COMMANDS), "\n".join(values), "\n".join(listed))


def _options(command: Any) -> dict[str, list[str]]:
    """Return the values of each option of a command; no values if they are not a fixed set."""
    if not isinstance(command, Command):
        classes = (*SETTINGS, HostsConfig, TrainOptions)
    else:
        classes = (*(SETTINGS if command.has_settings else ()), command.options)
    found: dict[str, list[str]] = {}
    for cls in classes:
        hints = typing.get_type_hints(cls, include_extras=True)
        for field in dataclasses.fields(cls):
            option = option_of(hints[field.name], field.name)
            if option is None or not option.startswith("--"):
                continue
            found[option] = {"--env": sorted(NAMES), "--method": list(METHODS)}.get(option) or _choices(
                hints[field.name]
            )
            if hints[field.name] is bool:
                found[f"--no-{option[2:]}"] = []
    return found | {"--help": []}


def _choices(hint: Any) -> list[str]:
    """Return the values of a `Literal`, also inside of a union or a tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return [str(value) for value in arguments]
    if origin in (typing.Union, types.UnionType, tuple, typing.Annotated):
        return [choice for argument in arguments for choice in _choices(argument)]
    return []
