"""A physics step of MJX is compared with the C engine when a task is made."""

import warnings

import arms
import mujoco
import numpy as np
import pytest

from genpo_jax.envs.agreement import compare
from genpo_jax.envs.engines import CEngine, MjxEngine

RANGE = arms.ARM.replace("</sensor>", '<rangefinder name="height" site="tip"/></sensor>')
# The tendon is shorter than its range, and a turn of the ball does not stretch it.
RIGID = """
<mujoco><worldbody><body pos="0 0 .12"><joint type="slide" axis="0 0 1"/><joint name="turn" axis="0 1 0"/>
<geom size=".1" mass="1"/><site name="a"/>
<body pos=".2 0 .1"><joint type="ball"/><geom size=".05"/><site name="b"/></body></body></worldbody>
<tendon><spatial limited="true" range=".5 .9"><site site="a"/><site site="b"/></spatial></tendon>
<actuator><motor joint="turn" ctrlrange="-5 5"/></actuator></mujoco>
"""


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(arms.ARM)


def compared(model, **errors):
    """Compare an engine that is the C engine, except for these errors: field to `(index, error)`."""
    engine = CEngine(model)

    def step(data):
        after = engine.step(data, 1)
        return after.replace(**{name: getattr(after, name).at[i].add(by) for name, (i, by) in errors.items()})

    return compare("arm", "mjx", model, engine.start(), step)


def test_the_c_engine_agrees_with_itself_and_the_step_has_the_sensors_of_the_first_state(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = compared(model)
    # The stretched arm: shoulder at 0.25 m, 0.2 and 0.15 m long.
    np.testing.assert_allclose(after.sensordata[:3], [0.35, 0.0, 0.25], atol=1e-6)


def test_a_difference_is_one_warning_with_the_place_and_both_values(model):
    message = r"backend mjx .* differ in one physics step of arm: sensor 'tip'\[1\] is 0.2 \(c: 0\); use backend c"
    with pytest.warns(UserWarning, match=message) as warned:
        compared(model, sensordata=(1, 0.2))
    assert len(warned) == 1
    with pytest.warns(UserWarning, match=r"qpos\[1\] is 0.6009 \(c: 0.0008\d+\), qvel\[0\] is -8"):
        compared(model, qpos=(1, 0.6), qvel=(0, -9.0))


def test_a_rounding_error_is_no_difference(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared(model, sensordata=(2, 0.01), qpos=(0, -0.01), qvel=(1, 0.01))


@pytest.mark.parametrize("error", [1e9, -2000.0, np.nan, np.inf])
def test_nonsense_is_refused(model, error):
    with pytest.raises(ValueError, match=r"sensor 'elbow_speed' is -?\S+ \(c: \S+\); use backend c, or remove"):
        compared(model, sensordata=(3, error))


def test_a_rangefinder_without_materials_is_refused_for_mjx():
    with pytest.raises(ValueError, match="a rangefinder in a model without materials; add a <material> to <asset>, or"):
        MjxEngine(mujoco.MjModel.from_xml_string(RANGE))
    MjxEngine(
        mujoco.MjModel.from_xml_string(
            RANGE.replace("<worldbody>", "<asset><material name='m'/></asset><worldbody>", 1)
        )
    )


class Rigid(arms.Arm):
    model = RIGID

    def initial(self, key):
        return arms.Start(qpos=[-0.025, 0.3, 1.0, 0.0, 0.0, 0.0], qvel=[0.1, 0.5, 0.1, 0.2, 0.3])

    def observe(self, s):
        return s.qvel

    def reward(self, s, action):
        return 0.0

    def success(self, s):
        return None


@pytest.mark.ci
def test_a_task_that_mjx_simulates_as_nonsense_is_refused():
    Rigid("c")
    with pytest.raises(ValueError, match="backend mjx and MuJoCo's C engine differ in one physics step of arm: qpos"):
        Rigid("mjx")


SENSED = """
<mujoco><option timestep="0.005"/><asset><material name="paint"/></asset>
<worldbody><geom name="floor" type="plane" size="1 1 .1"/><camera name="eye" pos="0 -1 1"/>
<body name="b" pos="0 0 .12"><joint type="slide" axis="0 0 1"/>
<joint name="turn" axis="0 1 0" range="-20 20" limited="true"/>
<geom name="g" size=".1" mass="1"/><site name="a" size=".12"/><site name="down" pos="0 0 .2" zaxis="0 0 -1"/>
<body name="arm" pos=".2 0 .1"><joint name="ball" type="ball"/><geom name="tip" size=".05"/><site name="t"/></body>
</body></worldbody>
<tendon><spatial name="cord"><site site="a"/><site site="t"/></spatial></tendon>
<actuator><motor name="motor" joint="turn" ctrlrange="-5 5"/><motor tendon="cord" ctrlrange="-1 1"/></actuator>
<sensor>%s</sensor></mujoco>
"""
BY_ATTRIBUTES = {
    'site="a"': "touch accelerometer velocimeter gyro force torque magnetometer",
    'site="down"': "rangefinder",
    'site="a" camera="eye"': "camprojection",
    'joint="turn"': "jointpos jointvel jointactuatorfrc",
    'joint="ball"': "ballquat ballangvel",
    'tendon="cord"': "tendonpos tendonvel tendonactuatorfrc",
    'actuator="motor"': "actuatorpos actuatorvel actuatorfrc",
    'body="b"': "subtreecom subtreelinvel subtreeangmom",
    'objtype="body" objname="arm"': "framepos framequat framexaxis framelinvel frameangvel framelinacc frameangacc",
    'objtype="body" objname="arm" reftype="body" refname="b"': "framezaxis",
    'geom1="g" geom2="floor" data="force"': "contact",
    "": "clock",
}
REFUSED = {
    'objtype="body" objname="arm" site="a"': "insidesite",
    'joint="turn"': "jointlimitpos jointlimitvel jointlimitfrc",
    'geom1="g" geom2="tip"': "distance normal fromto",
    "": "e_potential e_kinetic",
    'dim="2"': "user",
}


def sensors(table):
    return [f'<{kind} name="{kind}" {rest}/>' for rest, kinds in table.items() for kind in kinds.split()]


class Sensed(Rigid):
    model = SENSED % "".join(sensors(BY_ATTRIBUTES))


@pytest.mark.ci
def test_every_kind_of_sensor_that_mjx_accepts_has_the_value_of_the_c_engine():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Sensed("mjx").sensors) == 33


@pytest.mark.parametrize("sensor", sensors(REFUSED))
def test_every_other_kind_of_sensor_is_refused_for_mjx_by_its_name(sensor):
    with pytest.raises(ValueError, match="mjSENS_.*use backend c"):
        MjxEngine(mujoco.MjModel.from_xml_string(SENSED % sensor))
