"""Play an exported policy in our own environment.

The policy runs in ONNX Runtime, the physics in MuJoCo's C engine if the environment supports it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genpo_jax import envs, intervals
from genpo_jax.checks import require
from genpo_jax.config import SUCCESS, EnvConfig
from genpo_jax.envs import Environment, EpisodeEnv
from genpo_jax.envs.base import ACTOR_OBS, step_seconds, succeeded
from genpo_jax.envs.names import BRAX, PLAYGROUND, TASKS
from genpo_jax.envs.wrappers import from_units
from genpo_jax.export.standalone import OnnxPolicy, describe
from genpo_jax.runs.environment import Recorded, check_conditions, importable_name, whole_run, with_physics
from genpo_jax.runtime import compiler_options

PERCENTILES = (50, 90, 99)
# Backends that simulate a MuJoCo model as MuJoCo does, which the C engine does faster for a single environment.
MUJOCO_BACKENDS = ("c", "mjx", "jax", "warp")
# Seed of the initial states, the same as that of `genpo-jax eval`.
START_SEED = 1_000_003


@dataclass(frozen=True)
class Deployment:
    """Results of the episodes that an exported policy has played.

    Attributes:
        env: name of the environment.
        backend: backend of its physics; None if it has no choice of backends.
        returns: return of each episode `[n]`.
        lengths: env steps of each episode `[n]`.
        metrics: metrics of each episode by name, `[n]` each: sums over the steps; of outcomes the last value.
        latencies: seconds of each policy call `[m]`.
        period_seconds: simulated time from one policy call to the next, which is the deadline of a call. None: unknown.
        trained_return: mean return at the last evaluation of training, with the same kind of actions. None: unknown.
    """

    env: str
    backend: str | None
    returns: np.ndarray
    lengths: np.ndarray
    metrics: dict[str, np.ndarray]
    latencies: np.ndarray
    period_seconds: float | None
    trained_return: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return means, intervals and percentiles, ready for JSON."""
        _, low, high = intervals.mean(self.returns)
        hits, period = self.metrics.get(SUCCESS), self.period_seconds
        return {
            "env": self.env,
            "backend": self.backend,
            "episodes": len(self.returns),
            "return": float(self.returns.mean()),
            "return_interval": [low, high],
            "trained_return": self.trained_return,
            "length": float(self.lengths.mean()),
            "metrics": {name: float(values.mean()) for name, values in self.metrics.items()},
            "success": list(intervals.share(int(succeeded(hits).sum()), len(hits))) if hits is not None else None,
            "policy_calls": len(self.latencies),
            "latency_ms": {f"p{p}": float(np.percentile(self.latencies, p) * 1e3) for p in PERCENTILES},
            "policy_period_ms": None if period is None else period * 1e3,
            "deadline_misses": None if period is None else int((self.latencies > period).sum()),
        }


