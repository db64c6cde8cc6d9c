"""Invalid input is refused with the rule, the value received and a remedy."""

import re

import jax
import jax.numpy as jnp
import pytest

from genpo_jax.solvers import (
    MIDPOINT,
    CoupledSolver,
    DiagonalNormal,
    Flow,
    HistorySolver,
    MultistepSolver,
    RungeKuttaSolver,
    Tableau,
    TimeGrid,
    VerletSolver,
    correlated_normal,
    fit_history_proposal,
    marginal_log_prob,
    power_grid,
    standard_normal,
    uniform_grid,
)
from genpo_jax.solvers.belm import BelmSolver

pytestmark = pytest.mark.usefixtures("our_own_checks_alone")


def zero(x, t):
    return jnp.zeros_like(x)


def flow(size=2):
    return Flow(HistorySolver(2), zero, standard_normal(2, size))


# name: (call, rule, value, remedy)
CASES = {
    "too few iterates": (
        lambda: HistorySolver().forward(zero, jnp.ones((3, 2))),
        "[..., 2, d]",
        "(3, 2)",
        "stack",
    ),
    "too few dimensions": (lambda: VerletSolver().inverse(zero, jnp.ones(2)), "[..., 2, d]", "(2,)", "stack"),
    "state of another k": (
        lambda: MultistepSolver(5, 3).forward(zero, jnp.ones((2, 2))),
        "[..., 4, d]",
        "(2, 2)",
        "stack",
    ),
    "integer state": (
        lambda: HistorySolver().forward(zero, jnp.ones((2, 2), jnp.int32)),
        "floating array",
        "int32",
        "cast",
    ),
    "velocity of another shape": (
        lambda: CoupledSolver().forward(lambda x, t: x[..., :1], jnp.ones((2, 3))),
        "return the shape of x",
        "(1,)",
        "last dimension",
    ),
    "velocity that broadcasts": (
        lambda: HistorySolver(constant_memory=True).forward(lambda x, t: jnp.ones((4, 3)), jnp.ones((2, 3))),
        "return the shape of x",
        "(4, 3)",
        "broadcasts",
    ),
    "no steps": (lambda: HistorySolver(0), "integer >= 1", "0", "Python int"),
    "fractional steps": (lambda: VerletSolver(2.5), "integer >= 1", "2.5", "Python int"),
    "sigma zero": (lambda: HistorySolver(5, 0.0), "not be 0", "0.0", "0.75"),
    "sigma above one": (lambda: HistorySolver(5, 1.1), "history_coef <= 1", "1.1", "0.75"),
    "sigma that is nan": (lambda: HistorySolver(5, float("nan")), "history_coef <= 1", "nan", "0.75"),
    "sigma too small for M": (lambda: HistorySolver(20, 0.25), "at most 1e-03", "0.25", "num_steps <= 6"),
    "multistep sigma zero": (lambda: MultistepSolver(5, 2, 0.0), "!= 0", "0.0", "divides"),
    "multistep not zero-stable": (lambda: MultistepSolver(5, 3, 1.3), "zero-stable", "1.3", "< 1"),
    "multistep double root on the unit circle": (
        lambda: MultistepSolver(5, 2, 1.0, (-2.0,)),
        "zero-stable",
        "-2.0",
        "damping",
    ),
    "multistep too many steps": (
        lambda: MultistepSolver(20, 3, 0.01),
        "at most 1e-03",
        "0.01",
        "num_steps <= ",
    ),
    "multistep order": (lambda: MultistepSolver(5, 4), "[1, 2, 3]", "4", "RungeKuttaSolver"),
    "multistep damping": (
        lambda: MultistepSolver(5, 3, 0.3, (0.1,)),
        "order - 1 = 2",
        "(0.1,)",
        "leave them out",
    ),
    "coupled mix": (lambda: CoupledSolver(5, 1.2), "0 < mix <= 1", "1.2", "0.95"),
    "coupled too many steps": (lambda: CoupledSolver(20, 0.5), "at most 1e-03", "0.5", "num_steps <= 6"),
    "coupling": (lambda: RungeKuttaSolver(5, MIDPOINT, 0.0), "0 < coupling <= 1", "0.0", "0.95"),
    "max_error": (lambda: HistorySolver(5, max_error=0.0), "max_error must be > 0", "0.0", "0.001"),
    "tableau of another type": (
        lambda: RungeKuttaSolver(5, ((), (0.5,))),
        "must be a Tableau",
        "0.5",
        "Tableau(",
    ),
    "implicit tableau": (lambda: Tableau(a=((0.5,),), b=(1.0,)), "explicit", "[1]", "earlier stages only"),
    "inconsistent tableau": (lambda: Tableau(a=((),), b=(0.9,)), "sum to 1", "0.9", "rescale"),
    "tableau with nan": (lambda: Tableau(a=((), (float("nan"),)), b=(0.5, 0.5)), "finite", "nan", "look for"),
    "grid not monotone": (lambda: TimeGrid((0.0, 0.6, 0.5, 1.0)), "strictly increasing", "0.6", "sort"),
    "grid with a repeated time": (
        lambda: TimeGrid((0.0, 0.5, 0.5)),
        "strictly increasing",
        "0.5, 0.5",
        "drop",
    ),
    "grid of one time": (lambda: TimeGrid((0.0,)), "at least 2 times", "(0.0,)", "M + 1"),
    "grid with nan": (lambda: TimeGrid((0.0, float("nan"))), "finite", "nan", "look for"),
    "grid of another length": (
        lambda: HistorySolver(4, grid=uniform_grid(5)),
        "num_steps = 4",
        "got 5",
        "num_steps=5",
    ),
    "grid that shrinks too much": (
        lambda: BelmSolver(3, grid=(0.0, 0.999, 0.9999, 1.0)),
        "at most 1e-03",
        "0.9999",
        "shrink less",
    ),
    "grid exponent": (lambda: power_grid(5, 0.0), "exponent", "0.0", "1 gives equal steps"),
    "tau": (lambda: correlated_normal(2, 3, 0.0), "tau must be", "0.0", "no density"),
    "density sizes": (lambda: standard_normal(0, 3), ">= 1", "0", "solver.num_states"),
    "density dtype": (lambda: standard_normal(2, 3, jnp.int32), "floating dtype", "int32", "jnp.float32"),
    "base of another k": (
        lambda: Flow(HistorySolver(), zero, standard_normal(3, 2)),
        "event shape (2, d)",
        "(3, 2)",
        "solver.num_states",
    ),
    "negative sample_shape": (
        lambda: flow().sample(seed=jax.random.key(0), sample_shape=-1),
        "integers >= 0",
        "-1",
        "()",
    ),
    "proposal of a batched flow": (
        lambda: fit_history_proposal(Flow(HistorySolver(), zero, DiagonalNormal(jnp.zeros((5, 2, 2)))), None),
        "batch shape ()",
        "(5,)",
        "vmap",
    ),
    "proposal of too few samples": (
        lambda: fit_history_proposal(flow(), None, 4),
        "exceed k d + 1 = 5",
        "4",
        "40",
    ),
    "proposal inflation": (lambda: fit_history_proposal(flow(), None, 64, 0.0), "inflation", "0.0", "1.2"),
    "marginal of no samples": (
        lambda: marginal_log_prob(flow(), None, jnp.ones((3, 2)), None, 0),
        "num_samples must be an integer >= 1",
        "0",
        "64",
    ),
    "marginal of a state": (
        lambda: marginal_log_prob(flow(), None, jnp.ones((3, 4)), None, 8),
        "[..., 2]",
        "(3, 4)",
        "flow.action",
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_invalid_input_is_refused_with_rule_value_and_remedy(case):
    call, *parts = CASES[case]
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert re.search(re.escape(part), str(caught.value)), (part, str(caught.value))


def test_max_error_allows_a_solver_with_a_poor_float32_round_trip():
    assert HistorySolver(40, 0.5, max_error=float("inf")).round_trip_error(jnp.float64) < 1e-3
    assert HistorySolver(40, 0.5, max_error=float("inf")).round_trip_error(jnp.float32) > 1e3


def test_the_smallest_refused_number_of_steps_is_one_above_the_suggested_one():
    assert HistorySolver(31, 0.75).num_steps == 31
    with pytest.raises(ValueError, match="num_steps <= 31"):
        HistorySolver(32, 0.75)


def test_solvers_are_hashable_values_that_can_be_static_arguments():
    assert HistorySolver(5, grid=uniform_grid(5)) == HistorySolver(5, grid=tuple(i / 5 for i in range(6)))
    assert len({MultistepSolver(5, 2), MultistepSolver(5, 2), MultistepSolver(5, 2, unroll=False)}) == 2
    assert uniform_grid(2, 1.0, 0.0) == uniform_grid(2).reversed()


def test_growth_that_overflows_is_infinite_without_a_warning(recwarn):
    # The root 1e-9^(1/2) to the power of -100 is 1e450.
    assert MultistepSolver(100, 2, 1e-9, max_error=float("inf")).round_trip_error() == float("inf")
    assert not recwarn.list
