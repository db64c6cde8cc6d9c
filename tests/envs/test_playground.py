import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genpo_jax.envs import EpisodeEnv, make


@pytest.mark.ci
def test_cartpole_runs_to_its_time_limit():
    pytest.importorskip("mujoco_playground")
    env = make("CartpoleBalance")
    assert (env.observation_sizes, env.action_size) == ({"state": 5}, 1)
    assert env.default_episode_length == 1000
    episodes = EpisodeEnv(env, episode_length=3)
    state = jax.jit(episodes.init)(jax.random.split(jax.random.key(0), 2))
    actions = jnp.zeros((3, 2, 1))
    _, timesteps = jax.jit(lambda s, a: jax.lax.scan(episodes.step, s, a))(state, actions)
    assert timesteps.truncated[:, 0].tolist() == [False, False, True]
    assert not (timesteps.terminated | timesteps.nonfinite).any()
    assert ((timesteps.reward > 0.5) & (timesteps.reward <= 1)).all(), "the pole starts upright"
    np.testing.assert_allclose(timesteps.episode_return[-1], timesteps.reward.sum(axis=0), rtol=1e-6)


def test_a_missing_playground_is_reported_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(ImportError, match=r"pip install 'genpo-jax\[playground\]'"):
        make("CartpoleBalance")


def test_missing_robots_are_reported_with_where_to_put_them(monkeypatch):
    registry = pytest.importorskip("mujoco_playground").registry

    def fail(*args, **kwargs):
        raise subprocess.CalledProcessError(128, ["git", "clone"])

    monkeypatch.setattr(registry, "load", fail)
    with pytest.raises(RuntimeError, match="Go1JoystickFlatTerrain needs the robots .*MENAGERIE_PATH"):
        make("Go1JoystickFlatTerrain")
