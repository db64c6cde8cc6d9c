"""Explicit Runge-Kutta tableaus; the order of each follows from the order conditions."""

import math
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-12


@dataclass(frozen=True)
class Tableau:
    """Butcher tableau of an explicit Runge-Kutta method with s stages.

        k_m = v(x + h Σ_{j<m} a_mj k_j, t + c_m h),   c_m = Σ_j a_mj,   increment = h Σ_m b_m k_m

    Attributes:
        a: s rows; row m has the m coefficients of the earlier stages (the first row is empty).
        b: the s weights; they sum to 1.

    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the method is explicit and consistent."""
        object.__setattr__(self, "a", tuple(tuple(float(value) for value in row) for row in self.a))
        object.__setattr__(self, "b", tuple(float(value) for value in self.b))
        lengths = [len(row) for row in self.a]
        if not self.b or lengths != list(range(len(self.b))):
            raise ValueError(
                f"a tableau of {len(self.b)} stages must be explicit, with rows of length "
                f"{list(range(len(self.b)))}, got lengths {lengths}; give row m its m earlier stages only"
            )
        if not all(math.isfinite(value) for value in (*self.b, *sum(self.a, ()))):
            raise ValueError(f"the coefficients of a tableau must be finite, got {self!r}; look for a nan")
        if abs(sum(self.b) - 1) > TOLERANCE:
            raise ValueError(f"the weights b of a tableau must sum to 1, got {sum(self.b)!r}; rescale {self.b}")

    @property
    def c(self) -> tuple[float, ...]:
        """The stage times, as fractions of the step: the row sums of a."""
        return tuple(math.fsum(row) for row in self.a)

    @property
    def num_stages(self) -> int:
        """The number s of network calls per increment."""
        return len(self.b)

    @property
    def order(self) -> int:
        """The order, from the conditions of rooted trees with up to 4 nodes (higher orders report 4).

        Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.2.
        """
        a = np.array([[*row, *[0.0] * (self.num_stages - len(row))] for row in self.a])
        b, c = np.array(self.b), np.array(self.c)
        conditions = (
            (b @ c - 1 / 2,),
            (b @ c**2 - 1 / 3, b @ a @ c - 1 / 6),
            (b @ c**3 - 1 / 4, b @ (c * (a @ c)) - 1 / 8, b @ a @ c**2 - 1 / 12, b @ a @ a @ c - 1 / 24),
        )
        order = 1
        for residuals in conditions:
            if max(abs(value) for value in residuals) > TOLERANCE:
                break
            order += 1
        return order


EULER = Tableau(a=((),), b=(1.0,))
MIDPOINT = Tableau(a=((), (1 / 2,)), b=(0.0, 1.0))
HEUN = Tableau(a=((), (1.0,)), b=(1 / 2, 1 / 2))
RALSTON = Tableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4))
KUTTA3 = Tableau(a=((), (1 / 2,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6))
RK4 = Tableau(a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))
