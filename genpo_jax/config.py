"""Every setting of a training run, checked before anything is compiled. Free of jax, so that `--help` is quick.

Settings say what a run *is*. Where it writes, whether it goes on, and which hosts take part belong to the call.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from genpo_jax.checks import check_types, require, require_between
from genpo_jax.methods import GenPOPlusPlus, Method, NetworksConfig, method_of

# Counters of single environments are int32.
LARGEST_COUNT = 2**31 - 1
LARGEST_NUM_ENVS = 2**24
# The metric that says whether an episode is a success, and those that say which way it went, `mode_0`, `mode_1`, ...
SUCCESS, MODE = "success", "mode_"


def is_outcome(metric: str) -> bool:
    """Whether the last value of an episode counts, and not the sum over its steps."""
    return metric == SUCCESS or metric.startswith(MODE)


@dataclass(frozen=True)
class EnvConfig:
    """How the environments are run."""

    num_envs: int = 4096
    """Environments stepped in parallel (B)."""
    episode_length: int | None = None
    """Time limit in env steps; reaching it truncates, it does not terminate. None: the environment's own."""
    action_repeat: int = 1
    """Physics steps per action; every one counts as an env step."""
    chunk: int = 1
    """Actions that the policy gives at once, as one long action (H)."""
    executed: int | None = None
    """The first so many of a chunk are executed before the policy is asked again (h). None: all of them."""
    reward: Literal["task", "success"] = "task"
    """task: the environment's. success: 1 where its metric success first says so, which ends the episode, else 0."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How an unbounded action is brought into [-1, 1] at the environment. Cancels in the ratio."""
    randomize: bool = False
    """Draw physics parameters for each episode, as the environment's own randomization does."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_types(self)
        require_between(self, 1, LARGEST_NUM_ENVS, "num_envs")
        require_between(self, 1, 1000, "action_repeat", "chunk")
        require_between(self, 1, self.chunk, "executed")
        # A chunk of repeated actions may go that far past the limit.
        require_between(self, 1, LARGEST_COUNT - 1_000_000, "episode_length")

    @property
    def steps_per_action(self) -> int:
        """Env steps from one time that the policy is asked to the next, where no episode ends between."""
        return self.action_repeat * (self.executed or self.chunk)


@dataclass(frozen=True)
class PPOConfig:
    """The on-policy update."""

    unroll: int = 32
    """Steps of every environment per update (T)."""
    num_epochs: int = 5
    """Passes over the batch per update."""
    num_minibatches: int = 4
    """Minibatches per epoch; must divide num_envs * unroll."""
    learning_rate: float = 5e-4
    """Initial learning rate of the policy (Adam)."""
    value_learning_rate: float = 1e-3
    """Learning rate of the value network; it has no KL to follow, so it stays constant."""
    target_kl: float | None = 0.01
    """Adapt the policy's learning rate to keep the KL of an update's last epoch near this; None: keep it constant."""
    final_kl: float | None = None
    """Move target_kl linearly to this value over the run; None: keep it."""
    min_learning_rate: float = 1e-5
    """Lower bound of the adaptive learning rate."""
    max_learning_rate: float = 1e-3
    """Upper bound of the adaptive learning rate."""
    objective: Literal["clip", "aspo"] = "clip"
    """clip: PPO's. aspo: the same where the advantage is positive, and where it is negative a quadratic penalty on the
    distance of the ratio from 1 (SPO), which also pulls ratios back that are out of bounds already (FPO++)."""
    clip_range: float = 0.2
    """PPO clips the ratio to [1 - clip_range, 1 + clip_range]."""
    value_clip: float | None = None
    """Clip range of the value loss, in units of normalized return; None: plain squared error."""
    gamma: float = 0.99
    """Discount per step."""
    gae_lambda: float = 0.95
    """Lambda of generalized advantage estimation."""
    value_coef: float = 1.0
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, where the policy has a differentiable entropy."""
    max_grad_norm: float = 1.0
    """Global norm to which gradients are clipped."""
    normalize_observations: bool = True
    """Standardize observations by running statistics, frozen from rollout to end of update."""
    freeze_observations: bool = False
    """Never move the statistics of observations: those that a policy was pretrained with (docs/demonstrations.md)."""
    value_warmup: int = 0
    """Updates at the start in which the value network alone learns: for a policy that can do something already."""
    initial_kl_coef: float = 0.0
    """Take this times the exact KL divergence from the policy at the start off the reward, estimated by the log-ratio
    of the actions taken; for methods that know the density of their actions."""
    final_initial_kl_coef: float | None = None
    """Move initial_kl_coef linearly to this value over the run; None: keep it."""
    bc_coef: float = 0.0
    """Weight of a behavior-cloning loss: minus the log-likelihood of actions that the policy at the start draws in the
    states met. But for a constant that is the KL divergence of the start from the present policy, which has to keep
    every way of the start; exact, of action and history, for methods that know the density of their actions."""
    mirror: bool = False
    """Learn from the mirror image of each transition too, where the environment shows a symmetry (docs/methods.md)."""
    normalize_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_types(self)
        require_between(self, 1, 2**20, "unroll", "num_epochs", "num_minibatches")
        rates = ("learning_rate", "value_learning_rate", "min_learning_rate", "max_learning_rate")
        require_between(self, 1e-12, 10, *rates, "target_kl", "final_kl")
        require_between(self, 1e-6, 1e6, "clip_range", "value_clip", "max_grad_norm")
        require_between(self, 0, 1, "gamma", "gae_lambda")
        require_between(self, 0, 1e6, "value_coef", "entropy_coef", "initial_kl_coef", "bc_coef")
        require_between(self, 0, LARGEST_COUNT, "value_warmup")
        final = self.final_initial_kl_coef
        kl_or_none = final is None or (0 <= final <= 1e6 and self.initial_kl_coef > 0)
        require(kl_or_none, ">= 0 with an initial_kl_coef > 0, or None", "final_initial_kl_coef", final)
        require(
            self.target_kl is None or self.min_learning_rate <= self.learning_rate <= self.max_learning_rate,
            f"in [min_learning_rate, max_learning_rate] = [{self.min_learning_rate}, {self.max_learning_rate}]",
            "learning_rate",
            self.learning_rate,
        )


