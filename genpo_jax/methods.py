"""Settings of each method: one frozen dataclass per method, with its checks and the policy that it builds.

This module does not import jax, so that `--help` is quick. To add a method, write a dataclass here, list it in
`METHODS`, and put its policy in a file of `genpo_jax/policies`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genpo_jax.checks import check_types, require, require_between

if TYPE_CHECKING:
    from flax import nnx

MAX_LAYER_SIZE = 65_536
MAX_STEPS = 1000
MAX_HISTORIES = 1024


def check_sizes(settings: Any, *names: str) -> None:
    """Check that each named setting is a tuple of one or more layer sizes."""
    for name in names:
        sizes = getattr(settings, name)
        valid = len(sizes) > 0 and all(1 <= size <= MAX_LAYER_SIZE for size in sizes)
        require(valid, f"one or more sizes in [1, {MAX_LAYER_SIZE}]", name, sizes)


@dataclass(frozen=True)
class NetworksConfig:
    """Settings that actor and critic networks share, and the layers of the critic."""

    value_sizes: tuple[int, ...] = (400, 200, 100)
    """Sizes of the hidden layers of the value network."""
    activation: Literal["mish", "elu", "swish", "tanh"] = "mish"
    """Activation function of every network."""
    compute_dtype: Literal["float32", "tf32x3", "tf32", "bfloat16"] = "float32"
    """Precision of the matrix products of every network; parameters, solver state and ratios stay float32.
    Lower precision is faster on a GPU, but the initial ratio of an update is less exact (docs/accelerator.md)."""

    def __post_init__(self) -> None:
        """Check types and sizes."""
        check_types(self)
        check_sizes(self, "value_sizes")


@dataclass(frozen=True, kw_only=True)
class Method:
    """Settings of any method; the base class of all methods.

    Attributes:
        name: name of the method on the command line and in files.
        policy: `module:class` in `genpo_jax.policies`, imported when the policy is built.
        published_update: PPO settings in which the paper of the method differs from the defaults.
        has_density: whether the method can compute the density of its actions, or a bound of it.
    """

    name: ClassVar[str]
    policy: ClassVar[str]
    published_update: ClassVar[dict[str, Any]] = {}
    has_density: ClassVar[bool] = False

    initial_std: float = 1.0
    """Initial standard deviation of the action before the squash."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_types(self)
        require_between(self, 1e-4, 1e3, "initial_std")

    def build(self, obs_size: int, action_size: int, networks: NetworksConfig, rngs: "nnx.Rngs") -> Any:
        """Return the `genpo_jax.policies.Policy` for observations `[..., obs_size]` and actions `[..., action_size]`.

        Raises:
            ValueError: if the solver refuses the settings.
        """
        module, _, name = self.policy.partition(":")
        return getattr(import_module(f"genpo_jax.policies.{module}"), name)(obs_size, action_size, self, networks, rngs)


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(Method):
    """Settings of a method whose action entropy, or a bound of it, can be added to the reward."""

    has_density = True

    action_entropy_coef: float = 0.0
    """Coefficient of a reward bonus on the entropy of the executed action (maximum-entropy RL).
    The entropy is exact for gaussian and a lower bound for genpo++, genpo and saflow."""
    final_action_entropy_coef: float | None = None
    """Final value of action_entropy_coef, reached linearly over the run. None: constant."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 0, 1e4, "action_entropy_coef")
        final = self.final_action_entropy_coef
        bonus_or_none = final is None or (0 <= final <= 1e4 and self.action_entropy_coef > 0)
        require(bonus_or_none, ">= 0 with an action_entropy_coef > 0, or None", "final_action_entropy_coef", final)


@dataclass(frozen=True, kw_only=True)
class Gaussian(EntropyBonus):
    """Gaussian policy of standard PPO: a mean that depends on the observation and a learned scale that does not."""

    name = "gaussian"
    policy = "gaussian:GaussianPolicy"

    hidden_sizes: tuple[int, ...] = (400, 200, 100)
    """Sizes of the hidden layers of the mean network."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        check_sizes(self, "hidden_sizes")


