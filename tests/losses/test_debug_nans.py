"""With `jax_debug_nans` no derivative of good inputs stops a program outside of jit: no NaN is made and then masked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
from dense_sources import additive, packed, pruned
from losses import RNNT, LossUnderTest, T, U

import jax_rnnt
from jax_rnnt import alignment

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


def _measures(source: Callable, loss: LossUnderTest, x):
    """What is computed from posteriors, so that its first derivative is a second one of the cost."""
    lattice = alignment.loss_lattice(loss.made(), source(x, FIRST, T_B, U_B), TARGETS, T_B, U_B)
    _, posteriors = jax_rnnt.lattice_posteriors(*lattice)
    times = alignment.emission_times(posteriors, lattice.moves)
    return alignment.alignment_entropy(posteriors).sum() + alignment.expected_delay(times, times * 0 + 1).sum()


CASES = [
    *((dense, loss, _costs) for loss in (RNNT, *losses.PLAIN, losses.ENDS, losses.ANYWHERE)),
    *((source, RNNT, _costs) for source in (packed, pruned, additive)),
    (dense, RNNT, _measures),
    (dense, losses.PLAIN[2], _measures),
]


def _is_finite(x: jax.Array) -> bool:
    return bool(np.isfinite(x).all())


@pytest.mark.full(of=_measures)
@pytest.mark.full(source=packed)  # it gathers rows, as pruned does
@pytest.mark.full(loss=["monotonic", "multiblank", "wildcard_ends", "wildcard_anywhere"])
@pytest.mark.parametrize(
    ("source", "loss", "of"), CASES, ids=[f"{s.__name__}-{x.name}-{f.__name__.strip('_')}" for s, x, f in CASES]
)
def test_first_derivatives(source: Callable, loss: LossUnderTest, of: Callable) -> None:
    with jax.debug_nans(True):
        assert _is_finite(jax.grad(lambda x: of(source, loss, x))(_logits(loss)))


@pytest.mark.full
@pytest.mark.parametrize("loss", [RNNT, losses.PLAIN[2], losses.PLAIN[3]], ids=lambda loss: loss.name)
def test_second_derivatives(loss: LossUnderTest) -> None:
    x = _logits(loss)
    v = jnp.where(jnp.isfinite(x), 1.0, 0.0)
    gradient = jax.grad(lambda x: _costs(dense, loss, x))
    with jax.debug_nans(True):
        forward = jax.jvp(gradient, (x,), (v,))[1]
        reverse = jax.grad(lambda x: jnp.vdot(gradient(x), v))(x)
    np.testing.assert_allclose(reverse, forward, rtol=0, atol=1e-12)
