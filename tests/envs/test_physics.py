from functools import cache

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from genpo_jax import MjcfTask, Start
from genpo_jax.commands import collect
from genpo_jax.config import EnvConfig
from genpo_jax.envs import EpisodeEnv, make, varied
from genpo_jax.envs.mirror import Mirror, unchanged
from genpo_jax.envs.physics import Physics
from genpo_jax.runs.environment import check_drawn, with_physics
from genpo_jax.runtime import compiler_options

pytestmark = pytest.mark.ci

GRAVITY, FRICTION, MASS, INERTIA = 9.81, 0.4, 2.0, 0.02
# Six machines without a common contact. The elliptic cone makes the friction of the sled exact.
MACHINES = f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.002" integrator="Euler" cone="elliptic" impratio="100"/>
  <worldbody>
    <geom name="floor" type="plane" size="9 9 .1" friction="{FRICTION}" solref=".004 1"/>
    <body name="sled" pos="0 3 .1">
      <joint name="sled_x" type="slide" axis="1 0 0"/>
      <joint name="sled_z" type="slide" axis="0 0 1"/>
      <geom name="runner" type="box" size=".2 .2 .1" mass="1" friction="{FRICTION}" solref=".004 1"/>
    </body>
    <body name="cart" pos="0 0 2">
      <joint name="cart" type="slide" axis="1 0 0"/>
      <geom type="box" size=".1 .1 .1" mass="{MASS}" contype="0" conaffinity="0"/>
    </body>
    <body name="wheel" pos="0 1 2">
      <joint name="wheel" axis="0 1 0" damping=".1"/>
      <inertial pos="0 0 0" mass="1" diaginertia=".1 .1 .1"/>
    </body>
    <body name="arm" pos="0 2 2">
      <joint name="arm" axis="0 1 0"/>
      <inertial pos="0 0 0" mass="{MASS}" diaginertia="{INERTIA} {INERTIA} {INERTIA}"/>
    </body>
    <body name="ball" pos="0 -3 .1">
      <joint name="ball" type="slide" axis="0 0 1" damping="40"/>
      <geom name="ball" type="sphere" size=".1" mass="1" solref=".004 1"/>
    </body>
    <body name="servo" pos="0 -1 2">
      <joint name="servo" type="slide" axis="1 0 0"/>
      <geom type="sphere" size=".1" mass="1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="motor" joint="cart" ctrlrange="-1 1"/>
    <position name="servo" joint="servo" kp="100" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""
SLED, CART, WHEEL, ARM, BALL, SERVO = 0, 2, 3, 4, 5, 6
# Seconds of a step, and the integrator's step.
SECONDS, STEP = 0.1, 0.002


class Machines(MjcfTask):
    """The sled and the wheel start with a speed of 1; an action is the force of the motor and the servo's set point."""

    name, model, control_dt, episode_length = "machines", MACHINES, SECONDS, 8

    def initial(self, key):
        return Start(qvel=jnp.zeros(7).at[SLED].set(1.0).at[WHEEL].set(1.0))

    def observe(self, s):
        return jnp.concatenate([s.qpos, s.qvel])

    def reward(self, s, action):
        return s.physics["mass:cart"][0] if s.physics else jnp.zeros(())


@cache
def machines(backend):
    return Machines(backend)


def compiled(function):
    # Without XLA's fusion emitters, with which MJX takes minutes on a CPU.
    return jax.jit(jax.vmap(function), compiler_options=compiler_options(False))


def after_a_step(task, num_envs=1, seed=0):
    """Return positions and velocities after one step with a force of 1 and a set point of 0.5."""

    def play(key):
        return task.step(task.reset(key)[0], jnp.asarray([1.0, 0.5]))[0].data

    return jax.device_get(compiled(play)(jax.random.split(jax.random.key(seed), num_envs)))


FIXED = ("friction=0.5", "mass:cart=2", "damping:wheel=3", "gain:servo=4", "com:arm=0.1", "size:ball=1.5")


