"""Compare our training step with Brax's PPO, and our environment layer with Brax's wrappers.

    python -m benchmarks.against_brax --env ant --backend spring --num-envs 256

Both train in one process, in turn, with the same networks (swish), environments, unroll, minibatches and epochs. Brax
runs without evaluation and calls back after each of its epochs; our step runs in this callback. Brax reports its own
time, which excludes the callback. The first two epochs of Brax are warm-up.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks import env_overhead
from benchmarks.brax_ppo import import_brax_ppo
from benchmarks.programs import Options, Programs
from benchmarks.timing import Contender, rates, ratios, report
from experiments.program import run_program
from genpo_jax import envs
from genpo_jax.envs.brax import BraxEnvironment

WARM_UP = 2
STEP, ROLLOUT = "training step", "rollout without a policy"


@dataclass(frozen=True)
class AgainstOptions(Options):
    """Options of the comparison."""

    methods: tuple[str, ...] = ("gaussian",)
    """Our methods to compare with Brax's PPO."""
    updates: int = 4
    """Updates per timed program, ours and Brax's."""
    rollouts: bool = True
    """Also compare rollouts without a policy, by `env_overhead`."""

    def __post_init__(self) -> None:
        """Check the limits of Brax."""
        if self.num_envs % self.num_minibatches:
            raise ValueError(
                f"Brax does not split unrolls: num_envs = {self.num_envs} is not divisible by num_minibatches = "
                f"{self.num_minibatches}; change one of them"
            )


def measure(options: AgainstOptions) -> tuple[list[float], dict[str, Contender]]:
    """Time Brax and our methods in turn; return Brax's seconds per program and our contenders."""
    from brax.training.agents.ppo.networks import make_ppo_networks

    env = BraxEnvironment(options.env, envs.check(options.env, options.backend))
    contenders = {
        method: Programs(
            env, replace(options.config(method, activation="swish"), updates_per_chunk=options.updates)
        ).full()
        for method in options.methods
    }
    epochs = options.rounds + WARM_UP
    steps = options.num_envs * options.unroll * options.updates
    brax_samples: list[float] = []

    def progress(_: int, metrics: Any) -> None:
        brax_samples.append(steps / float(metrics["training/sps"]))
        for contender in contenders.values():
            contender.samples.append(contender.run())

    import_brax_ppo().train(
        environment=env.raw,
        num_timesteps=steps * epochs,
        num_evals=epochs + 1,
        run_evals=False,
        progress_fn=progress,
        episode_length=env.default_episode_length,
        num_envs=options.num_envs,
        unroll_length=options.unroll,
        batch_size=options.num_envs // options.num_minibatches,
        num_minibatches=options.num_minibatches,
        num_updates_per_batch=options.num_epochs,
        normalize_observations=True,
        max_grad_norm=1.0,
        network_factory=partial(
            make_ppo_networks,
            policy_hidden_layer_sizes=options.hidden_sizes,
            value_hidden_layer_sizes=options.hidden_sizes,
        ),
    )
    for contender in contenders.values():
        del contender.samples[:WARM_UP]
    return brax_samples[WARM_UP:], contenders


def main(options: AgainstOptions) -> None:
    """Measure, print one table, and write JSON if requested."""
    if options.num_seeds != 1:
        raise ValueError("Brax trains one seed at a time; leave out --num-seeds")
    brax_samples, contenders = measure(options)
    steps = options.steps * options.updates
    rows = [_row(STEP, "brax", steps, brax_samples, brax_samples)]
    rows += [_row(STEP, method, steps, contender.samples, brax_samples) for method, contender in contenders.items()]
    if options.rollouts:
        names = ("env", "num_envs", "unroll", "rounds", "sample_seconds")
        shared = {name: getattr(options, name) for name in names}
        backend = envs.check(options.env, options.backend)
        bare = env_overhead.measure(env_overhead.Config(backend=backend or "spring", **shared))
        base = bare[env_overhead.BASELINE].samples
        rows += [_row(ROLLOUT, name, options.steps, contender.samples, base) for name, contender in bare.items()]
    report(options.title, options, rows)


def _row(what: str, name: str, steps: int, samples: list[float], base: list[float]) -> dict[str, Any]:
    return {
        "what": what,
        "contender": name,
        "steps_per_second": rates(steps, samples),
        "time_over_brax": ratios(samples, base),
    }


if __name__ == "__main__":
    run_program(AgainstOptions, main, __doc__)