@dataclass(frozen=True)
class Config:
    """Train a policy on one environment."""

    env: str = "humanoid"
    """Environment: a Brax name (ant, hopper, humanoid, ...), a MuJoCo Playground name (CartpoleBalance, ...), a toy
    (multigoal, ring, moons, avoid), a name given to register_env, or package.module:NAME of a class or function of
    yours."""
    backend: str | None = None
    """Physics: spring, positional, generalized or mjx for Brax; jax or warp for Playground. None: the default."""
    seed: int = 0
    """Seed of everything random in the run."""
    num_seeds: int = 1
    """Independent runs trained side by side in one program, with seeds from `seed` upwards."""
    num_timesteps: int = 1_000_000
    """Env steps to train for, rounded up to whole chunks."""
    updates_per_chunk: int = 4
    """Updates compiled into one program; metrics are logged once per chunk."""
    num_evals: int = 10
    """Evaluations spread evenly over the run, beside one before it; 0: none at all."""
    eval_envs: int = 16
    """Whole episodes per evaluation and noise mode."""
    checkpoint_minutes: float = 5.0
    """Save at least this often; a run that is killed loses no more than this."""
    fusion_emitters: bool = True
    """On a CPU, let XLA use its fusion emitters. Without them long serial chains run faster: spring physics of many
    bodies by some percent, MJX's arms by orders of magnitude; small tasks run slower (docs/benchmarks.md)."""
    env_options: EnvConfig = field(default_factory=EnvConfig)
    method: Method = field(default_factory=GenPOPlusPlus)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        """Check types, ranges and what must divide what."""
        check_types(self)
        require_between(self, 1, 10**15, "num_timesteps")
        require(self.seed >= 0 and self.seed + self.num_seeds <= 2**32, "in [0, 2^32)", "seed", self.seed)
        require_between(self, 1, LARGEST_NUM_ENVS, "num_seeds", "updates_per_chunk", "eval_envs")
        require_between(self, 0, 10**9, "num_evals")
        require_between(self, 0, 10**6, "checkpoint_minutes")
        known = self.method.has_density or self.ppo.initial_kl_coef == 0
        require(known, "0 for a method without a density", "initial_kl_coef", self.ppo.initial_kl_coef)
        num_envs, unroll, parts = self.env_options.num_envs, self.ppo.unroll, self.ppo.num_minibatches
        if (num_envs * unroll) % parts:
            raise ValueError(
                f"num_envs * unroll = {num_envs} * {unroll} = {num_envs * unroll} is not divisible by "
                f"num_minibatches = {parts}; change one of the three"
            )
        require(num_envs * unroll <= LARGEST_COUNT, f"at most {LARGEST_COUNT}", "num_envs * unroll", num_envs * unroll)
        require(
            self.num_updates <= LARGEST_COUNT, f"at most {LARGEST_COUNT} updates", "num_timesteps", self.num_updates
        )

    @property
    def seeds(self) -> range:
        """The seeds that this run trains."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def steps_per_update(self) -> int:
        """Env steps per update, of each seed."""
        return self.env_options.num_envs * self.ppo.unroll * self.env_options.steps_per_action

    @property
    def steps_per_chunk(self) -> int:
        """Env steps per chunk, of each seed."""
        return self.steps_per_update * self.updates_per_chunk

    @property
    def num_chunks(self) -> int:
        """Chunks in the whole run."""
        return -(-self.num_timesteps // self.steps_per_chunk)

    @property
    def num_updates(self) -> int:
        """Updates in the whole run."""
        return self.num_chunks * self.updates_per_chunk

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, fit for JSON; the method's have its `name` among them."""
        values = dataclasses.asdict(self)
        return values | {"method": method_to_dict(self.method)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Build a config from what `to_dict` returned, after a way through JSON.

        Raises:
            ValueError: if a setting is unknown or its value is not allowed.
        """
        values = dict(values)
        for name, part in (("env_options", EnvConfig), ("networks", NetworksConfig), ("ppo", PPOConfig)):
            values[name] = build_settings(part, values.get(name, {}))
        values["method"] = method_from_dict(values.get("method", {}))
        return build_settings(cls, values)


def method_to_dict(method: Method) -> dict[str, Any]:
    """Return a method's name and settings as plain values, fit for JSON."""
    return {"name": method.name} | dataclasses.asdict(method)


def method_from_dict(values: dict[str, Any]) -> Method:
    """Build a method's settings from what `method_to_dict` returned."""
    rest = dict(values)
    return build_settings(method_of(rest.pop("name", GenPOPlusPlus.name)), rest)


def build_settings(cls: type, values: Any) -> Any:
    """Build a dataclass of settings from plain values; lists become tuples.

    Raises:
        ValueError: if a setting is unknown or its value is not allowed.
    """
    require(isinstance(values, dict), "a table of settings", cls.__name__, values)
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown settings {unknown} for {cls.__name__}; known are {sorted(known)}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