@pytest.mark.parametrize("backend", ["c", pytest.param("mjx", marks=pytest.mark.ci)])
def test_each_quantity_changes_the_motion_as_its_formula_says(backend):
    drawn = after_a_step(machines(backend).varied(FIXED, variants=1))
    cases = [(drawn, 0.5, 2, 3, 4, 0.1)]
    if backend == "c":
        # MJX compiles for half a minute per task.
        cases += [(after_a_step(machines("c")), 1, 1, 1, 1, 0.0)]
    for data, half, mass, damping, gain, offset in cases:
        speed = data.qvel[0]
        # The floor's impulse carries the weight, and what is left of the first contact's bounce.
        impulse = GRAVITY * SECONDS + speed[SLED + 1]
        np.testing.assert_allclose(speed[SLED], 1 - half * FRICTION * impulse, rtol=1e-3)
        np.testing.assert_allclose(speed[CART], SECONDS / (mass * MASS), rtol=1e-4)
        # Euler's method treats damping implicitly.
        np.testing.assert_allclose(speed[WHEEL], (1 + STEP * damping * 0.1 / 0.1) ** (-SECONDS / STEP), rtol=1e-4)
        frequency = np.sqrt(gain * 100)
        np.testing.assert_allclose(data.qpos[0, SERVO], 0.5 * (1 - np.cos(frequency * SECONDS)), atol=0.02)
        # An offset of 0.1 m along all axes; the arm turns about y, and gravity pulls along -z.
        fall = MASS * GRAVITY * offset / (INERTIA + 2 * MASS * offset**2) * SECONDS
        np.testing.assert_allclose(speed[ARM], fall, rtol=0.06, atol=1e-5)
        # A ball of 0.15 m in place of 0.1 m is pushed out of the floor.
        assert (data.qpos[0, BALL] > 0.01) == (data is drawn)


RANGES = ("friction=0.5:2", "mass:cart=0.5:2", "damping=0.5:2", "gain=0.5:2", "com:arm=-0.1:0.1", "size:ball=1:1.2")


@pytest.mark.parametrize("backend", ["mjx", "warp"])
def test_the_same_variant_moves_in_the_same_way_on_every_engine(backend):
    if backend == "warp":
        pytest.importorskip("warp")
    on_c, other = (after_a_step(machines(name).varied(RANGES, 4), 6) for name in ("c", backend))
    assert np.ptp(on_c.qvel[:, CART]) > 0.01
    np.testing.assert_allclose(other.qpos, on_c.qpos, atol=1e-3)
    np.testing.assert_allclose(other.qvel, on_c.qvel, atol=0.02)


@pytest.fixture(scope="module")
def task():
    return machines("c").varied(RANGES, 4)


@pytest.fixture(scope="module")
def started(task):
    """Six episodes with several variants."""
    return compiled(task.reset)(jax.random.split(jax.random.key(1), 6))


@pytest.fixture(scope="module")
def step(task):
    step = compiled(task.step)
    return lambda state: step(state, jnp.full((6, 2), 0.3))


def test_the_variants_of_the_neighbors_change_no_bit(started, step):
    state, _ = started
    assert len(set(state.variant.tolist())) > 2
    together = step(state)[0]
    np.testing.assert_array_equal(together.variant, state.variant)
    rows = jnp.asarray([5, 2, 3, 3, 3, 1])
    others = step(jax.tree.map(lambda x: x[rows], state))[0]
    np.testing.assert_array_equal(others.data.qpos, together.data.qpos[rows])
    np.testing.assert_array_equal(others.data.qvel, together.data.qvel[rows])


def test_a_failed_simulation_is_nan_and_simulations_of_other_variants_continue(started, step):
    state, _ = started
    whole = step(state)[0]
    after = step(state.replace(data=state.data.replace(qvel=state.data.qvel.at[2].set(jnp.nan))))[0]
    assert jnp.isnan(after.data.qpos[2]).all()
    others = jnp.asarray([0, 1, 3, 4, 5])
    np.testing.assert_array_equal(after.data.qpos[others], whole.data.qpos[others])


def test_the_critic_and_the_task_see_what_was_drawn(task, started, step):
    state, obs = started
    # One number for each factor, and three for the offset.
    assert task.observation_sizes == {"state": 14, "privileged_state": 14 + 8}
    drawn = np.concatenate([task.physics.drawn[label] for label in task.physics.drawn], axis=1)
    np.testing.assert_allclose(obs["privileged_state"][:, 14:], drawn[state.variant], rtol=1e-6)
    np.testing.assert_array_equal(obs["privileged_state"][:, :14], obs["state"])
    np.testing.assert_allclose(step(state)[2], task.physics.drawn["mass:cart"][state.variant, 0], rtol=1e-6)
    masses = [model.body("cart").mass[0] / MASS for model in task.engine._variants]
    np.testing.assert_allclose(masses, task.physics.drawn["mass:cart"][:, 0])


def test_the_variants_cover_each_range_evenly_and_repeat_with_their_seed(task):
    again, other = (machines("c").varied(RANGES, 4, seed) for seed in (0, 1))
    for label, values in task.physics.drawn.items():
        np.testing.assert_array_equal(again.physics.drawn[label], values)
        assert not np.array_equal(other.physics.drawn[label], values)
    low, high = 0.5, 2
    quarters = np.floor((task.physics.drawn["friction"][:, 0] - low) / (high - low) * 4)
    assert sorted(quarters.tolist()) == [0, 1, 2, 3]
    # The names of compiled programs contain the variants.
    names = [each.engine._name for each in (task, again, other, machines("c"))]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_nominal_physics_has_the_engine_of_the_task_and_the_observations_of_the_run(task):
    nominal = machines("c").varied(RANGES, None)
    assert nominal.engine._name == machines("c").engine._name
    assert nominal.observation_sizes == task.observation_sizes
    values = [number for each in nominal.physics.drawn.values() for number in each[0]]
    assert values == [1, 1, 1, 1, 0, 0, 0, 1]