def deploy(
    folder: str | Path,
    *,
    episodes: int = 16,
    noise_seed: int | None = None,
    env: str | Environment | None = None,
    backend: str | None = None,
    randomize: bool = False,
    physics: Sequence[str] = (),
    imperfect: bool = False,
    trust: bool = False,
) -> Deployment:
    """Play episodes of an exported policy in its training environment, one environment at a time.

    Args:
        folder: the exported folder.
        episodes: number of episodes; each starts from another initial state.
        noise_seed: sample actions with noise of this seed; None for deterministic actions.
        env: another environment, by name or as an object; None for the environment of the training.
        backend: backend of the physics. None: the C engine if the run used a backend of MuJoCo and the environment
            supports the C engine; otherwise the backend of the run.
        randomize: randomize the physics as in training, or by the environment's own randomization; otherwise it is
            nominal. The environment's own is not available on the C engine.
        physics: draw this physics for each episode instead, see `EnvConfig.physics`.
        imperfect: with the noise, delays and pushes of training; otherwise the robot is perfect.
        trust: import the module that the folder names as its environment.

    Raises:
        FileNotFoundError: if `folder` holds no exported policy.
        ValueError: if the environment cannot be made here, or has other sizes than the policy.
    """
    require(episodes >= 1, ">= 1", "episodes", episodes)
    description = describe(folder)
    action, trained = description["action"], description["trained"]
    options = env_options_of(description)
    check_conditions(options, physics, imperfect, folder)
    recorded = description["environment"]
    own = not isinstance(env, str) or env in (recorded["name"], recorded["factory"])
    by_itself = randomize and not (physics or (own and options.physics))
    made, used = environment_of_export(folder, recorded, env, backend, trust, by_itself)
    if not by_itself:
        made = with_physics(made, options, randomize, physics)
    _check_sizes(description, made)
    batch = EpisodeEnv.of(made, options, imperfect=imperfect)
    bounds = (tuple(action["low"]), tuple(action["high"]))
    policy, latencies = OnnxPolicy(folder), []
    noise = None if noise_seed is None else np.random.default_rng(noise_seed)

    def act(obs: np.ndarray) -> np.ndarray:
        drawn = None if noise is None else noise.standard_normal(description["noise"]["shape"], np.float32)
        started = time.perf_counter()
        chunk = policy(obs, noise=drawn)
        latencies.append(time.perf_counter() - started)
        # `EpisodeEnv` scales actions in [-1, 1] to the units of the environment, in which the policy acts already.
        return from_units(chunk.reshape(-1, action["size"]), bounds).reshape(chunk.shape)

    returns, lengths, metrics = _play(batch, act, latencies, episodes)
    seconds = step_seconds(made)
    return Deployment(
        env=made.name,
        backend=used,
        returns=returns,
        lengths=lengths,
        metrics=metrics,
        latencies=np.asarray(latencies),
        period_seconds=None if seconds is None else seconds * batch.steps_per_action,
        trained_return=trained.get("eval/return_zero" if noise_seed is None else "eval/return_random"),
    )


def reset_keys(episodes: int) -> jax.Array:
    """Return the typed key of each episode's start; `genpo_jax.runs.evaluate` starts episode i from the same state."""
    return jax.random.split(jax.random.split(jax.random.key(START_SEED), 3)[0], episodes)


def table(results: dict[str, Any]) -> str:
    """Return the result of `Deployment.to_dict` as text."""
    low, high = results["return_interval"]
    backend = f", backend {results['backend']}" if results["backend"] else ""
    lines = [f"{results['env']}{backend}, {results['episodes']} episodes; mean [95 % interval]"]
    lines.append(f"return {results['return']:.1f} [{low:.1f}, {high:.1f}], length {results['length']:.0f}")
    if results["trained_return"] is not None:
        lines.append(f"return at the last evaluation of training {results['trained_return']:.1f}")
    if results["success"] is not None:
        share, low, high = results["success"]
        lines.append(f"success {share:.3f} [{low:.3f}, {high:.3f}]")
    latency = ", ".join(f"{name} {value:.3f}" for name, value in results["latency_ms"].items())
    lines.append(f"latency of a policy call in ms: {latency}")
    if results["policy_period_ms"] is None:
        lines.append("deadline misses: unknown, the environment has no attribute dt")
    else:
        deadline = f"a deadline of {results['policy_period_ms']:.1f} ms"
        lines.append(f"deadline misses: {results['deadline_misses']} of {results['policy_calls']} calls, {deadline}")
    return "\n".join(lines)


def environment_of_export(
    folder: str | Path,
    trained: dict[str, Any],
    env: str | Environment | None = None,
    backend: str | None = None,
    trust: bool = False,
    randomize: bool = False,
) -> tuple[Environment, str | None]:
    """Return the environment to play an exported policy in, and its backend; the arguments are those of `deploy`.

    Args:
        folder: the exported folder.
        trained: the table `environment` of its description.
        env: another environment.
        backend: backend of the physics.
        trust: import the module that the folder names as its environment.
        randomize: use the environment's own randomization.

    Raises:
        ValueError: if it cannot be made here, or its module must be trusted or named first.
    """
    if env is not None and not isinstance(env, str):
        require(backend is None, "None with an environment object", "backend", backend)
        made = envs.as_environment(env)
        return envs.with_own_randomization(made) if randomize else made, getattr(env, "backend", None)
    recorded = Recorded.of(trained["name"], trained, folder, whole_run(Path(folder)))
    try:
        name = importable_name(recorded, env, trust)
        own = name in (recorded.name, recorded.path)
        candidates: list[str | None] = [backend] if backend else _backends(name, trained["backend"] if own else None)
        # Earlier exports have no such entry.
        overrides = trained.get("playground_config") or [] if own else []
        made, used = _make_first(name, candidates, overrides, randomize)
        return made, getattr(made, "backend", None) or envs.check(name, used)
    except (ValueError, ImportError, RuntimeError) as error:
        raise ValueError(f"the environment of {folder} cannot be made here: {error}") from error


