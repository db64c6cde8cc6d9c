"""Coefficients and stability of the reversible multistep rules, from the order conditions."""

from collections.abc import Sequence

import numpy as np


def iterate_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Return the a_j of `x_{i+1} = Σ_j a_j x_{i-j} + ...`, from `Σ_j w_j (x_{i+1-j} - x_{i-j})`."""
    return (*(float(a - b) for a, b in zip(weights[:-1], weights[1:], strict=True)), float(weights[-1]))


def spurious_roots(weights: Sequence[float]) -> np.ndarray:
    """Return the k-1 roots of `w_0 r^{k-1} + ... + w_{k-1}`: the roots of the rule without the principal root 1."""
    return np.roots(np.asarray(weights, float))


def check_zero_stability(weights: Sequence[float]) -> None:
    """Raise `ValueError` unless all spurious roots are in the unit disk, and simple and not 1 on its boundary."""
    roots = spurious_roots(weights)
    on_boundary = roots[np.abs(np.abs(roots) - 1) < 1e-9]
    boundary_roots = np.append(on_boundary, 1.0)
    gaps = np.abs(boundary_roots[:, None] - boundary_roots) + 2 * np.eye(len(boundary_roots))
    if np.max(np.abs(roots)) > 1 + 1e-9 or np.min(gaps) < 1e-6:
        raise ValueError(
            "the rule must be zero-stable (all roots in the unit disk, simple on its boundary), "
            f"got the root 1 and roots of modulus {np.abs(roots).round(4).tolist()} for w = {tuple(weights)}; "
            "use |history_coef| < 1 and smaller damping"
        )


def velocity_weights(weights: Sequence[float], times: np.ndarray) -> np.ndarray:
    """Solve the order conditions for the b_ij `[M, k-1]` of `x_{i+1} = Σ_j a_j x_{i-j} + Σ_j b_ij v_{i-j}`.

    Step i integrates its interpolant P_i over the intervals of its differences, weighted by the w_j. The
    interpolant of a start-up step (i < k-1) has too low a degree, or has just reached the full degree. Such a
    step integrates from t_0 and subtracts the contributions of the earlier steps, which corrects their error.
    """
    k, num_steps = len(weights), len(times) - 1
    table = np.zeros((num_steps, k - 1))
    for i in range(num_steps):
        num_nodes = min(i + 1, k - 1)
        nodes = times[i - np.arange(num_nodes)]
        ends = times[np.maximum(i + 1 - np.arange(k + 1), 0)]
        for j, weight in enumerate(weights):
            begin = times[0] if i < k - 1 else ends[j + 1]
            table[i, :num_nodes] += weight * _interpolant_integral(nodes, begin, ends[j])
        if i < k - 1:
            for earlier in range(i):
                shift = i - earlier
                table[i, shift : shift + earlier + 1] -= table[earlier, : earlier + 1]
    return table


def _interpolant_integral(nodes: np.ndarray, begin: float, end: float) -> np.ndarray:
    """Return weights of the node values that integrate polynomials of degree < len(nodes) over [begin, end]."""
    scale = np.max(np.abs(nodes - nodes[0])) or 1.0
    s, lower, upper = ((np.asarray(t) - nodes[0]) / scale for t in (nodes, begin, end))
    powers = np.arange(len(nodes))
    moments = (upper ** (powers + 1) - lower ** (powers + 1)) / (powers + 1)
    return scale * np.linalg.solve(s[None, :] ** powers[:, None], moments)