@dataclass(frozen=True, kw_only=True)
class FlowMethod(Method):
    """Settings of a method that integrates a learned velocity."""

    network: Literal["encoder", "concat"] = "encoder"
    """Architecture of the velocity field:
    - encoder: an encoder runs once per observation, a small head runs M times per action;
    - concat: one network on observation, time and action runs M times (as published, several times slower)."""
    encoder_sizes: tuple[int, ...] = (400, 200)
    """Sizes of the layers of the observation encoder."""
    head_sizes: tuple[int, ...] = (128,)
    """Sizes of the hidden layers of the velocity head."""
    hidden_sizes: tuple[int, ...] = (400, 200, 100)
    """Sizes of the hidden layers of the concat velocity field and of the mean network (base=conditioned)."""
    time_embedding: int = 32
    """Number of sinusoidal features of the flow time t; must be even."""
    skip: bool = False
    """Add x, scaled per coordinate by a learned function of t, to the velocity (network=encoder).
    For actions with more numbers than the narrowest layer, whose noise the network could not remove otherwise."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        check_sizes(self, "encoder_sizes", "head_sizes", "hidden_sizes")
        require(not self.skip or self.network == "encoder", "False with network=concat", "skip", self.skip)
        even = 2 <= self.time_embedding <= 1024 and self.time_embedding % 2 == 0
        require(even, "even and in [2, 1024]", "time_embedding", self.time_embedding)
        for name in ("num_steps", "num_samples"):
            if hasattr(self, name):
                require_between(self, 1, MAX_STEPS, name)


@dataclass(frozen=True, kw_only=True)
class ReversibleMethod(EntropyBonus, FlowMethod):
    """Settings of a flow whose solver has a closed-form inverse, so that the ratio is exact."""

    policy = "reversible:ReversiblePolicy"

    initial_std: float = 1.0
    """Initial standard deviation of the action before the squash. Ignored by base=standard and base=correlated."""
    num_steps: int = 5
    """Number of solver steps M from noise to action."""
    base: Literal["standard", "learned-scale", "conditioned", "correlated"] = "learned-scale"
    """Base density of the noise:
    - standard: N(0, I);
    - learned-scale: independent normals with a learned scale per coordinate of each iterate;
    - conditioned: learned-scale around a mean that depends on the observation;
    - correlated: iterates at distance tau from one draw of N(0, I), for pretrained flows."""
    tau: float = 0.1
    """Standard deviation of the noise between the solver's iterates, for base=correlated.
    A smaller value is closer to the pretrained flow but makes ratios steeper (docs/demonstrations.md)."""
    num_histories: int = 1
    """Number K of solver histories averaged in the ratio: 1 (published), or even (antithetic pairs).
    The ratio is unbiased for every K; a larger K brings it closer to the ratio of the action alone."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 1, MAX_HISTORIES, "num_histories")
        in_pairs = self.num_histories == 1 or self.num_histories % 2 == 0
        require(in_pairs, "1 or even, because histories come in antithetic pairs", "num_histories", self.num_histories)
        require_between(self, 1e-4, 10, "tau")
        if self.base == "correlated" and (self.num_histories > 1 or self.action_entropy_coef > 0):
            raise ValueError(
                "base=correlated does not support num_histories > 1 or an entropy bonus, got num_histories = "
                f"{self.num_histories} and action_entropy_coef = {self.action_entropy_coef}; choose another base, or "
                "leave them at 1 and 0"
            )

    def make_solver(self) -> Any:
        """Return the solver from noise to action."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class GenPOPlusPlus(ReversibleMethod):
    """GenPO++ (arXiv:2606.06967): a flow policy whose solver keeps the previous iterate in its state."""

    name = "genpo++"

    solver: Literal["history", "multistep-1", "multistep-2", "multistep-3", "euler-start"] = "history"
    """Solver from noise to action (docs/solvers.md):
    - history: as published;
    - multistep-1, multistep-2, multistep-3: multistep solver of order 1, 2 or 3;
    - euler-start: history solver whose first step is an Euler step, for pretrained flows."""
    tau: float = 0.1
    """Standard deviation of the noise between the solver's iterates, for base=correlated or solver=euler-start.
    A smaller value is closer to the pretrained flow but makes ratios steeper (docs/demonstrations.md)."""
    history_coef: float = 0.75
    """Coefficient sigma of the oldest iterate. Recommended for multistep-1, -2 and -3: 0.65, 0.45 and 0.3."""

    def make_solver(self) -> Any:
        """Return the solver that `solver` names."""
        from genpo_jax.solvers import EulerStartSolver, HistorySolver, MultistepSolver

        if self.solver == "euler-start":
            return EulerStartSolver(self.num_steps, self.history_coef, self.tau)
        if self.solver == "history":
            return HistorySolver(self.num_steps, self.history_coef)
        return MultistepSolver(self.num_steps, order=int(self.solver[-1]), history_coef=self.history_coef)


@dataclass(frozen=True, kw_only=True)
class GenPO(ReversibleMethod):
    """GenPO (arXiv:2505.18763): a flow policy of two coupled flows, whose mean is the action.

    The published implementation computes Jacobians. Their determinant is a constant, so none is computed here.
    """

    name = "genpo"

    mix: float = 0.95
    """Weight of each iterate when the coupled solver mixes the two at the end of a step."""

    def make_solver(self) -> Any:
        """Return the coupled solver."""
        from genpo_jax.solvers import CoupledSolver

        return CoupledSolver(self.num_steps, self.mix)


@dataclass(frozen=True, kw_only=True)
class SAFlow(ReversibleMethod):
    """SAFlow: a flow policy with the self-adjoint Verlet solver, which preserves volume."""

    name = "saflow"

    def make_solver(self) -> Any:
        """Return the Verlet solver."""
        from genpo_jax.solvers import VerletSolver

        return VerletSolver(self.num_steps)


@dataclass(frozen=True, kw_only=True)
class FPO(FlowMethod):
    """FPO (arXiv:2507.21053): a flow policy whose ratio uses the flow-matching loss instead of the likelihood."""

    name = "fpo"
    policy = "fpo:FPOPolicy"
    published_update = {
        "clip_range": 0.05,
        "target_kl": None,
        "final_kl": None,
        "learning_rate": 3e-4,
        "num_epochs": 16,
    }

    num_steps: int = 10
    """Number of Euler steps from noise to action."""
    num_samples: int = 8
    """Samples of the flow-matching loss per action."""


@dataclass(frozen=True, kw_only=True)
class FPOPlusPlus(FPO):
    """FPO++ (arXiv:2602.02481): FPO with one bounded ratio per sample of the flow-matching loss."""

    name = "fpo++"
    policy = "fpo_plus:FPOPlusPolicy"
    published_update = {**FPO.published_update, "objective": "aspo", "learning_rate": 1e-4}

    num_steps: int = 64
    """Number of Euler steps from noise to action."""
    num_samples: int = 16
    """Samples of the flow-matching loss per action."""


@dataclass(frozen=True, kw_only=True)
class NoisyFlowMethod(FlowMethod):
    """Settings of a flow that adds noise after the initial noise."""

    noise_std: float | None = None
    """Total standard deviation of the noise added to a pretrained flow, which then starts from initial_std.
    None: initial noise and added noise have equal variance and together give initial_std."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 1e-4, 1e3, "noise_std")

    @property
    def stds(self) -> tuple[float, float]:
        """Standard deviations of the initial noise and of the added noise."""
        shared = self.initial_std / 2**0.5
        return (shared, shared) if self.noise_std is None else (self.initial_std, self.noise_std)


