"""Every public function refuses each invalid argument with an error, and never returns a wrong number."""

import dataclasses
import inspect
import math
import typing
from typing import Any, Literal

import jax
import jax.numpy as jnp
import pytest
from probes import TargetEnv

import genpo_jax
from genpo_jax import normalizer, solvers
from genpo_jax.config import Config, EnvConfig, PPOConfig
from genpo_jax.envs import EpisodeEnv, bounded
from genpo_jax.methods import METHODS, NetworksConfig
from genpo_jax.normalizer import RewardScale, RunningMoments
from genpo_jax.policy import PolicySpec
from genpo_jax.solvers import Flow, HistorySolver, standard_normal
from genpo_jax.training.advantage import generalized_advantages

pytestmark = pytest.mark.usefixtures("our_own_checks_alone")

NAN, INF = math.nan, math.inf
COUNT = (0, -1, 2.5, NAN, INF, "x", None, True)
NUMBER = (NAN, INF, -INF, "x", True)
KEY = jax.random.key(0)


def zero(x, t):
    return jnp.zeros_like(x)


def arrays(*shapes, dtype=jnp.float32):
    return tuple(jnp.ones(shape, dtype) for shape in shapes)


FLOW = Flow(HistorySolver(2), zero, standard_normal(2, 3))
WIDE = Flow(HistorySolver(2), zero, standard_normal(2, 4))
OTHER = Flow(solvers.CoupledSolver(2), zero, standard_normal(2, 3))
STATE, ACTION, REST = arrays((5, 2, 3), (5, 3), (5, 1, 3))
PROPOSAL = solvers.HistoryProposal(jnp.zeros((1, 3)), jnp.zeros((3, 3)), jnp.eye(3))
# Jitted, as one program compiles sooner than the operations one by one.
STORED = jax.jit(lambda state, key: solvers.store_histories(FLOW, PROPOSAL, state, key, 2))(STATE, KEY)
BAD_STATES = arrays((3,), (5, 1, 3), (5, 3, 3), (5, 2, 4), (5, 2, 1), dtype=jnp.float32)
STEPS, FLAGS = jnp.ones((4, 2)), jnp.zeros((4, 2), bool)
BAD_STEPS = arrays((4,), (4, 1), (1, 2), (3, 2), (4, 2, 1), ())
EPISODES = EpisodeEnv(TargetEnv(), 8)
EPISODE_STATE = jax.jit(EPISODES.init)(jax.random.split(KEY, 2))

