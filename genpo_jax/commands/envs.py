"""`genpo-jax envs` and `genpo-jax methods`."""

import json
from dataclasses import dataclass

from genpo_jax.checks import require
from genpo_jax.commands.base import Command
from genpo_jax.config import Config
from genpo_jax.envs.published import PublishedPPO, PublishedSAC


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
    presets: bool = False
    """Print a Markdown table: the preset of each environment for an accelerator beside its library's settings.
    Settings of MuJoCo Playground need the package."""

    def __post_init__(self) -> None:
        """Check that at most one form is chosen."""
        require(not (self.json and self.presets), "chosen without json", "presets", self.presets, "leave one out")


@dataclass(frozen=True)
class MethodsOptions:
    """List all methods and how each computes its likelihood ratio."""

    json: bool = False
    """Print JSON: a list of methods with name and description."""


def list_envs(options: EnvsOptions) -> None:
    """Print a table or JSON."""
    from genpo_jax.envs.names import families, features_of

    if options.presets:
        print(preset_table())
        return
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


# Policy calls in the usual update of an accelerator, 4,096 environments times 32.
USUAL_UPDATE = 4096 * 32


def preset_table() -> str:
    """Return a Markdown table of the presets for an accelerator, each number beside the library's own."""
    from genpo_jax.envs.names import NAMES
    from genpo_jax.envs.published import published
    from genpo_jax.presets import preset

    columns = ("environment", "million env steps", "environments", "policy calls per update")
    columns += (f"gradient steps per {USUAL_UPDATE:,} calls", "discount", "action repeat")
    rows = [columns, ("---",) * len(columns)]
    for name in NAMES:
        ours, theirs = _figures(preset(name, accelerator=True)), _published_figures(published(name))
        rows.append((name, *(f"{a} / {b}" for a, b in zip(ours, theirs, strict=True))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figures(config: Config) -> tuple[str, ...]:
    options, ppo = config.env_options, config.ppo
    calls = options.num_envs * ppo.unroll
    gradient_steps = ppo.num_epochs * ppo.num_minibatches / calls
    gamma = f"{ppo.gamma:g}" if ppo.final_gamma is None else f"{ppo.gamma:g} to {ppo.final_gamma:g}"
    return _cells(config.num_timesteps, options.num_envs, calls, gradient_steps, gamma, options.action_repeat)


def _published_figures(library: PublishedPPO | PublishedSAC | None) -> tuple[str, ...]:
    if library is None:
        return ("-",) * 6
    if isinstance(library, PublishedSAC):
        return _cells(library.num_timesteps, library.num_envs, None, None, f"{library.discounting:g}", None)
    calls, gradient_steps = library.transitions, library.gradient_steps
    gamma = f"{library.discounting:g}"
    return _cells(library.num_timesteps, library.num_envs, calls, gradient_steps, gamma, library.action_repeat)


def _cells(
    steps: int, envs: int, calls: int | None, gradient_steps: float | None, gamma: str, repeat: int | None
) -> tuple[str, ...]:
    per_update = "-" if gradient_steps is None else f"{gradient_steps * USUAL_UPDATE:.0f}"
    numbers = ("-" if number is None else f"{number:,}" for number in (envs, calls))
    return (f"{steps / 1e6:,.4g}", *numbers, per_update, gamma, "-" if repeat is None else str(repeat))


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
