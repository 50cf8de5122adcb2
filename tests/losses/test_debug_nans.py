"""With `jax_debug_nans` no derivative of good inputs stops a program outside of jit: no NaN is made and then masked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
from dense_sources import additive
from losses import RNNT, LossUnderTest, T, U

pytestmark = pytest.mark.once

# One example, with padding, so that few shapes are compiled. Some entries of its vocabulary are masked.
T_B, U_B, FIRST = np.array([T - 1], np.int32), np.array([U - 1], np.int32), np.array([[0, 0, 1, 1, 2]], np.int32)
TARGETS = np.array([[2, 3, 1]], np.int32)


def dense(x, first, t_b, u_b):
    return x


def _logits(loss: LossUnderTest) -> jax.Array:
    x = np.random.default_rng(0).normal(size=(1, T, U + 1, loss.width))
    x[..., 4] = -np.inf
    return jnp.asarray(x)


def _costs(source: Callable, loss: LossUnderTest, x):
    return loss.costs(source(x, FIRST, T_B, U_B), TARGETS, T_B, U_B, implementation=losses.QUICK).sum()


CASES = ((dense, losses.PLAIN[2]), (additive, RNNT))


@pytest.mark.parametrize(("source", "loss"), CASES, ids=[f"{source.__name__}-{loss.name}" for source, loss in CASES])
def test_first_derivatives(source: Callable, loss: LossUnderTest) -> None:
    with jax.debug_nans(True):
        gradient = jax.grad(lambda x: _costs(source, loss, x))(_logits(loss))
    assert np.isfinite(gradient).all()
