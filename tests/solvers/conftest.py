"""Run the solver tests in float64, without implicit promotion of dtypes or ranks."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def strict_numerics():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
