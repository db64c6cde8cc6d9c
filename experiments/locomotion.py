"""Train a policy on one environment: `python -m experiments.locomotion --env humanoid`."""

import argparse
import logging
import sys
import time
from pathlib import Path

import tyro

from experiments.presets import preset
from genpo_jax.config import Config, HostsConfig

DESCRIPTION = (
    "Train a policy on one environment. Defaults shown are those of the preset of this environment and method for a "
    "machine without an accelerator; on a GPU or TPU they are larger."
)
# These may differ between a run and its continuation without making it another run.
FREE_ON_RESUME = ("resume", "run_dir", "num_timesteps", "num_evals", "eval_envs", "checkpoint_minutes", "hosts")


def parse(arguments: list[str]) -> Config:
    """Turn a command line into settings: those of the preset, or of the run to resume, where it is silent.

    Raises:
        ValueError: if a setting is out of range, or a resumed run is asked to be another run.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--env", default="humanoid")
    peek.add_argument("--method", default="genpo++")
    peek.add_argument("--run-dir", "--run_dir")
    peek.add_argument("--resume", action="store_true")
    peek.add_argument("--coordinator")
    peek.add_argument("--num-processes", "--num_processes", type=int)
    peek.add_argument("--process-id", "--process_id", type=int)
    seen, _ = peek.parse_known_args(arguments)
    asks_help = any(argument in ("-h", "--help") for argument in arguments)
    hosts = HostsConfig(seen.coordinator, seen.num_processes, seen.process_id)
    if hosts.coordinator is not None and not asks_help:
        from genpo_jax.hosts import connect

        connect(hosts)
    saved = _saved_config(seen.run_dir) if seen.resume and not asks_help else None
    default = saved or preset(seen.env, seen.method, accelerator=not asks_help and _has_accelerator())
    config = tyro.cli(
        tyro.conf.OmitArgPrefixes[Config],
        args=arguments,
        default=default,
        prog="python -m experiments.locomotion",
        description=DESCRIPTION,
    )
    if saved is not None:
        _refuse_changes(saved, config)
    return config


def _has_accelerator() -> bool:
    import jax

    return jax.default_backend() != "cpu"


def _saved_config(run_dir: str | None) -> Config:
    if run_dir is None:
        raise ValueError("--resume needs --run-dir, the folder of the run to go on with")
    from genpo_jax.run import check_run_dir
    from genpo_jax.sinks import read_config

    check_run_dir(Path(run_dir), resume=True)
    return Config.from_dict(read_config(run_dir)["config"])


def _refuse_changes(saved: Config, config: Config) -> None:
    before, now = saved.to_dict(), config.to_dict()
    changed = [name for name in before if name not in FREE_ON_RESUME and before[name] != now[name]]
    if changed:
        details = ", ".join(f"{name}: saved {before[name]!r}, given {now[name]!r}" for name in changed)
        raise ValueError(f"a resumed run keeps its settings, but {details}; drop these options, or start a new run")


def main() -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        config = parse(sys.argv[1:])
        name = f"{config.env}-{config.policy.method}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        run_dir = Path(config.run_dir or Path("runs") / name)
        from genpo_jax import run
        from genpo_jax.hosts import is_writer

        run.configure_jax()
        run.train(config, run_dir)
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    if is_writer():
        print(f"everything is in {run_dir}")


if __name__ == "__main__":
    main()
