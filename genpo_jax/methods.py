"""One frozen dataclass per method: its own numbers, its checks, and the policy it builds. Free of jax, for `--help`.

To add a method: a dataclass here, listed in `METHODS`, and a file in `genpo_jax/policies` with the policy.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from genpo_jax.checks import check_types, require, require_between

if TYPE_CHECKING:
    from flax import nnx

    from genpo_jax.policies import Policy

LARGEST_LAYER = 65_536
MOST_STEPS = 1000
MOST_HISTORIES = 1024


def check_sizes(settings: Any, *names: str) -> None:
    """Check that the named settings are sizes of one or more layers."""
    for name in names:
        sizes = getattr(settings, name)
        valid = len(sizes) > 0 and all(1 <= size <= LARGEST_LAYER for size in sizes)
        require(valid, f"one or more sizes in [1, {LARGEST_LAYER}]", name, sizes)


@dataclass(frozen=True)
class NetworksConfig:
    """The networks: what actor and critic share, and the layers of the critic."""

    value_sizes: tuple[int, ...] = (400, 200, 100)
    """Hidden layers of the value network."""
    activation: Literal["mish", "elu", "swish", "tanh"] = "mish"
    """Activation of every network."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the matrix products of every network; parameters, solver state and ratios stay float32."""

    def __post_init__(self) -> None:
        """Check types and sizes."""
        check_types(self)
        check_sizes(self, "value_sizes")


@dataclass(frozen=True, kw_only=True)
class Method:
    """What every method has.

    Attributes:
        name: on the command line and in files.
        policy: `module:class` in `genpo_jax.policies`, which is imported when the policy is built.
        published_update: settings of PPO that its paper has otherwise than PPO's.
        has_density: whether it knows the density of its actions, or a bound of it.
    """

    name: ClassVar[str]
    policy: ClassVar[str]
    published_update: ClassVar[dict[str, Any]] = {}
    has_density: ClassVar[bool] = False

    initial_std: float = 1.0
    """Initial standard deviation of the action, before the squash; a standard base does not know it."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_types(self)
        require_between(self, 1e-4, 1e3, "initial_std")

    def build(self, obs_size: int, action_size: int, networks: NetworksConfig, rngs: "nnx.Rngs") -> "Policy":
        """Return the policy for observations `[..., obs_size]` and actions `[..., action_size]`.

        Raises:
            ValueError: if its solver refuses the settings.
        """
        module, _, name = self.policy.partition(":")
        return getattr(import_module(f"genpo_jax.policies.{module}"), name)(obs_size, action_size, self, networks, rngs)


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(Method):
    """A method that knows the density of its actions, or a bound of it, so that their entropy can be paid for."""

    has_density = True

    action_entropy_coef: float = 0.0
    """Add this times the entropy of the executed action to the reward, for exploration (maximum-entropy RL). Exact for
    gaussian; for genpo++, genpo and saflow a lower bound, by a learned model of the solver's history."""
    final_action_entropy_coef: float | None = None
    """Move action_entropy_coef linearly to this value over the run; None: keep it."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 0, 1e4, "action_entropy_coef")
        final = self.final_action_entropy_coef
        bonus_or_none = final is None or (0 <= final <= 1e4 and self.action_entropy_coef > 0)
        require(bonus_or_none, ">= 0 with an action_entropy_coef > 0, or None", "final_action_entropy_coef", final)


@dataclass(frozen=True, kw_only=True)
class Gaussian(EntropyBonus):
    """The usual Gaussian policy of PPO: a mean that follows the observation, a learned scale that does not."""

    name = "gaussian"
    policy = "gaussian:GaussianPolicy"

    hidden_sizes: tuple[int, ...] = (400, 200, 100)
    """Hidden layers of the mean."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        check_sizes(self, "hidden_sizes")