# (call, valid arguments, invalid values by argument)
CALLS: list[tuple[Any, dict[str, Any] | None, dict[str, tuple[Any, ...]]]] = [
    (
        solvers.HistorySolver,
        {"num_steps": 5, "history_coef": 0.75},
        {
            "num_steps": COUNT,
            "history_coef": (*NUMBER, 0, 2),
            "unroll": ("no", 2, None),
            "constant_memory": ("no", 2, None),
            "max_error": (NAN, 0, "x", True),
        },
    ),
    (solvers.CoupledSolver, {"num_steps": 5, "mix": 0.95}, {"num_steps": COUNT, "mix": (*NUMBER, 0, -1, 2)}),
    (solvers.RungeKuttaSolver, {"coupling": 0.95}, {"coupling": (*NUMBER, 0, -1, 2), "tableau": (None, (), "rk4")}),
    (
        solvers.MultistepSolver,
        {"order": 2},
        {
            "num_steps": COUNT,
            "order": (0, 4, 2.5, NAN, "x", None, True),
            "history_coef": (*NUMBER, 0),
            "damping": ((NAN,), ()),
        },
    ),
    (solvers.VerletSolver, {}, {"num_steps": COUNT, "max_error": (NAN, 0, -1, "x"), "grid": ((0, 1), (NAN,) * 6, "x")}),
    (solvers.BelmSolver, {}, {"num_steps": COUNT, "max_error": (NAN, 0, -1, "x"), "grid": ((0, 1), (NAN,) * 6, "x")}),
    (solvers.TimeGrid, {"times": (0, 1)}, {"times": ((), (0,), (0, NAN), (0, INF), (0, 0), (0, 1, 0.5), None, 3)}),
    (solvers.uniform_grid, {"num_steps": 5}, {"num_steps": COUNT, "start": (*NUMBER[:4], 1), "stop": (*NUMBER[:4], 0)}),
    (solvers.power_grid, {"num_steps": 5, "exponent": 2}, {"num_steps": COUNT, "exponent": (*NUMBER[:4], 0, -1)}),
    (solvers.Tableau, {"a": ((),), "b": (1.0,)}, {"a": (((0.5,),), (), None), "b": ((NAN,), (0.9,), (), (0.5, 0.5))}),
    (
        standard_normal,
        {"num_states": 2, "event_size": 3},
        {"num_states": COUNT, "event_size": COUNT, "dtype": (int, bool)},
    ),
    (
        solvers.correlated_normal,
        {"num_states": 2, "event_size": 3, "tau": 0.1},
        {"num_states": COUNT, "event_size": COUNT, "tau": (*NUMBER, 0, -1), "dtype": (int, bool)},
    ),
    *(
        (
            base.log_prob,
            {"state": STATE},
            {
                "state": (
                    *BAD_STATES,
                    jnp.ones((2, 3)) if base.batch_shape else jnp.ones((5, 2, 1)),
                    jnp.ones((4, 1, 3)),
                )
            },
        )
        for base in (
            standard_normal(2, 3),
            solvers.correlated_normal(2, 3, 0.1),
            solvers.DiagonalNormal(jnp.zeros((5, 2, 3))),
            solvers.DiagonalNormal(jnp.zeros((2, 3)), jnp.zeros((5, 3))),
        )
    ),
    (
        solvers.DiagonalNormal(jnp.zeros((5, 2, 3))).sample,
        {"key": KEY, "batch_shape": (5,)},
        {"batch_shape": ((), (1,), (4,), (5, 1), 5)},
    ),
    (solvers.DiagonalNormal(jnp.zeros(3)).log_prob, None, {"state": (STATE, jnp.ones(3))}),
    (solvers.DiagonalNormal(jnp.zeros((2, 3)), jnp.zeros(1)).log_prob, None, {"state": (STATE,)}),
    (
        Flow,
        {"solver": FLOW.solver, "velocity": zero, "base": FLOW.base},
        {"base": (standard_normal(3, 3), standard_normal(1, 3))},
    ),
    *(
        (method, {argument: STATE}, {argument: BAD_STATES})
        for method, argument in (
            (FLOW.forward, "noise"),
            (FLOW.inverse, "state"),
            (FLOW.log_prob, "value"),
            (FLOW.forward_and_log_det, "noise"),
            (FLOW.inverse_and_log_det, "state"),
        )
    ),
    (FLOW.action, {"state": STATE}, {"state": BAD_STATES[:3]}),
    (FLOW.sample, {"seed": KEY}, {"sample_shape": (-1, 2.5, "x", None, (2, -1)), "seed": (None, 3, "x")}),
    (FLOW.sample_and_log_prob, {"seed": KEY}, {"sample_shape": (-1, 2.5, "x", None), "seed": (None, 3, "x")}),
    *(
        (call, arguments, wrong)
        for solver in (
            HistorySolver(),
            solvers.CoupledSolver(),
            solvers.VerletSolver(),
            solvers.BelmSolver(),
            solvers.RungeKuttaSolver(),
            solvers.MultistepSolver(order=1),
        )
        for call, arguments, wrong in (
            (solver.log_det, {"event_size": 3}, {"event_size": COUNT}),
            (solver.split, {"state": STATE}, {"state": BAD_STATES[:3]}),
            (solver.output, {"state": STATE}, {"state": BAD_STATES[:3]}),
            (
                solver.join,
                {"action": ACTION, "rest": REST},
                {
                    "action": arrays((3,), (5, 1), (1, 3), (4, 3)),
                    "rest": arrays((5, 3), (5, 2, 3), (1, 1, 3), (5, 1, 1)),
                },
            ),
            (
                solver.forward,
                {"velocity": zero, "state": STATE},
                {"state": BAD_STATES[:3], "velocity": (None, 3, lambda x, t: x[..., :1])},
            ),
            (
                solver.inverse,
                {"velocity": zero, "state": STATE},
                {"state": BAD_STATES[:3], "velocity": (None, 3, lambda x, t: x[..., :1])},
            ),
            (solver.round_trip_error, {}, {"dtype": (int, bool, "x")}),
            (solver.round_trip_bound, {}, {"dtype": (int, bool, "x"), "lipschitz": (NAN, -1, "x")}),
        )
    ),
    (
        solvers.fit_history_proposal,
        {"flow": FLOW, "key": KEY, "num_samples": 64},
        {"num_samples": (*COUNT, 7), "inflation": (NAN, INF, 0, -1, "x"), "key": (None, 3)},
    ),
    (
        solvers.marginal_log_prob,
        {"flow": FLOW, "proposal": PROPOSAL, "action": ACTION, "key": KEY},
        {"num_samples": COUNT, "action": arrays((), (5, 1), (5, 4)), "flow": (WIDE,)},
    ),
    (
        solvers.marginal_log_ratio,
        {"new": FLOW, "old": FLOW, "proposal": PROPOSAL, "action": ACTION, "key": KEY},
        {"num_samples": COUNT, "action": arrays((5, 1), (5, 4)), "old": (WIDE, OTHER), "new": (WIDE, OTHER)},
    ),
    (solvers.effective_sample_size, {"log_weight": jnp.ones(4)}, {"log_weight": arrays((), (0,), (0, 3))}),
    (
        PROPOSAL.log_prob,
        {"rest": jnp.ones((2, 5, 1, 3)), "action": ACTION},
        {"rest": arrays((5, 1, 3), (2, 5, 3), (2, 5, 1, 1), (2, 1, 1, 3)), "action": arrays((3,), (1, 3), (5, 1))},
    ),
    (
        solvers.store_histories,
        {"flow": FLOW, "proposal": PROPOSAL, "state": STATE, "key": KEY, "num_histories": 2},
        {"num_histories": (*COUNT, 3), "state": BAD_STATES},
    ),
    (
        lambda stored: solvers.action_log_ratio(FLOW, stored),
        {"stored": STORED},
        {
            "stored": (
                dataclasses.replace(STORED, action=jnp.ones((1, 3))),
                dataclasses.replace(STORED, action=jnp.ones((5, 1))),
                dataclasses.replace(STORED, rest=STORED.rest[:1]),
                dataclasses.replace(STORED, log_proposal=STORED.log_proposal[:, :1]),
                dataclasses.replace(STORED, log_weight=STORED.log_weight[:, :1]),
            )
        },
    ),
    (
        generalized_advantages,
        {name: STEPS for name in ("reward", "value", "next_value")}
        | {name: FLAGS for name in ("terminated", "truncated")}
        | {"gamma": 0.9, "gae_lambda": 0.9},
        {name: BAD_STEPS for name in ("reward", "value", "next_value")}
        | {name: (STEPS, FLAGS[:1], FLAGS[:, :1], FLAGS.astype(int)) for name in ("terminated", "truncated")}
        | {name: (NAN, INF, -0.1, 1.1, "x", jnp.full(2, 0.9)) for name in ("gamma", "gae_lambda")},
    ),
    *(
        (call, {argument: jnp.ones((7, 3))}, {argument: arrays((), (7,), (7, 1), (3, 7))})
        for call, argument in (
            (RunningMoments.create((3,)).absorb, "samples"),
            (RunningMoments.create((3,)).standardize, "x"),
        )
    ),
    (RunningMoments.create, {"shape": (3,)}, {"shape": (-1, (2.5,), "x")}),
    (
        normalizer.standardize_each,
        {"moments": {"state": RunningMoments.create((3,))}, "obs": {"state": jnp.ones(3)}},
        {"obs": ({"other": jnp.ones(3)}, {"state": jnp.ones(1)})},
    ),
    (
        normalizer.absorb_each,
        {"moments": {"state": RunningMoments.create((3,))}, "samples": {"state": jnp.ones((2, 3))}},
        {"samples": ({}, {"other": jnp.ones((2, 3))}, {"state": jnp.ones((2, 1))})},
    ),
    (RewardScale.create, {"num_envs": 2}, {"num_envs": COUNT}),
    (
        RewardScale.create(2).absorb,
        {"reward": STEPS, "ended": FLAGS, "gamma": 0.9},
        {
            "reward": BAD_STEPS,
            "ended": (STEPS, FLAGS[:1], FLAGS[:, :1]),
            "gamma": (NAN, INF, -0.1, 1.1, "x", jnp.full(2, 0.9)),
        },
    ),
    (
        EpisodeEnv,
        {"env": TargetEnv(), "episode_length": 8},
        {"episode_length": (*COUNT, 2**31), "action_repeat": (*COUNT, 2**31), "squash": ("x", None, 1)},
    ),
    (
        EPISODES.step,
        {"state": EPISODE_STATE, "action": jnp.ones((2, 1))},
        {"action": arrays((), (2,), (2, 2), (1, 1), (3, 1))},
    ),
    (EPISODES.init, {"keys": jax.random.split(KEY, 2)}, {"keys": (KEY, jnp.ones(2), None)}),
    (bounded, {"action": jnp.ones(2), "squash": "clip"}, {"squash": ("x", None, 1)}),
    (genpo_jax.preset, {"env": "fast", "method": "genpo++"}, {"method": ("x", "", None, 3), "env": (None, 3)}),
    (genpo_jax.make_env, {"name": "ring"}, {"name": ("nonsense", "", None, 3), "backend": ("x", 3)}),
    (genpo_jax.load, None, {"run_dir": ("/nonexistent", "", None, 3)}),
    (
        genpo_jax.register_env,
        {"name": "of these tests", "factory": TargetEnv},
        {"name": (None, 3, "", "hopper"), "factory": (None, 3)},
    ),
    (genpo_jax.train, None, {"env": ("nonsense", None, 3)}),
    (genpo_jax.train, None, {"config": ({}, "ring", 3)}),
    (PolicySpec.from_dict, None, {"values": ({}, {"method": {}}, {"networks": {}})}),
]


