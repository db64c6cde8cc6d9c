"""Every setting of a training run, checked before anything is compiled. Free of jax, so that `--help` is quick."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal["genpo++", "genpo", "saflow", "gaussian", "fpo", "fpo++", "policyflow", "dppo", "reinflow"]
# Those that know the density of their actions, or a bound of it.
METHODS_WITH_DENSITY = ("genpo++", "genpo", "saflow", "gaussian")


def _require(condition: bool, rule: str, name: str, value: object, remedy: str = "") -> None:
    if not condition:
        raise ValueError(f"{name} must be {rule}, got {value!r}" + (f"; {remedy}" if remedy else ""))


def _require_sizes(name: str, sizes: tuple[int, ...]) -> None:
    _require(len(sizes) > 0 and all(size >= 1 for size in sizes), "one or more sizes >= 1", name, sizes)


@dataclass(frozen=True)
class EnvConfig:
    """How the environments are run."""

    num_envs: int = 4096
    """Environments stepped in parallel (B)."""
    episode_length: int | None = None
    """Time limit in env steps; reaching it truncates, it does not terminate. None: the environment's own."""
    action_repeat: int = 1
    """Physics steps per action; every one counts as an env step."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How an unbounded action is brought into [-1, 1] at the environment. Cancels in the ratio."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require(self.num_envs >= 1, ">= 1", "num_envs", self.num_envs)
        _require(self.action_repeat >= 1, ">= 1", "action_repeat", self.action_repeat)
        _require(
            self.episode_length is None or self.episode_length >= 1,
            ">= 1",
            "episode_length",
            self.episode_length,
        )


@dataclass(frozen=True)
class PolicyConfig:
    """The policy, its solver and the networks of actor and critic."""

    method: Method = "genpo++"
    """genpo++, genpo, saflow: flow policies with exact ratios, by the history, coupled and self-adjoint solver;
    gaussian: the usual Gaussian policy; fpo, fpo++, policyflow: flow policies with surrogate ratios; dppo, reinflow:
    flow policies with noise in every step."""
    network: Literal["encoder", "concat"] = "encoder"
    """Velocity field: an encoder run once per observation and a small head run M times, or one network on the
    concatenation of observation, time and action, run M times (as published; several times slower)."""
    hidden_sizes: tuple[int, ...] = (400, 200, 100)
    """Hidden layers of the Gaussian mean, and of the concat velocity field."""
    encoder_sizes: tuple[int, ...] = (400, 200)
    """Layers of the observation encoder of the flow policy."""
    head_sizes: tuple[int, ...] = (128,)
    """Hidden layers of the velocity head, evaluated M times per action."""
    value_sizes: tuple[int, ...] = (400, 200, 100)
    """Hidden layers of the value network."""
    activation: Literal["mish", "elu", "swish", "tanh"] = "mish"
    """Activation of every network."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products of every network; parameters, solver state and ratios stay float32."""
    time_embedding: int = 32
    """Number of sinusoidal features of the flow time t (even)."""
    num_steps: int | None = None
    """Solver steps M from noise to action. None: the method's published number, 5 for genpo++."""
    num_samples: int | None = None
    """fpo, fpo++: samples per action of the flow-matching loss. None: as published, 8 and 16."""
    solver_order: int | None = None
    """genpo++: order 1, 2 or 3 of a multistep solver (docs/solvers.md). None: the published history solver."""
    history_coef: float | None = None
    """genpo++: coefficient sigma, the weight of the oldest iterate. None: 0.75, or the multistep solver's own."""
    mix: float | None = None
    """genpo: weight of an iterate in its mix with the other, which ends each step of the coupled solver. None: 0.95."""
    base: Literal["standard", "learned-scale", "conditioned"] = "learned-scale"
    """Density of the noise: N(0, I); independent normals with a learned scale per coordinate; or the same about a mean
    that follows the observation (a network of hidden_sizes), so that zero velocity is a Gaussian policy."""
    initial_std: float = 1.0
    """Initial standard deviation of the action, before the squash; a standard base does not know it."""

    action_entropy_coef: float = 0.0
    """Add this times the entropy of the executed action to the reward, for exploration (maximum-entropy RL). Exact for
    gaussian; for genpo++, genpo and saflow a lower bound, by a learned model of the solver's history."""
    final_action_entropy_coef: float | None = None
    """Move action_entropy_coef linearly to this value over the run; None: keep it."""

    def __post_init__(self) -> None:
        """Check the ranges; the solver checks its own parameters."""
        for name in ("num_steps", "num_samples"):
            value = getattr(self, name)
            _require(value is None or value >= 1, ">= 1 or None", name, value)
        _require(self.action_entropy_coef >= 0, ">= 0", "action_entropy_coef", self.action_entropy_coef)
        final = self.final_action_entropy_coef
        bonus_or_none = final is None or (final >= 0 and self.action_entropy_coef > 0)
        _require(bonus_or_none, ">= 0 with an action_entropy_coef > 0, or None", "final_action_entropy_coef", final)
        if self.action_entropy_coef and self.method not in METHODS_WITH_DENSITY:
            raise ValueError(
                f"action_entropy_coef needs a method that knows the density of its actions, got {self.method!r}; "
                f"choose one of {', '.join(METHODS_WITH_DENSITY)}, or 0"
            )
        for name in ("hidden_sizes", "encoder_sizes", "head_sizes", "value_sizes"):
            _require_sizes(name, getattr(self, name))
        for name, method in (("solver_order", "genpo++"), ("history_coef", "genpo++"), ("mix", "genpo")):
            value = getattr(self, name)
            known = value is None or self.method == method
            _require(known, f"None for method {self.method!r}, whose solver has none", name, value, "leave it out")
        _require(self.initial_std > 0, "> 0", "initial_std", self.initial_std)
        even = self.time_embedding >= 2 and self.time_embedding % 2 == 0
        _require(even, "even and >= 2", "time_embedding", self.time_embedding)


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
    """Adapt the policy's learning rate to keep the KL at the end of an update near this; None: keep it constant."""
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
    """Clip range of the value loss, in units of normalised return; None: plain squared error."""
    gamma: float = 0.99
    """Discount per step."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    value_coef: float = 1.0
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, where the policy has a differentiable entropy."""
    max_grad_norm: float = 1.0
    """Global norm to which gradients are clipped."""
    normalize_observations: bool = True
    """Standardise observations by running statistics, frozen from rollout to end of update."""
    normalize_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("unroll", "num_epochs", "num_minibatches"):
            _require(getattr(self, name) >= 1, ">= 1", name, getattr(self, name))
        for name in ("learning_rate", "value_learning_rate", "clip_range", "max_grad_norm"):
            _require(getattr(self, name) > 0, "> 0", name, getattr(self, name))
        for name in ("target_kl", "final_kl", "value_clip"):
            value = getattr(self, name)
            _require(value is None or value > 0, "> 0 or None", name, value)
        for name in ("gamma", "gae_lambda"):
            _require(0 <= getattr(self, name) <= 1, "in [0, 1]", name, getattr(self, name))
        _require(
            self.target_kl is None or self.min_learning_rate <= self.learning_rate <= self.max_learning_rate,
            f"in [min_learning_rate, max_learning_rate] = [{self.min_learning_rate}, {self.max_learning_rate}]",
            "learning_rate",
            self.learning_rate,
        )


