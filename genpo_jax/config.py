"""Settings of a training run, checked before anything is compiled.

This module does not import jax, so that `--help` is quick. The settings define the run itself; its folder, resuming and
hosts are arguments of the call.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from genpo_jax.checks import check_types, require, require_between
from genpo_jax.methods import GenPOPlusPlus, Method, NetworksConfig, method_of

# Counters of single environments are int32.
LARGEST_COUNT = 2**31 - 1
LARGEST_TIMESTEPS = 10**15
LARGEST_NUM_ENVS = 2**24
# Prefix of the names of Gymnasium's environments.
GYMNASIUM = "gymnasium:"
# Metric names: whether an episode succeeded, and the prefix of the modes of success `mode_0`, `mode_1`, ...
SUCCESS, MODE = "success", "mode_"


def is_outcome(metric: str) -> bool:
    """Return whether an episode reports the last value of this metric instead of the sum over its steps."""
    return metric == SUCCESS or metric.startswith(MODE)


# Settings of `EnvConfig` that make the robot imperfect.
IMPERFECTIONS = ("obs_noise", "obs_bias", "obs_delay", "action_delay", "push")


def span(text: str, name: str) -> tuple[float, float]:
    """Return both ends of a range `LOW:HIGH`; one number is both ends.

    Raises:
        ValueError: if these are no finite numbers, or the range is empty.
    """
    first, colon, last = text.partition(":")
    try:
        low, high = float(first), float(last if colon else first)
    except ValueError:
        low = high = math.nan
    require(-math.inf < low <= high < math.inf, "LOW:HIGH with LOW <= HIGH, or one number", name, text)
    return low, high


@dataclass(frozen=True)
class EnvConfig:
    """Settings of the environments."""

    num_envs: int = 4096
    """Environments stepped in parallel (B)."""
    episode_length: int | None = None
    """Time limit in env steps; reaching it truncates the episode. None: the environment's own limit."""
    action_repeat: int = 1
    """Times that each action is repeated; each repetition counts as an env step."""
    chunk: int = 1
    """Action chunk length (H): actions the policy outputs per call."""
    executed: int | None = None
    """Actions executed per action chunk (h) before the policy is called again. None: all."""
    reward: Literal["task", "success"] = "task"
    """task: the environment's reward. success: 1 when the metric `success` is positive (ends the episode), else 0."""
    history: int = 1
    """Number k of observations that the policy sees: the last k, one per env step. The first of an episode fills it."""
    observations: str = "state"
    """Name of the environment's observation that the policy sees, such as privileged_state for a teacher.
    The critic sees privileged_state if the environment has it, else the policy's observation."""
    action_low: tuple[float, ...] | None = None
    """What an action of -1 means in units of the environment, one number for all coordinates or one for each.
    None: the environment's own action_low, or -1. A fine-tuned policy keeps the bounds of its pretraining."""
    action_high: tuple[float, ...] | None = None
    """What an action of 1 means in units of the environment; given together with action_low."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How unbounded actions are mapped to [-1, 1] for the environment. It does not affect the ratio."""
    randomize: bool = False
    """Domain randomization: draw physics parameters for each episode, by the environment's own randomization.
    Not available on backend c: choose --backend jax (MuJoCo Playground), or set physics for an MJCF task."""
    physics: tuple[str, ...] = ()
    """Domain randomization of an MJCF task on any backend, drawn per episode: QUANTITY=LOW:HIGH or QUANTITY:NAME=...
    friction, mass, gain, damping and size are factors of the model's values; com is an offset in meters.
    NAME is a geom, body, joint or actuator; without it, all of them change by one number."""
    physics_variants: int = 64
    """Variants of the model that are prepared at the start; each episode draws one of them."""
    physics_seed: int = 0
    """Seed of the variants. Runs that differ only in `seed` share them."""
    obs_noise: float = 0.0
    """Standard deviation of noise on the policy's observation `state`, drawn in each env step.
    The unit is that of the observation, times the environment's attribute noise_scale if it has one."""
    obs_bias: float = 0.0
    """Standard deviation of a constant error of `state`, drawn per episode, in the units of obs_noise."""
    obs_delay: str = "0"
    """Env steps that `state` lags behind, LOW:HIGH or one number, drawn per episode; history contains late values."""
    action_delay: str = "0"
    """Env steps from an action to its execution, LOW:HIGH or one number, drawn per episode.
    Before the first action of an episode is due, it is executed at once and repeated."""
    push: tuple[str, ...] = ()
    """Random pushes of an MJCF task: JOINT=SPEED or BODY=SPEED for a body with a free joint, in m/s or rad/s.
    A push adds a number in [-SPEED, SPEED] to each velocity of the joint; for a free joint, to both horizontal ones."""
    push_interval: str = "50:150"
    """Env steps between two pushes, LOW:HIGH or one number, drawn after each push."""
    imperfect_evals: bool = False
    """Also apply noise, bias, delays and pushes in the evaluations during training. Default: a perfect robot."""
    playground_config: tuple[str, ...] = ()
    """Changed settings of a MuJoCo Playground environment, each as name=value.
    For example reward_config.scales.torques=-0.001 changes a reward weight. An unknown name lists the known ones."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_types(self)
        for item in self.playground_config:
            require("=" in item, "name=value", "playground_config", item)
        require_between(self, 1, LARGEST_NUM_ENVS, "num_envs")
        require_between(self, 1, 1000, "action_repeat", "chunk", "history")
        self._check_randomization()
        require_between(self, 1, self.chunk, "executed")
        self._check_bounds()
        # A chunk of repeated actions may overrun the limit by up to this many steps.
        require_between(self, 1, LARGEST_COUNT - 1_000_000, "episode_length")

    def _check_bounds(self) -> None:
        low, high = self.action_low, self.action_high
        require((low is None) == (high is None), "given together", "action_low and action_high", (low, high))
        if low is None or high is None:
            return
        fits = len(low) == len(high) >= 1 and all(map(math.isfinite, (*low, *high)))
        require(fits, "finite numbers, as many as of action_high", "action_low", low)
        require(all(a <= b for a, b in zip(low, high, strict=True)), f"<= action_high = {high}", "action_low", low)
        # A single coordinate is constant in some demonstrations.

    def _check_randomization(self) -> None:
        for name in ("physics", "push"):
            for item in getattr(self, name):
                require("=" in item, "NAME=RANGE" if name == "physics" else "NAME=SPEED", name, item)
        both = self.randomize and bool(self.physics)
        require(not both, "left out together with physics", "randomize", True, "choose one of them")
        require_between(self, 1, 2**16, "physics_variants")
        require_between(self, 0, 2**32 - 1, "physics_seed")
        require_between(self, 0, 1e6, "obs_noise", "obs_bias")
        for name, lowest in (("obs_delay", 0), ("action_delay", 0), ("push_interval", 1)):
            low, high = span(getattr(self, name), name)
            whole = low == int(low) and high == int(high) and lowest <= low and high <= 1000
            require(whole, f"whole numbers in [{lowest}, 1000]", name, getattr(self, name))

    @property
    def imperfections(self) -> dict[str, Any]:
        """The settings of an imperfect robot, by name, that differ from their defaults; {} for a perfect one."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        names = IMPERFECTIONS + (("push_interval",) if self.push else ())
        return {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}

    @property
    def steps_per_action(self) -> int:
        """Env steps between two calls of the policy within an episode."""
        return self.action_repeat * (self.executed or self.chunk)


