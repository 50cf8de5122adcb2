"""With `jax_debug_nans` no derivative of good inputs stops a program outside of jit: no NaN is made and then masked."""

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
from dense_sources import additive
from losses import RNNT, T, U

pytestmark = pytest.mark.once

# One example, with padding, so that few shapes are compiled. Some entries of its vocabulary are masked.
T_B, U_B, FIRST = np.array([T - 1], np.int32), np.array([U - 1], np.int32), np.array([[0, 0, 1, 1, 2]], np.int32)
TARGETS = np.array([[2, 3, 1]], np.int32)


def test_first_derivatives() -> None:
    """Of sums of parts. Their norms, their arcs and the lattice take every way of a dense array, and one more."""
    x = np.random.default_rng(0).normal(size=(1, T, U + 1, RNNT.width))
    x[..., 4] = -np.inf

    def total(x):
        source = additive(x, FIRST, T_B, U_B)
        return RNNT.costs(source, TARGETS, T_B, U_B, implementation=losses.QUICK).sum()

    with jax.debug_nans(True):
        assert np.isfinite(jax.grad(total)(jnp.asarray(x))).all()