def test_factors_of_one_leave_every_number_of_the_model_unchanged():
    items = ("friction=1", "mass=1", "gain=1", "damping=1", "size=1")
    model, (variant,) = machines("c").mj_model, Physics.of(mujoco.MjSpec.from_string(MACHINES), items, 1, 0).models
    for name in dir(model):
        if isinstance(value := getattr(model, name), np.ndarray):
            np.testing.assert_array_equal(value, getattr(variant, name))


def test_only_factors_of_everything_keep_a_symmetry():
    class Symmetric(Machines):
        mirror = Mirror({"state": unchanged(14)}, unchanged(2))

    task = Symmetric("c")
    mirror = EpisodeEnv.of(task.varied(("friction=0.5:2", "mass=0.5:2"), 2), EnvConfig()).mirror
    assert len(mirror.observations["privileged_state"]) == 16
    for item in ("mass:cart=0.5:2", "com=-0.1:0.1"):
        assert task.varied((item,), 2).mirror is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("frction=0.5:2", "one of friction, mass, gain, damping, size, com, got 'frction'; did you mean friction?"),
        ("mass:cat=0.5:2", "physics mass:cat: there is no body 'cat' in the model; did you mean cart?"),
        ("size:runer=0.5:2", "there is no geom or body 'runer' in the model; did you mean runner?"),
        ("gain:arm=0.5:2", "there is no actuator 'arm' in the model; the model has motor, servo"),
        ("mass=2:0.5", "the range of mass must be LOW:HIGH with LOW <= HIGH, or one number, got '2:0.5'"),
        ("mass=heavy", "the range of mass must be LOW:HIGH with LOW <= HIGH, or one number, got 'heavy'"),
        ("mass", "physics must be QUANTITY=RANGE, got 'mass'"),
        ("mass=0:1", "the range of mass must be a positive factor, got '0:1'"),
        ("damping:cart=0.5:2", "physics must be a quantity that is not zero in the model, got 'damping:cart'"),
        ("size:floor=0.5:2", "physics must be a quantity that is not zero in the model, got 'size:floor'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(item, message):
    with pytest.raises(ValueError) as error:
        machines("c").varied((item,), 2)
    assert message in str(error.value)


def test_a_policy_that_sees_the_drawn_numbers_is_used_only_with_the_same_quantities_in_the_same_order():
    trained = ("mass:cart=0.5:2", "gain=0.9:1.1")
    check_drawn("privileged_state", trained, ("mass:cart=0.1:5", "gain=1"), "runs/a")
    check_drawn("state", trained, ("friction=0.5:2",), "runs/a")
    message = "for runs/a must be mass:cart gain, as in training, .* privileged_state, got 'gain mass:cart'"
    with pytest.raises(ValueError, match=message):
        check_drawn("privileged_state", trained, ("gain=0.9:1.1", "mass:cart=0.5:2"), "runs/a")
    with pytest.raises(ValueError, match="must be absent, .* got 'gain'"):
        check_drawn("privileged_state", (), ("gain=0.9:1.1",), "runs/a")


def test_given_physics_has_other_variants_than_the_training():
    options = EnvConfig(physics=("mass:cart=0.5:2",), physics_variants=3, physics_seed=5)
    drawn = with_physics(machines("c"), options, physics=options.physics).physics.drawn["mass:cart"]
    np.testing.assert_array_equal(drawn, machines("c").varied(options.physics, 3, 6).physics.drawn["mass:cart"])


def test_settings_that_do_not_fit_are_refused(task):
    with pytest.raises(ValueError, match="physics must be different quantities"):
        machines("c").varied(("mass=1:2", "mass=2:3"), 2)
    with pytest.raises(ValueError, match="machines must be a task with one model"):
        task.varied(RANGES, 2)
    with pytest.raises(ValueError, match="physics needs an MJCF task, a genpo_jax.MjcfTask, which ring is not"):
        varied(make("ring"), ("mass=1:2",))
    with pytest.raises(ValueError, match="physics must be NAME=RANGE, got 'mass'"):
        EnvConfig(physics=("mass",))
    with pytest.raises(ValueError, match="randomize must be left out together with physics"):
        EnvConfig(physics=("mass=1:2",), randomize=True)


def test_demonstrations_are_recorded_with_nominal_or_with_drawn_physics():
    def recorded_in(*physics):
        return collect._environment(collect.CollectOptions(env="panda_reach", physics=physics), {})

    assert recorded_in().physics is None
    assert list(recorded_in("gain=0.5:2", "damping=0.5:2").physics.drawn) == ["gain", "damping"]