@dataclass(frozen=True)
class PPOConfig:
    """Settings of the PPO update."""

    unroll: int = 32
    """Policy calls in each environment per update (T)."""
    num_epochs: int = 5
    """Passes over the batch per update."""
    num_minibatches: int = 4
    """Minibatches per epoch; must divide num_envs * unroll."""
    learning_rate: float = 5e-4
    """Initial learning rate of the policy's Adam optimizer."""
    value_learning_rate: float = 1e-3
    """Learning rate of the value network (constant)."""
    target_kl: float | None = 0.01
    """Target of the KL of an update's last epoch; the policy's learning rate adapts to it. None: constant rate.
    A step is undone, and the rate falls, if the next minibatch has more than twice this KL."""
    final_kl: float | None = None
    """Final value of target_kl, reached linearly over the run. None: constant."""
    min_learning_rate: float = 1e-5
    """Lower bound of the adaptive learning rate."""
    max_learning_rate: float = 1e-3
    """Upper bound of the adaptive learning rate."""
    objective: Literal["clip", "aspo"] = "clip"
    """clip: PPO's clipped objective. aspo: a quadratic penalty on |ratio - 1| for negative advantages (FPO++)."""
    clip_range: float = 0.2
    """PPO clips the ratio to [1 - clip_range, 1 + clip_range]."""
    value_clip: float | None = None
    """Clip range of the value loss, in units of normalized return. None: squared error without clipping."""
    gamma: float = 0.99
    """Discount factor per policy call."""
    final_gamma: float | None = None
    """Final value of gamma, reached linearly over the run. None: constant."""
    gae_lambda: float = 0.95
    """Lambda of generalized advantage estimation."""
    policy_coef: float = 1.0
    """Weight of the policy-gradient loss. 0 switches it off: only the other losses train the policy."""
    value_coef: float = 1.0
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus in the loss: gaussian, policyflow, and genpo++, genpo, saflow with a learned base.
    No effect for other methods, base=standard and base=correlated."""
    max_grad_norm: float = 1.0
    """Maximum global norm of a gradient; larger gradients are scaled down."""
    normalize_observations: bool = True
    """Standardize observations with running statistics, which are fixed during each update."""
    freeze_observations: bool = False
    """Keep the normalizer of the policy's observation fixed, e.g. after pretraining (docs/demonstrations.md).
    That of what only the critic sees still moves."""
    value_warmup: int = 0
    """Initial updates that train only the value network; for pretrained policies."""
    initial_kl_coef: float = 0.0
    """Coefficient of a reward penalty on KL(policy || initial policy): gaussian, genpo++, genpo, saflow."""
    final_initial_kl_coef: float | None = None
    """Final value of initial_kl_coef, reached linearly over the run. None: constant."""
    bc_coef: float = 0.0
    """Weight of a behavior-cloning loss on actions of the initial policy in visited states.
    For methods with a density it is KL(initial policy || policy) up to a constant, which penalizes losing a mode."""
    distill_coef: float = 0.0
    """Weight of the distillation loss on the teachers' actions in visited states (docs/distillation.md)."""
    distill_labels: Literal["random", "zero"] = "random"
    """Teachers' actions: random (sampled, keeps the modes of a teacher) or zero (deterministic)."""
    distill_std: float | None = None
    """With several teachers, prefer the one whose actions are close to those taken in the episode so far.
    It is the standard deviation of the comparison, for actions in [-1, 1].
    None: one teacher, drawn at random, labels the whole episode."""
    mirror: bool = False
    """Also learn from the mirror image of each transition, in environments with a symmetry (docs/methods.md)."""
    normalize_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_types(self)
        require_between(self, 1, 2**20, "unroll", "num_epochs", "num_minibatches")
        rates = ("learning_rate", "value_learning_rate", "min_learning_rate", "max_learning_rate")
        require_between(self, 1e-12, 10, *rates, "target_kl", "final_kl")
        require_between(self, 1e-6, 1e6, "clip_range", "value_clip", "max_grad_norm", "distill_std")
        require_between(self, 0, 1, "gamma", "final_gamma", "gae_lambda")
        require_between(
            self, 0, 1e6, "policy_coef", "value_coef", "entropy_coef", "initial_kl_coef", "bc_coef", "distill_coef"
        )
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
    """Name of the environment:
    - Brax: ant, fast, halfcheetah, hopper, humanoid, ...;
    - MuJoCo Playground: CartpoleBalance, Go1JoystickFlatTerrain, PandaPickCube, ...;
    - manipulation: panda_reach, panda_push, push_t, unscrew;
    - toys: multigoal, ring, moons, avoid;
    - Gymnasium: gymnasium:Hopper-v5, with arguments gymnasium:NAME,argument=value,...;
    - your own: a name given to register_env, or package.module:NAME of a class or function."""
    backend: str | None = None
    """Physics engine. None: the environment's default.
    - Brax: spring, positional, generalized, mjx, c;
    - MuJoCo Playground: jax, warp, c;
    - manipulation and your MJCF tasks: c, mjx, warp."""
    seed: int = 0
    """Seed of all random numbers in the run."""
    num_seeds: int = 1
    """Independent runs trained in parallel in one program, with seeds from `seed` upwards."""
    num_timesteps: int = 1_000_000
    """Env steps to train for, rounded up to whole chunks of updates."""
    updates_per_chunk: int = 4
    """Updates in one chunk, which is one compiled program; metrics are logged once per chunk."""
    num_evals: int = 10
    """Evaluations during the run, evenly spaced, plus one before training. 0 disables them."""
    eval_envs: int = 16
    """Episodes per evaluation with deterministic actions, and as many with sampled actions."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints; a killed run loses at most this much."""
    fusion_emitters: bool = True
    """Use XLA's fusion emitters on a CPU: faster for small tasks, but MJX with a robot arm needs them off.
    No effect from jaxlib 0.11.1 on (docs/benchmarks.md)."""
    env_options: EnvConfig = field(default_factory=EnvConfig)
    method: Method = field(default_factory=GenPOPlusPlus)
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        """Check types, ranges and what must divide what."""
        check_types(self)
        require_between(self, 1, LARGEST_TIMESTEPS, "num_timesteps")
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
        """Seeds that this run trains."""
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
        """Return nested plain values for JSON; the values of `method` include its `name`."""
        values = dataclasses.asdict(self)
        return values | {"method": method_to_dict(self.method)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """Build a config from the values of `to_dict`, also after a round trip through JSON.

        Raises:
            ValueError: if a setting is unknown or its value is not allowed.
        """
        values = dict(values)
        for name, part in (("env_options", EnvConfig), ("networks", NetworksConfig), ("ppo", PPOConfig)):
            values[name] = build_settings(part, values.get(name, {}))
        values["method"] = method_from_dict(values.get("method", {}))
        return build_settings(cls, values)


def method_to_dict(method: Method) -> dict[str, Any]:
    """Return a method's name and settings as plain values for JSON."""
    return {"name": method.name} | dataclasses.asdict(method)


def method_from_dict(values: dict[str, Any]) -> Method:
    """Build a method's settings from the values of `method_to_dict`."""
    require(isinstance(values, dict), "a table of settings", "method", values)
    rest = dict(values)
    name = rest.pop("name", GenPOPlusPlus.name)
    require(isinstance(name, str), "a string", "the name of the method", name)
    return build_settings(method_of(name), rest)


# Settings of earlier versions that run folders may still hold, and why they are gone.
REMOVED_SETTINGS = {
    "base=action-scale": "was removed in 0.2.0 because its gain did not repeat on other seeds; use base=learned-scale",
    "history_scale": "was removed in 0.2.0 together with base=action-scale; leave it out",
}
# A removed setting with this value changed nothing, so it is ignored.
REMOVED_DEFAULTS = {"history_scale": 4.0}


def without_removed_settings(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Return the values without removed settings at their old defaults.

    Raises:
        ValueError: if a removed setting, or a removed choice of a setting, is in use.
    """
    kept = {}
    for name, value in values.items():
        if (choice := f"{name}={value}") in REMOVED_SETTINGS:
            raise ValueError(f"{choice} {REMOVED_SETTINGS[choice]}")
        if name in known or name not in REMOVED_SETTINGS:
            kept[name] = value
        elif value != REMOVED_DEFAULTS[name]:
            raise ValueError(f"{name}={value} {REMOVED_SETTINGS[name]}")
    return kept


def build_settings(cls: type, values: Any) -> Any:
    """Build a dataclass of settings from plain values; lists become tuples.

    Removed settings at their old defaults are ignored, so that old run folders still load.

    Raises:
        ValueError: if a setting is unknown or its value is not allowed.
    """
    require(isinstance(values, dict), "a table of settings", cls.__name__, values)
    known = {f.name for f in dataclasses.fields(cls)}
    values = without_removed_settings(values, known)
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown settings {unknown} for {cls.__name__}; known are {sorted(known)}")
    required = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{cls.__name__} lacks the settings {missing}; restore the file that holds them")
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def flat_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings by the names of their fields, which no two tables share."""
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    rest = {name: value for name, value in settings.items() if name not in tables}
    return rest | {name: value for table in tables.values() for name, value in table.items()}
