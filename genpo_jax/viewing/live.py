"""Watch a policy act, in MuJoCo Studio's viewer in a browser, for as long as one likes."""

import time
from pathlib import Path
from typing import Any

import jax
import mujoco

from genpo_jax.checks import require
from genpo_jax.runs.environment import environment_of
from genpo_jax.runs.folder import saved_config
from genpo_jax.runs.load import folder_of, load
from genpo_jax.runtime import compiler_options
from genpo_jax.viewing.episodes import Recorder, pose

WARNING = (
    "MuJoCo Studio's web viewer listens on all network interfaces of this machine, without a password or encryption: "
    "whoever can reach the port sees it, with its logs and file paths, and can steer it."
)


def live(
    run_dir: str | Path,
    *,
    port: int = 0,
    noise: bool = False,
    start_seed: int = 0,
    step: int | None = None,
    seed: int | None = None,
    episodes: int | None = None,
) -> None:
    """Serve the viewer, and play episodes in it in real time, until it is closed.

    Physics stays that of the training: the viewer shows it, and what is pushed there is not felt. It listens on all
    network interfaces (`WARNING`).

    Args:
        run_dir: folder of the run.
        port: of the viewer; 0 takes the first that is free from 8080 on.
        noise: act with the policy's own noise instead of none.
        start_seed: of starts and noise.
        step: env steps of the checkpoint; None for the newest.
        seed: which of several seeds.
        episodes: play so many; None goes on.

    Raises:
        ValueError: if the environment has no MuJoCo model, or shows no positions.
        ImportError: if MuJoCo is older than 4, or without its studio.
    """
    require(0 <= port < 2**16, "in [0, 65535]", "port", port)
    launch_web, viewer_protocol = _studio()
    run_dir = folder_of(Path(run_dir), seed)
    policy, config, env = load(run_dir, step), saved_config(run_dir), environment_of(run_dir)
    recorder = Recorder(env, config)
    xla_options = compiler_options(config.fusion_emitters)
    reset = jax.jit(env.reset, compiler_options=xla_options)

    advance = jax.jit(env.step, compiler_options=xla_options)
    act = jax.jit(lambda obs, key: policy(obs, key if noise else None))
    length = config.env_options.episode_length or env.default_episode_length
    key, played = jax.random.key(start_seed), 0
    data = mujoco.MjData(recorder.model)
    viewer_config = viewer_protocol.ViewerConfig(title=recorder.title, gfx="web", http_port=port)
    with launch_web.launch(viewer_config) as viewer:
        viewer.set_model(recorder.model, data=data)
        while viewer.is_running() and played != episodes:
            key, reset_key = jax.random.split(key)
            state, obs = reset(reset_key)
            terminated, steps, due = False, 0, time.monotonic()
            while viewer.is_running() and not terminated and steps < length:
                key, noise_key = jax.random.split(key)
                if steps % config.env_options.action_repeat == 0:
                    action = act(obs, noise_key)
                state, obs, _, terminated, _ = advance(state, action)
                pose(recorder.model, data, recorder.positions(state))
                data.time += recorder.seconds
                viewer.sync(recorder.model, data)
                steps += 1
                due = max(due + recorder.seconds, time.monotonic() - recorder.seconds)
                time.sleep(max(0.0, due - time.monotonic()))
            played += 1


def _studio() -> tuple[Any, Any]:
    try:
        from mujoco.studio import launch_web, viewer_protocol
    except ImportError as error:
        raise ImportError(
            f"watching live needs MuJoCo 4's studio, found MuJoCo {mujoco.__version__} without it ({error}); "
            "pip install 'mujoco>=4', or write a page by play without --live"
        ) from error
    return launch_web, viewer_protocol