@dataclass(frozen=True, kw_only=True)
class FlowMethod(Method):
    """A method that integrates a learned velocity."""

    network: Literal["encoder", "concat"] = "encoder"
    """Velocity field: an encoder run once per observation and a small head run M times, or one network on the
    concatenation of observation, time and action, run M times (as published; several times slower)."""
    encoder_sizes: tuple[int, ...] = (400, 200)
    """Layers of the observation encoder."""
    head_sizes: tuple[int, ...] = (128,)
    """Hidden layers of the velocity head, evaluated M times per action."""
    hidden_sizes: tuple[int, ...] = (400, 200, 100)
    """Hidden layers of the concat velocity field, and of the networks beside the velocity."""
    time_embedding: int = 32
    """Number of sinusoidal features of the flow time t (even)."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        check_sizes(self, "encoder_sizes", "head_sizes", "hidden_sizes")
        even = 2 <= self.time_embedding <= 1024 and self.time_embedding % 2 == 0
        require(even, "even and in [2, 1024]", "time_embedding", self.time_embedding)
        for name in ("num_steps", "num_samples"):
            if hasattr(self, name):
                require_between(self, 1, MOST_STEPS, name)


@dataclass(frozen=True, kw_only=True)
class ReversibleMethod(EntropyBonus, FlowMethod):
    """A flow whose solver inverts in closed form, so that its ratio is exact."""

    policy = "reversible:ReversiblePolicy"

    num_steps: int = 5
    """Solver steps M from noise to action."""
    base: Literal["standard", "learned-scale", "action-scale", "conditioned", "correlated"] = "learned-scale"
    """Density of the noise: N(0, I); independent normals with a learned scale per coordinate of each iterate; a learned
    scale of what reaches the action and a fixed one of what reaches the history alone; independent normals about a mean
    that follows the observation (a network of hidden_sizes), so that zero velocity is a Gaussian policy; or one normal
    draw about which all iterates lie, at the distance tau, for a flow that was trained elsewhere."""
    history_scale: float = 4.0
    """Standard deviation, in units of initial_std, of the noise that reaches the history alone, for the base
    action-scale: with a larger one the history counts less in the ratio (docs/methods.md)."""
    tau: float = 0.1
    """Scale of what keeps the iterates of a pretrained flow apart, for the base correlated and the solver euler-start:
    a smaller one is nearer to the flow, and makes ratios steeper (docs/demonstrations.md)."""
    num_histories: int = 1
    """Histories K that the ratio is averaged over: 1 is the published ratio, exact for action and history together;
    2, 4, 6, ... bring it nearer to that of the action alone, unbiased for every K (docs/methods.md)."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 1, MOST_HISTORIES, "num_histories")
        in_pairs = self.num_histories == 1 or self.num_histories % 2 == 0
        require(in_pairs, "1 or even, as a history comes with its reflection", "num_histories", self.num_histories)
        require_between(self, 1e-4, 10, "tau")
        require_between(self, 0.01, 100, "history_scale")
        with_model = self.num_histories > 1 or self.action_entropy_coef > 0
        remedy = "leave num_histories at 1 and action_entropy_coef at 0"
        require(
            not (with_model and self.base == "correlated"), "one with a model of the history", "base", self.base, remedy
        )

    def make_solver(self) -> Any:
        """Return the solver from noise to action."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class GenPOPlusPlus(ReversibleMethod):
    """GenPO++ (arXiv:2606.06967): the history solver keeps one earlier iterate."""

    name = "genpo++"

    solver: Literal["history", "multistep-1", "multistep-2", "multistep-3", "euler-start"] = "history"
    """The published history solver, a multistep solver of order 1, 2 or 3 (docs/solvers.md), or the history solver
    after an Euler step, for a flow that was trained elsewhere."""
    history_coef: float = 0.75
    """Coefficient sigma, the weight of the oldest iterate; multistep-1, -2 and -3 do best with 0.65, 0.45 and 0.3."""

    def make_solver(self) -> Any:
        """Return the history solver, that after an Euler step, or the multistep solver."""
        from genpo_jax.solvers import EulerStartSolver, HistorySolver, MultistepSolver

        if self.solver == "euler-start":
            return EulerStartSolver(self.num_steps, self.history_coef, self.tau)
        if self.solver == "history":
            return HistorySolver(self.num_steps, self.history_coef)
        return MultistepSolver(self.num_steps, order=int(self.solver[-1]), history_coef=self.history_coef)


@dataclass(frozen=True, kw_only=True)
class GenPO(ReversibleMethod):
    """GenPO (arXiv:2505.18763): two coupled flows, whose mean is the action.

    Its published cost comes partly from Jacobians; their determinant is a constant, and here none is computed.
    """

    name = "genpo"

    mix: float = 0.95
    """Weight of an iterate in its mix with the other, which ends each step of the coupled solver."""

    def make_solver(self) -> Any:
        """Return the coupled solver."""
        from genpo_jax.solvers import CoupledSolver

        return CoupledSolver(self.num_steps, self.mix)


@dataclass(frozen=True, kw_only=True)
class SAFlow(ReversibleMethod):
    """A flow by the self-adjoint Verlet solver, whose map keeps volumes."""

    name = "saflow"

    def make_solver(self) -> Any:
        """Return the Verlet solver."""
        from genpo_jax.solvers import VerletSolver

        return VerletSolver(self.num_steps)


@dataclass(frozen=True, kw_only=True)
class FPO(FlowMethod):
    """FPO (arXiv:2507.21053): the flow-matching loss stands in for the likelihood."""

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
    """Euler steps from noise to action."""
    num_samples: int = 8
    """Samples per action of the flow-matching loss."""


@dataclass(frozen=True, kw_only=True)
class FPOPlusPlus(FPO):
    """FPO++ (arXiv:2602.02481): one ratio per sample of the flow-matching loss, bounded on both sides."""

    name = "fpo++"
    policy = "fpo_plus:FPOPlusPolicy"
    published_update = {**FPO.published_update, "objective": "aspo", "learning_rate": 1e-4}

    num_steps: int = 64
    """Euler steps from noise to action."""
    num_samples: int = 16
    """Samples per action of the flow-matching loss."""


@dataclass(frozen=True, kw_only=True)
class NoisyFlowMethod(FlowMethod):
    """A flow whose action gets noise beside that which it starts from."""

    noise_std: float | None = None
    """Standard deviation of the noise that is added on the way, in all, to a flow that starts from initial_std; for a
    flow that was trained elsewhere. None: start and noise share initial_std equally."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 1e-4, 1e3, "noise_std")

    @property
    def stds(self) -> tuple[float, float]:
        """Standard deviations of the noise that the flow starts from, and of that which is added."""
        shared = self.initial_std / 2**0.5
        return (shared, shared) if self.noise_std is None else (self.initial_std, self.noise_std)


