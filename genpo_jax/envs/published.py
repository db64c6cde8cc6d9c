"""Settings that the libraries publish for their own training, to build and to compare presets for accelerators.

MuJoCo Playground ships its tables, which are read from the installed package. Brax has its settings only in a notebook
(`notebooks/training.ipynb`), so they are repeated here.
"""

import functools
from typing import Any, NamedTuple

from genpo_jax.envs.names import DM_CONTROL, LOCOMOTION, PLAYGROUND


class PublishedPPO(NamedTuple):
    """Settings of Brax's PPO, which both libraries use, with its own names for its arguments.

    Attributes:
        num_timesteps: env steps of the whole run.
        num_envs: environments stepped in parallel.
        batch_size: trajectories per minibatch.
        unroll_length: policy calls per trajectory.
        num_minibatches: minibatches per pass over the data of an update.
        num_updates_per_batch: passes over the data of an update.
        discounting: discount factor per policy call.
        action_repeat: env steps per policy call.
        learning_rate: of Adam, constant.
        entropy_cost: coefficient of the entropy bonus.
        reward_scaling: factor on the reward.
    """

    num_timesteps: int
    num_envs: int
    batch_size: int
    unroll_length: int
    num_minibatches: int
    num_updates_per_batch: int
    discounting: float
    action_repeat: int
    learning_rate: float
    entropy_cost: float
    reward_scaling: float

    @property
    def transitions(self) -> int:
        """Policy calls per update."""
        return self.batch_size * self.num_minibatches * self.unroll_length

    @property
    def gradient_steps(self) -> float:
        """Gradient steps per policy call."""
        return self.num_updates_per_batch / (self.batch_size * self.unroll_length)


class PublishedSAC(NamedTuple):
    """Settings of Brax's SAC, for environments without settings for PPO; see `PublishedPPO`."""

    num_timesteps: int
    num_envs: int
    discounting: float


_M = 1_000_000
BRAX_PPO = {
    "inverted_pendulum": PublishedPPO(2 * _M, 2048, 1024, 5, 32, 4, 0.97, 1, 3e-4, 1e-2, 10),
    "inverted_double_pendulum": PublishedPPO(20 * _M, 2048, 1024, 5, 32, 4, 0.97, 1, 3e-4, 1e-2, 10),
    "ant": PublishedPPO(50 * _M, 4096, 2048, 5, 32, 4, 0.97, 1, 3e-4, 1e-2, 10),
    "humanoid": PublishedPPO(50 * _M, 2048, 1024, 10, 32, 8, 0.97, 1, 3e-4, 1e-3, 0.1),
    "humanoidstandup": PublishedPPO(100 * _M, 2048, 1024, 15, 32, 8, 0.97, 1, 6e-4, 1e-2, 0.1),
    "reacher": PublishedPPO(50 * _M, 2048, 256, 50, 32, 8, 0.95, 4, 3e-4, 1e-3, 5),
    "halfcheetah": PublishedPPO(50 * _M, 2048, 512, 20, 32, 8, 0.95, 1, 3e-4, 1e-3, 1),
    "pusher": PublishedPPO(50 * _M, 2048, 512, 30, 16, 8, 0.95, 1, 3e-4, 1e-2, 5),
}
BRAX_SAC = {
    "hopper": PublishedSAC(6_553_600, 128, 0.997),
    "walker2d": PublishedSAC(7_864_320, 128, 0.997),
}


def published(name: str) -> PublishedPPO | PublishedSAC | None:
    """Return the settings that the library of an environment publishes for it; None if there are none.

    The settings of MuJoCo Playground need the package, whose import takes ten seconds; without it, they are None.
    """
    if name in PLAYGROUND:
        return _of_playground(name)
    return BRAX_PPO.get(name) or BRAX_SAC.get(name)


@functools.cache
def _of_playground(name: str) -> PublishedPPO | None:
    from genpo_jax.envs.patches import import_mjx

    try:
        import_mjx()
        from mujoco_playground.config import dm_control_suite_params, locomotion_params, manipulation_params
    except ImportError:
        return None
    family = dm_control_suite_params if name in DM_CONTROL else manipulation_params
    settings: Any = (locomotion_params if name in LOCOMOTION else family).brax_ppo_config(name)
    return PublishedPPO(*(settings[field] for field in PublishedPPO._fields))
