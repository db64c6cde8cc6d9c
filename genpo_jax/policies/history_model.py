"""A learned density of what a solver state holds beside the action."""

import jax.numpy as jnp
from flax import nnx

from genpo_jax.methods import NetworksConfig
from genpo_jax.policies.gaussian import normal_log_prob
from genpo_jax.policies.networks import MLP, OUTPUT_GAIN
from genpo_jax.shapes import Numbers, Obs, State
from genpo_jax.solvers import ReversibleSolver


class HistoryModel(nnx.Module):
    """A normal density q of a solver state's other iterates, given action and observation."""

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        hidden_sizes: tuple[int, ...],
        networks: NetworksConfig,
        solver: ReversibleSolver,
        rngs: nnx.Rngs,
    ) -> None:
        rest_size = (solver.num_states - 1) * action_size
        net = {"size_out": 2 * rest_size, "gain": OUTPUT_GAIN, "dtype": networks.compute_dtype}
        self.net = MLP(obs_size + action_size, hidden_sizes, networks.activation, rngs, **net)
        # For most solvers the history is nearly a multiple of the action.
        self.slope = nnx.Linear(action_size, rest_size, use_bias=False, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def log_prob(self, solver: ReversibleSolver, obs: Obs, state: State) -> Numbers:
        """Return log q `[...]` of solver states `[..., k, d]`."""
        action, rest = solver.split(state)
        mean, log_std = jnp.split(self.net(jnp.concatenate([obs, action], axis=-1)), 2, axis=-1)
        return normal_log_prob(rest.reshape(mean.shape) - self.slope(action) - mean, log_std)