@dataclass(frozen=True, kw_only=True)
class PolicyFlow(NoisyFlowMethod):
    """PolicyFlow (arXiv:2602.01156): the ratio of Gaussian perturbations of a flow sample."""

    name = "policyflow"
    policy = "policyflow:PolicyFlowPolicy"
    published_update = {"entropy_coef": 0.0025}

    num_steps: int = 10
    """Midpoint steps from noise to action, two evaluations of the velocity each."""
    brownian_coef: float = 0.0025
    """Weight of the Brownian regularizer."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        super().__post_init__()
        require_between(self, 0, 1e4, "brownian_coef")


@dataclass(frozen=True, kw_only=True)
class DPPO(NoisyFlowMethod):
    """DPPO (arXiv:2409.00588): every denoising step is a decision with noise of fixed scale."""

    name = "dppo"
    policy = "dppo:DPPOPolicy"

    num_steps: int = 10
    """Euler steps from noise to action, each with noise."""


@dataclass(frozen=True, kw_only=True)
class ReinFlow(NoisyFlowMethod):
    """ReinFlow (arXiv:2505.22094): a flow with learned noise in every step."""

    name = "reinflow"
    policy = "reinflow:ReinFlowPolicy"

    num_steps: int = 4
    """Euler steps from noise to action, each with noise."""


METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (GenPOPlusPlus, GenPO, SAFlow, Gaussian, FPO, FPOPlusPlus, PolicyFlow, DPPO, ReinFlow)
}


def method_of(name: str) -> type[Method]:
    """Return the settings class of a method.

    Raises:
        ValueError: if there is no such method.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]