@dataclass(frozen=True, kw_only=True)
class PolicyFlow(NoisyFlowMethod):
    """PolicyFlow (arXiv:2602.01156): a flow policy whose ratio compares Gaussian perturbations of a sample."""

    name = "policyflow"
    policy = "policyflow:PolicyFlowPolicy"
    published_update = {"entropy_coef": 0.0025}

    num_steps: int = 10
    """Number of midpoint steps from noise to action; each evaluates the velocity twice."""
    brownian_coef: float = 0.0025
    """Weight of the Brownian regularizer."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 0, 1e4, "brownian_coef")


@dataclass(frozen=True, kw_only=True)
class DPPO(NoisyFlowMethod):
    """DPPO (arXiv:2409.00588): a flow policy with fixed noise and one ratio in every step."""

    name = "dppo"
    policy = "dppo:DPPOPolicy"

    num_steps: int = 10
    """Number of Euler steps from noise to action; each adds noise."""


@dataclass(frozen=True, kw_only=True)
class ReinFlow(NoisyFlowMethod):
    """ReinFlow (arXiv:2505.22094): a flow policy with learned noise in every step."""

    name = "reinflow"
    policy = "reinflow:ReinFlowPolicy"

    num_steps: int = 4
    """Number of Euler steps from noise to action; each adds noise."""


METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (GenPOPlusPlus, GenPO, SAFlow, Gaussian, FPO, FPOPlusPlus, PolicyFlow, DPPO, ReinFlow)
}


def method_of(name: str) -> type[Method]:
    """Return the settings class of a method.

    Raises:
        ValueError: if the name is unknown.
    """
    require(name in METHODS, f"one of {', '.join(METHODS)}", "method", name)
    return METHODS[name]