def bad_settings():
    """Yield every field of every settings class with invalid values for its annotation."""
    for cls in (Config, EnvConfig, PPOConfig, NetworksConfig, *METHODS.values()):
        for name, annotation in typing.get_type_hints(cls).items():
            if name not in {f.name for f in dataclasses.fields(cls)}:
                continue
            options = {*typing.get_args(annotation)} or {annotation}
            wrong = [object(), b"x", 1j]
            if int in options:
                wrong += [-1, 2.5, NAN, INF, "x", True, 10**30]
            if float in options:
                wrong += [NAN, INF, -INF, "x", True, 1e30]
            if bool in options:
                wrong += [2, "x", NAN, None]
            if str in options:
                wrong += [3, NAN, True]
            if typing.get_origin(annotation) is Literal:
                wrong += ["nonsense", None, 3, True]
            yield cls, name, wrong


def accepted(call, arguments):
    """Return the result of a call with bad arguments in a tuple, or None if it raised an expected error."""
    try:
        return (call(**arguments),)
    except (ValueError, TypeError, FileNotFoundError):
        return None


def title(call):
    owner = getattr(call, "__self__", None)
    prefix = f"{type(owner).__name__}." if owner is not None and not inspect.isclass(owner) else ""
    return prefix + getattr(call, "__name__", repr(call))


@pytest.mark.parametrize("case", CALLS, ids=lambda case: title(case[0]))
def test_a_public_call_refuses_each_invalid_argument(case):
    call, arguments, wrong = case
    if arguments is not None:
        call(**arguments)
    tried = [(name, value) for name, values in wrong.items() for value in values]
    results = [accepted(call, {**(arguments or {}), name: value}) for name, value in tried]
    assert not [(item, result) for item, result in zip(tried, results, strict=True) if result is not None]


@pytest.mark.parametrize(("cls", "name", "wrong"), list(bad_settings()))
def test_settings_refuse_each_invalid_value(cls, name, wrong):
    def build(**settings):
        # Solvers check some settings themselves.
        made = cls(**settings)
        return made.make_solver() if hasattr(made, "make_solver") else made

    assert not [value for value in wrong if accepted(build, {name: value}) is not None]
