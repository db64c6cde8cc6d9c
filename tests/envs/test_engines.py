import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from arms import ARM

from genpo_jax.envs import engines
from genpo_jax.envs.engines import CEngine, MjxEngine
from genpo_jax.envs.patches import mujoco_log_ignored

SUBSTEPS = 4
CONTROLS = np.array([[0.5, -0.2], [1.0, 1.0], [-1.0, 0.3], [0.0, 0.0], [0.2, 1.5], [-0.3, -0.5]], np.float32)


@pytest.fixture(scope="module")
def model():
    return mujoco.MjModel.from_xml_string(ARM)


@pytest.fixture(scope="module")
def engine(model):
    return CEngine(model)


def positions(num_envs, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (num_envs, 2)), jnp.float32)


def started(engine, qpos):
    return engine.forward(engine.start().replace(qpos=qpos))


def played(engine, qpos):
    def step(data, ctrl):
        data = engine.step(data.replace(ctrl=ctrl), SUBSTEPS)
        return data, (data.qpos, data.qvel, data.sensordata, data.time)

    return jax.lax.scan(step, started(engine, qpos), jnp.asarray(CONTROLS))[1]


def test_a_step_is_bit_identical_to_mujoco(engine, model):
    data = mujoco.MjData(model)
    data.qpos[:] = np.asarray(positions(1)[0])
    mujoco.mj_forward(model, data)
    simulated = jax.jit(lambda q: started(engine, q))(positions(1)[0])
    for ctrl in CONTROLS:
        # Only the state between steps is rounded to float32.
        for name in ("qpos", "qvel", "qacc_warmstart"):
            getattr(data, name)[:] = np.asarray(getattr(simulated, name))
        data.time = float(simulated.time)
        data.ctrl[:] = ctrl
        for _ in range(SUBSTEPS):
            mujoco.mj_step(model, data)
        simulated = engine.step(simulated.replace(ctrl=jnp.asarray(ctrl)), SUBSTEPS)
        for name in ("qpos", "qvel", "sensordata", "time"):
            np.testing.assert_array_equal(getattr(simulated, name), np.float32(getattr(data, name)))


def test_the_solver_of_a_contact_starts_where_the_last_call_ended():
    # One iteration of the solver is far from convergence, so that the result depends on where it starts.
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><option iterations='1' solver='CG'/><worldbody><geom type='plane' size='1 1 .1'/>"
        "<body pos='0 0 .2' euler='30 20 0'><freejoint/><geom type='box' size='.1 .2 .1'/></body></worldbody></mujoco>"
    )
    engine, data, cold = CEngine(model), mujoco.MjData(model), mujoco.MjData(model)
    simulated = engine.start()
    for _ in range(16):
        mujoco.mj_step(model, data, SUBSTEPS)
        simulated = engine.step(simulated, SUBSTEPS)
        cold.qacc_warmstart[:] = 0
        mujoco.mj_step(model, cold, SUBSTEPS)
    difference = np.abs(data.qvel - cold.qvel).max()
    assert difference > 0.01, "otherwise a lost warm start would pass"
    assert np.abs(simulated.qvel - data.qvel).max() < difference / 10


@pytest.mark.ci
def test_it_agrees_with_mjx(engine, model):
    # In some simulations the tip touches the floor.
    ours, theirs = (jax.jit(jax.vmap(lambda q, e=e: played(e, q)))(positions(8)) for e in (engine, MjxEngine(model)))
    for one, other, bound in zip(ours, theirs, (2e-5, 1e-3, 2e-5, 1e-6), strict=True):
        np.testing.assert_allclose(one, other, atol=bound)


def test_threads_neighbors_and_nesting_change_no_bit(model, engine):
    qpos = positions(6)
    alone = jnp.stack([played(engine, q)[0] for q in qpos])
    for num_threads in (1, 2, 3):
        fresh = CEngine(model, num_threads=num_threads)
        together = jax.jit(jax.vmap(lambda q, e=fresh: played(e, q)[0]))(qpos)
        np.testing.assert_array_equal(together, alone)
    nested = jax.vmap(jax.vmap(lambda q: played(engine, q)[0]))(qpos.reshape(2, 3, 2))
    np.testing.assert_array_equal(nested.reshape(alone.shape), alone)


@pytest.mark.parametrize("field", ["qpos", "qvel", "ctrl"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_failed_simulation_is_nan_in_all_fields_and_the_others_continue(engine, field, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @jax.jit
    @jax.vmap
    def step(qpos, bad):
        data = started(engine, qpos)
        wrong = getattr(data, field).at[0].set(jnp.where(bad, value, getattr(data, field)[0]))
        return engine.step(data.replace(**{field: wrong}), SUBSTEPS)

    qpos = positions(4)
    good, mixed = step(qpos, jnp.zeros(4, bool)), step(qpos, jnp.arange(4) == 2)
    rows = np.array([0, 1, 3])
    for name in ("qpos", "qvel", "sensordata"):
        if field == "ctrl" and value == 1e30:
            # MuJoCo clips it to the actuator's range.
            assert np.isfinite(getattr(mixed, name)).all()
        elif not (field == "qpos" and value == 1e30):
            assert np.isnan(getattr(mixed, name)[2]).all()
        np.testing.assert_array_equal(getattr(mixed, name)[rows], getattr(good, name)[rows])


def test_a_simulation_that_mujoco_reports_as_failed_is_nan(engine, monkeypatch):
    from mujoco.batch import Batch, SimulationError

    step = Batch.step

    def failing(self, **options):
        step(self, **options)
        raise SimulationError(np.array([1]), "mj_stackAlloc: out of memory")

    monkeypatch.setattr(Batch, "step", failing)
    data = jax.vmap(lambda q: engine.step(started(engine, q), SUBSTEPS))(positions(3))
    assert np.isnan(data.qpos).all(axis=1).tolist() == [False, True, False]


def test_a_model_with_unsupported_state_is_refused():
    spec = mujoco.MjSpec.from_string(ARM)
    spec.nuserdata = 3
    with pytest.raises(ValueError, match="without plugins, delays, user data and sleep.*use backend mjx"):
        CEngine(spec.compile())


def test_an_accelerator_or_several_processes_are_refused(model, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="jax computes on gpu; use backend mjx, or set JAX_PLATFORMS=cpu"):
        CEngine(model)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="needs one process, got 2"):
        engines.check_c()


def test_zero_substeps_are_refused(engine):
    with pytest.raises(ValueError, match="substeps must be >= 1, got 0"):
        engine.step(engine.start(), 0)


def test_unstable_simulations_log_nothing_and_the_log_settings_are_restored(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    unstable = ARM.replace('ctrlrange="-1 1"', 'ctrlrange="-1e9 1e9" gear="1e12"')
    engine = CEngine(mujoco.MjModel.from_xml_string(unstable))
    ctrl = jnp.full((4, 2), 1e9)
    jax.vmap(lambda c: engine.step(engine.start().replace(ctrl=c), 10))(ctrl).qpos.block_until_ready()
    assert not list(tmp_path.iterdir())
    assert "unstable" not in "".join(capfd.readouterr())
    config = mujoco.MjLogConfig.get()
    assert config.logto_console and config.logto_file


def test_parallel_calls_restore_the_log_settings_once():
    with mujoco_log_ignored():
        with mujoco_log_ignored():
            pass
        assert not mujoco.MjLogConfig.get().logto_file
    assert mujoco.MjLogConfig.get().logto_file