def _backends(name: str, trained: str | None) -> list[str | None]:
    """Return the backends to try for an environment that was trained on a backend, the preferred one first."""
    supports_c = envs.check(name, trained) in MUJOCO_BACKENDS and name in (*BRAX, *PLAYGROUND, *TASKS)
    return ["c", trained] if supports_c and trained != "c" else [trained]


def _make_first(
    name: str, candidates: Sequence[str | None], playground_config: Sequence[str], randomize: bool
) -> tuple[Environment, str | None]:
    """Return the environment on the first of the backends that works here, and that backend."""
    *preferred, last = candidates
    for backend in preferred:
        try:
            return envs.make(name, backend, randomize, playground_config), backend
        except (ValueError, ImportError):
            # The C engine needs MuJoCo 4 and a CPU, and it lacks some of MJX's fields and an environment's own
            # randomization; the next backend has them.
            continue
    return envs.make(name, last, randomize, playground_config), last


def env_options_of(description: dict[str, Any]) -> EnvConfig:
    """Return how the environment executes the actions of an exported policy."""
    action = description["action"]
    return EnvConfig(
        episode_length=description["environment"]["episode_length"],
        action_repeat=action["action_repeat"],
        chunk=action["chunk"],
        executed=action["executed"],
        history=description["observation"]["history"],
        observations=description["observation"]["name"],
        action_low=tuple(action["low"]),
        action_high=tuple(action["high"]),
        reward=description["environment"]["reward"],
        squash="clip",
        **_as_tuples(_randomized(description["environment"])),
    )


def _randomized(environment: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of drawn physics and of an imperfect robot; earlier exports do not have all of them."""
    names = ("physics", "physics_variants", "physics_seed")
    return environment.get("imperfections", {}) | {name: environment[name] for name in names if name in environment}


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Return values from JSON, which has lists, as settings, which have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _check_sizes(description: dict[str, Any], env: Environment) -> None:
    sizes = (description["observation"]["size"], description["action"]["size"])
    own = (env.observation_sizes.get(description["observation"]["name"]), env.action_size)
    if own != sizes:
        raise ValueError(
            f"the environment must have observation size {sizes[0]} and action size {sizes[1]}, "
            f"{env.name} has {own[0]} and {own[1]}; name another env"
        )


def _play(
    env: EpisodeEnv, act: Callable[[np.ndarray], np.ndarray], latencies: list[float], episodes: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return return, length and metrics of each episode; leave one latency for each policy call."""
    # Without these emitters, MJX compiles in seconds on a CPU; with them, in minutes.
    xla_options = compiler_options(fusion_emitters=False)
    init = jax.jit(env.init, compiler_options=xla_options)
    step = jax.jit(env.step, compiler_options=xla_options)
    keys = reset_keys(episodes)
    results = []
    for i in range(episodes):
        state, ended = init(keys[i : i + 1]), False
        if i == 0:
            # The first call of a session allocates memory, so it is not measured.
            act(np.asarray(state.obs[ACTOR_OBS][0]))
            latencies.clear()
        while not ended:
            chunk = act(np.asarray(state.obs[ACTOR_OBS][0]))
            state, timestep = step(state, chunk[None])
            terminated, truncated = jax.device_get((timestep.terminated, timestep.truncated))
            ended = bool(terminated[0] or truncated[0])
        results.append((timestep.episode_return, timestep.episode_length, timestep.episode_metrics))
    return jax.tree.map(lambda *values: np.concatenate(values), *jax.device_get(results))
