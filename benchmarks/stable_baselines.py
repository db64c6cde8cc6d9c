"""Train Stable-Baselines3's PPO in a Gymnasium environment, with the settings of its zoo; print JSON lines.

This script needs only `pip install stable-baselines3 'gymnasium[mujoco]'`, in a virtual environment without this
package: `python benchmarks/stable_baselines.py Hopper-v5 300000 --seeds 0 1 2`. It uses one thread. PushT also needs
gym-pusht, with pymunk below 7.
"""

import argparse
import importlib
import json
import time
from collections.abc import Iterator
from typing import Any

# Number of environments, whether observations and rewards are normalized, and the arguments of PPO. The zoo has no
# PushT: these are the defaults of PPO, with normalization.
SETTINGS: dict[str, tuple[int, bool, dict[str, Any]]] = {
    "Pendulum-v1": (
        4,
        False,
        {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3, "use_sde": True, "sde_sample_freq": 4},
    ),
    "Hopper-v5": (
        1,
        True,
        {
            "batch_size": 32,
            "n_steps": 512,
            "gamma": 0.999,
            "learning_rate": 9.80828e-05,
            "ent_coef": 0.00229519,
            "n_epochs": 5,
            "gae_lambda": 0.99,
            "max_grad_norm": 0.7,
            "vf_coef": 0.835671,
            "policy_kwargs": {"log_std_init": -2, "ortho_init": False, "net_arch": [256, 256]},
        },
    ),
    "gym_pusht/PushT-v0": (4, True, {"n_steps": 512, "gamma": 0.99}),
}


def vectorized(env: str, number: int, seed: int) -> Any:
    """Return environments; actions of another package's environment are scaled to [-1, 1], where PPO explores."""
    from gymnasium.wrappers import RescaleAction
    from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]

    package, slash, _ = env.partition("/")
    if not slash:
        return make_vec_env(env, number, seed=seed)
    importlib.import_module(package)  # registers its environments
    bounds = {"min_action": -1.0, "max_action": 1.0}
    return make_vec_env(env, number, seed=seed, wrapper_class=RescaleAction, wrapper_kwargs=bounds)


def train(env: str, steps: int, seed: int, evals: int, episodes: int) -> Iterator[dict[str, Any]]:
    """Train one seed, and yield the result of each evaluation."""
    from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.evaluation import evaluate_policy  # pyright: ignore[reportMissingImports]
    from stable_baselines3.common.vec_env import VecNormalize  # pyright: ignore[reportMissingImports]
    from torch import nn, set_num_threads  # pyright: ignore[reportMissingImports]

    set_num_threads(1)
    num_envs, normalized, arguments = SETTINGS[env]
    if "policy_kwargs" in arguments:
        arguments = arguments | {"policy_kwargs": arguments["policy_kwargs"] | {"activation_fn": nn.ReLU}}
    vector = vectorized(env, num_envs, seed)
    vector = VecNormalize(vector, gamma=arguments["gamma"]) if normalized else vector
    model = PPO("MlpPolicy", vector, seed=seed, device="cpu", **arguments)
    seconds = 0.0
    for number in range(1, evals + 1):
        # Time of the processor, which does not depend on other programs.
        started = time.process_time()
        model.learn(steps * number // evals - model.num_timesteps, reset_num_timesteps=False)
        seconds += time.process_time() - started
        test: Any = vectorized(env, 1, 1_000_003)
        if normalized:
            test = VecNormalize(test, training=False, norm_reward=False)
            test.obs_rms = vector.obs_rms
        mean, std = evaluate_policy(model, test, n_eval_episodes=episodes, deterministic=True)
        taken = model.num_timesteps
        result = {"env": env, "seed": seed, "steps": taken, "return": mean, "std": std}
        yield result | {"steps_per_cpu_second": taken / seconds}


def main() -> None:
    """Train one seed after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env", choices=sorted(SETTINGS))
    parser.add_argument("steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--evals", type=int, default=1, help="evaluations with deterministic actions, evenly spaced")
    parser.add_argument("--episodes", type=int, default=32, help="episodes of an evaluation")
    options = parser.parse_args()
    for seed in options.seeds:
        for result in train(options.env, options.steps, seed, options.evals, options.episodes):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