@dataclass(frozen=True)
class HostsConfig:
    """Processes that train one run together, each with its own devices."""

    coordinator: str | None = None
    """Address and port of process 0, as 10.0.0.1:1234, or auto on Slurm, Kubernetes and TPU pods. None: one process."""
    num_processes: int | None = None
    """Number of processes; needed with an address."""
    process_id: int | None = None
    """Number of this process, from 0; needed with an address."""

    def __post_init__(self) -> None:
        """Check that all or none is said."""
        numbers = (self.num_processes, self.process_id)
        if self.coordinator in (None, "auto"):
            if numbers != (None, None):
                raise ValueError(
                    f"num_processes and process_id need a coordinator address, got coordinator {self.coordinator!r}; "
                    "name the address and port of process 0"
                )
            return
        _require(":" in self.coordinator, "an address with a port, or auto", "coordinator", self.coordinator)
        if self.num_processes is None or self.process_id is None:
            raise ValueError("a coordinator address needs num_processes and process_id; give both, or use auto")
        _require(self.num_processes >= 1, ">= 1", "num_processes", self.num_processes)
        _require(0 <= self.process_id < self.num_processes, "in [0, num_processes)", "process_id", self.process_id)


@dataclass(frozen=True)
class Config:
    """Train a policy on one environment."""

    env: str = "humanoid"
    """Environment: a Brax name (ant, hopper, humanoid, ...) or a MuJoCo Playground name (CartpoleBalance, ...)."""
    backend: str | None = None
    """Physics: spring, positional, generalized or mjx for Brax; jax or warp for Playground. None: the default."""
    seed: int = 0
    """Seed of everything random in the run."""
    num_seeds: int = 1
    """Independent runs trained side by side in one program, with seeds from --seed upwards."""
    num_timesteps: int = 1_000_000
    """Env steps to train for, rounded up to whole chunks."""
    run_dir: str | None = None
    """Folder that the run writes. None: runs/<env>-<method>-seed<seed>-<time>."""
    resume: bool = False
    """Go on from the newest good checkpoint of --run-dir, with the settings saved there."""
    updates_per_chunk: int = 4
    """Updates compiled into one program; metrics are logged once per chunk."""
    num_evals: int = 10
    """Evaluations spread evenly over the run, beside one before it; 0: none at all."""
    eval_envs: int = 16
    """Whole episodes per evaluation and noise mode."""
    checkpoint_minutes: float = 5.0
    """Save at least this often; a run that is killed loses no more than this."""
    env_options: EnvConfig = field(default_factory=EnvConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)

    def __post_init__(self) -> None:
        """Check the ranges and what must divide what."""
        _require(self.num_timesteps >= 1, ">= 1", "num_timesteps", self.num_timesteps)
        _require(self.seed >= 0 and self.seed + self.num_seeds <= 2**32, "in [0, 2^32)", "seed", self.seed)
        for name in ("num_seeds", "updates_per_chunk", "eval_envs"):
            _require(getattr(self, name) >= 1, ">= 1", name, getattr(self, name))
        _require(self.num_evals >= 0, ">= 0", "num_evals", self.num_evals)
        _require(self.checkpoint_minutes >= 0, ">= 0", "checkpoint_minutes", self.checkpoint_minutes)
        num_envs, unroll, parts = self.env_options.num_envs, self.ppo.unroll, self.ppo.num_minibatches
        if (num_envs * unroll) % parts:
            raise ValueError(
                f"num_envs * unroll = {num_envs} * {unroll} = {num_envs * unroll} is not divisible by "
                f"num_minibatches = {parts}; change one of the three"
            )

    @property
    def seeds(self) -> range:
        """The seeds that this run trains."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def steps_per_update(self) -> int:
        """Env steps per update, of each seed."""
        return self.env_options.num_envs * self.ppo.unroll * self.env_options.action_repeat

    @property
    def num_updates(self) -> int:
        """Updates in the whole run."""
        return self.num_chunks * self.updates_per_chunk

    @property
    def num_chunks(self) -> int:
        """Chunks in the whole run."""
        return -(-self.num_timesteps // (self.steps_per_update * self.updates_per_chunk))

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Build a config from what `to_dict` returned, after a way through JSON.

        Raises:
            ValueError: if a setting is unknown, as from another version of this package.
        """
        parts = {"env_options": EnvConfig, "policy": PolicyConfig, "ppo": PPOConfig, "hosts": HostsConfig}
        values = dict(values)
        for name, part in parts.items():
            values[name] = _build(part, values.get(name, {}))
        return _build(cls, values)


def _build(cls: type, values: dict[str, Any]) -> Any:
    known = {f.name for f in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown settings {unknown} for {cls.__name__}; known are {sorted(known)}")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
