import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extras import needs_robots

from genpo_jax.envs import EpisodeEnv, make, names, robots

# Environments that read contacts of MJX's data.
UNPLAYABLE_IN_C = ()


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


def test_a_missing_playground_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(ImportError, match=r"in your clone of genpo_jax: pip install -e '.\[playground\]'"):
        make("CartpoleBalance")


def test_missing_robots_are_reported_with_the_remedies(monkeypatch):
    library = pytest.importorskip("mujoco_playground").registry

    def fail(*args, **kwargs):
        raise subprocess.CalledProcessError(128, ["git", "clone"])

    monkeypatch.setattr(library, "load", fail)
    with pytest.raises(
        RuntimeError,
        match=r"Go1JoystickFlatTerrain needs the robots .*MENAGERIE_ROOT to a checkout .*pip install -e '.\[robots\]'",
    ):
        make("Go1JoystickFlatTerrain")


@pytest.mark.ci
def test_the_c_engine_simulates_cartpole_like_mjx():
    pytest.importorskip("mujoco_playground")
    seen = []
    for backend in ("c", "jax"):
        env = make("CartpoleBalance", backend)

        def step(state, action, env=env):
            state, obs, reward, *_ = env.step(state, action)
            return state, (obs["state"], reward)

        state, _ = env.reset(jax.random.key(0))
        actions = jnp.sin(jnp.arange(5.0))[:, None]
        seen.append(jax.jit(lambda s, step=step, actions=actions: jax.lax.scan(step, s, actions)[1])(state))
    for ours, theirs in zip(*seen, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_settings_of_playground_can_be_changed_and_are_checked():
    pytest.importorskip("mujoco_playground")
    env = make("CartpoleBalance", "jax", playground_config=("episode_length=7", "ctrl_dt=0.02", "vision=False"))
    assert (env.default_episode_length, env.raw.dt, env.raw.n_substeps) == (7, 0.02, 2)
    for changed, message in (
        ("episode_lenth=7", "no setting 'episode_lenth' in its configuration; choose episode_length"),
        ("ctrl_dt=fast", "ctrl_dt of CartpoleBalance must be a float, as 0.01, got 'fast'"),
        ("episode_length=7.5", "episode_length of CartpoleBalance must be a int, as 1000, got 7.5"),
        ("vision_config.nothing=1", "no setting 'vision_config.nothing'"),
    ):
        with pytest.raises(ValueError, match=message):
            make("CartpoleBalance", "jax", playground_config=(changed,))
    with pytest.raises(ValueError, match="settings of MuJoCo Playground, to which fast does not belong"):
        make("fast", playground_config=("episode_length=7",))


def test_robots_are_found_in_the_first_folder_that_has_them(tmp_path, monkeypatch):
    for root in ("checkout", "cloned"):
        for robot in ("arm", "hand") if root == "cloned" else ("arm",):
            (tmp_path / root / robot).mkdir(parents=True)
    monkeypatch.setattr(robots, "find_spec", lambda name: None)
    assert not robots.Menagerie(tmp_path / "nowhere", str).exists()
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "checkout"))
    menagerie = robots.Menagerie(tmp_path / "cloned", str)
    assert menagerie.exists()
    assert menagerie / "arm" == str(tmp_path / "checkout" / "arm")
    assert menagerie / "hand" == str(tmp_path / "cloned" / "hand")
    with pytest.raises(FileNotFoundError, match="no folder leg in"):
        _ = menagerie / "leg"
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path / "typo"))
    with pytest.raises(ValueError, match="MENAGERIE_ROOT must be the folder of a Menagerie checkout"):
        robots.Menagerie(tmp_path / "cloned", str)


@pytest.mark.slow
@needs_robots
@pytest.mark.parametrize("name", names.PLAYGROUND)
def test_every_listed_environment_steps_on_the_c_engine_or_is_refused(name):
    try:
        env = make(name, "c")
    except ValueError as error:
        assert name in UNPLAYABLE_IN_C, str(error)
        return
    assert name not in UNPLAYABLE_IN_C
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    _, obs, reward, *_ = jax.jit(env.step)(state, jnp.zeros(env.action_size))
    assert np.isfinite(obs["state"]).all() and np.isfinite(reward)


@pytest.mark.slow
@needs_robots
def test_randomizations_of_playground_are_used(tmp_path):
    env = make("Go1JoystickFlatTerrain", "jax", randomize=True)
    states, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 2))
    assert any((leaf[0] != leaf[1]).any() for leaf in states.drawn)
    with pytest.raises(ValueError, match="CartpoleBalance has no randomization"):
        make("CartpoleBalance", "jax", randomize=True)
