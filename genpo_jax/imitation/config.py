"""Settings of pretraining. This module does not import jax, so that `--help` is quick."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from genpo_jax.checks import check_types, require, require_between
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.methods import FPO, Gaussian, NetworksConfig, check_sizes

DEFAULT_ACTION_NORMALIZATION = "min-max"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of pretraining on demonstrations."""

    policy: Literal["flow", "gaussian"] = "flow"
    """flow: conditional flow matching on straight lines. gaussian: maximum likelihood."""
    env: str | None = None
    """Environment of the demonstrations. None: the environment named in the file."""
    seed: int = 0
    """Seed of all random numbers in the run."""
    num_updates: int = 20_000
    """Updates to train for, rounded up to whole chunks of updates."""
    updates_per_chunk: int = 500
    """Updates in one chunk, which is one compiled program; metrics are logged once per chunk."""
    batch_size: int = 256
    """Demonstration steps per update."""
    learning_rate: float = 1e-3
    """Initial learning rate of AdamW. A cosine schedule lowers it to 1 % over the run."""
    weight_decay: float = 1e-6
    """Weight decay of AdamW."""
    average: float = 0.995
    """Decay per update of the moving average of the parameters. The policy acts with the average."""
    valid_share: float = 0.1
    """Fraction of episodes held out for validation, unless the file marks a validation set."""
    normalization: Literal["standard", "min-max"] = "standard"
    """Observation normalizer, computed from the data and then fixed.
    - standard: mean 0 and standard deviation 1;
    - min-max: range [-1, 1]."""
    action_normalization: Literal["min-max", "quantile", "mean-std", "none"] | None = None
    """Range of the actions that the network sees as [-1, 1]; the policy acts in the units of the data, within it.
    - min-max: from the smallest to the largest action, per coordinate;
    - quantile: from the 1 % to the 99 % quantile and a quarter more on each side, within min-max;
    - mean-std: three standard deviations on each side of the mean;
    - none: the bounds of the environment, or [-1, 1]; other actions are refused.
    None: those of the environment if it is known, else those that the file declares, else min-max."""
    history: int = 1
    """Number k of observations that the policy sees: the last k, one per step. The first of an episode fills it."""
    chunk: int = 1
    """Action chunk length (H): actions the policy outputs per call."""
    executed: int | None = None
    """Actions executed per action chunk (h) before the policy is called again. None: all."""
    num_steps: int = 10
    """Euler steps of the pretrained flow from noise to action."""
    sizes: tuple[int, ...] = (256, 256)
    """Hidden layer sizes of the flow's encoder and head, and of the Gaussian's mean."""
    skip: bool | None = None
    """Add x, scaled per coordinate by a learned function of the flow time, to the flow's velocity.
    None: if an action chunk has more numbers than the narrowest hidden layer."""
    activation: Literal["mish", "elu", "swish", "tanh"] = "mish"
    """Activation of every network."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints; a killed run loses at most this much."""

    def __post_init__(self) -> None:
        """Check types and ranges."""
        check_types(self)
        require(0 <= self.seed < 2**32, "in [0, 2^32)", "seed", self.seed)
        require_between(self, 1, 2**31 - 1, "num_updates", "updates_per_chunk", "batch_size")
        require_between(self, 1e-12, 10, "learning_rate")
        require_between(self, 0, 1, "weight_decay", "average", "valid_share")
        require_between(self, 0, 10**6, "checkpoint_minutes")
        require(self.average < 1, "< 1", "average", self.average, "at 1 the average would never change")
        check_sizes(self, "sizes")
        self.run_config("demonstrations")

    @property
    def num_chunks(self) -> int:
        """Chunks in the whole run."""
        return -(-self.num_updates // self.updates_per_chunk)

    def run_config(self, env: str, action_size: int = 1) -> Config:
        """Return the run settings of the policy for actions of this size; a flow is an FPO policy."""
        skip = self.chunk * action_size > min(self.sizes) if self.skip is None else self.skip
        flow = FPO(
            num_steps=self.num_steps,
            encoder_sizes=self.sizes,
            head_sizes=self.sizes,
            hidden_sizes=self.sizes,
            skip=skip,
        )
        return Config(
            env=env,
            seed=self.seed,
            num_timesteps=self.num_chunks * self.updates_per_chunk,
            method=flow if self.policy == "flow" else Gaussian(hidden_sizes=self.sizes),
            networks=NetworksConfig(value_sizes=self.sizes, activation=self.activation),
            env_options=EnvConfig(squash="clip", chunk=self.chunk, executed=self.executed, history=self.history),
            ppo=PPOConfig(normalize_observations=True),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
