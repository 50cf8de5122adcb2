"""Forward mode and second order, in f64, against finite differences of the oracle's gradient."""

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
import tolerances
from cases import lengths, random_batch

import jax_rnnt

T_B, U_B = lengths(5, 3, 4, 0), lengths(3, 3, 1, 0)
LOGITS, TARGETS = random_batch("second_order")
DIRECTION = np.random.default_rng(1).normal(size=LOGITS.shape)
WEIGHTS = np.array([1.0, -2.0, 0.5, 1.0])


def _total(implementation: str, fused: bool):
    def total(x):
        costs = jax_rnnt.rnnt_loss(x, TARGETS, T_B, U_B, -1, -1.0, "none", fused, implementation=implementation)
        return jnp.sum(costs * WEIGHTS)

    return total


def _oracle_gradient(x, fused: bool) -> np.ndarray:
    return reference.rnnt_loss(x, TARGETS, T_B, U_B, fused=fused)[1] * WEIGHTS[:, None, None, None]


@pytest.mark.parametrize("fused", [True, False])
def test_jvp_and_linearize(fused: bool) -> None:
    total = _total(losses.QUICK, fused)
    slope = (_oracle_gradient(LOGITS, fused) * DIRECTION).sum()
    value, tangent = jax.jit(lambda x, v: jax.jvp(total, (x,), (v,)))(LOGITS, DIRECTION)
    cost, _ = reference.rnnt_loss(LOGITS, TARGETS, T_B, U_B, fused=fused)
    np.testing.assert_allclose(value, (cost * WEIGHTS).sum(), rtol=1e-12)
    np.testing.assert_allclose(tangent, slope, rtol=1e-12)
    _, linear = jax.linearize(total, jnp.asarray(LOGITS))
    np.testing.assert_allclose(linear(jnp.asarray(DIRECTION)), slope, rtol=1e-12)
    np.testing.assert_allclose(linear(jnp.asarray(-3.0 * DIRECTION)), -3.0 * slope, rtol=1e-12)


def test_second_order_of_a_masked_vocabulary() -> None:
    """Logits of -inf must not make the second derivative NaN. Autodiff of the lattice would compute inf - inf."""
    x = LOGITS.copy()
    x[:, :, :, 0] = -np.inf
    targets = np.where(TARGETS == 0, 1, TARGETS)
    v = jnp.asarray(DIRECTION)

    def total(x):
        return jax_rnnt.rnnt_loss(x, targets, T_B, U_B, reduction="sum", implementation=losses.QUICK)

    def products(x, v):
        return jax.jvp(jax.grad(total), (x,), (v,))[1], jax.grad(lambda x: jnp.vdot(jax.grad(total)(x), v))(x)

    forward, reverse = jax.jit(products)(jnp.asarray(x), v)
    h = tolerances.FINITE_STEP
    step = np.where(np.isinf(x), 0.0, DIRECTION) * h
    up, down = (reference.rnnt_loss(x + s, targets, T_B, U_B)[1] for s in (step, -step))
    assert np.abs(forward).max() > 0.1
    np.testing.assert_allclose(forward, (up - down) / (2 * h), rtol=0, atol=tolerances.FINITE_ATOL)
    np.testing.assert_allclose(reverse, forward, rtol=0, atol=1e-12)


def test_gradient_of_the_posteriors() -> None:
    """A loss on posteriors, for example on the expected position of an alignment, is differentiable."""
    rng, moves = np.random.default_rng(2), reference.MONOTONIC
    log_probs = rng.normal(size=(3, 5, 4, 2)) - 1.0
    t_b, u_b = lengths(5, 4, 4), lengths(3, 2, 3)
    weight, direction = rng.normal(size=(2, *log_probs.shape))

    def weighted(x):
        cost, posteriors = jax_rnnt.lattice_posteriors(x, t_b, u_b, moves, implementation=losses.QUICK)
        return jnp.vdot(posteriors, weight) + cost.sum()

    def by_oracle(x) -> float:
        cost, posteriors = reference.lattice_cost(x, t_b, u_b, moves)
        return (posteriors * weight).sum() + cost.sum()

    gradient = jax.jit(jax.grad(weighted))(jnp.asarray(log_probs))
    h = tolerances.FINITE_STEP
    slope = (by_oracle(log_probs + h * direction) - by_oracle(log_probs - h * direction)) / (2 * h)
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-7, atol=tolerances.FINITE_ATOL)
    _, tangent = jax.jit(lambda x, v: jax.jvp(weighted, (x,), (v,)))(log_probs, direction)
    np.testing.assert_allclose(tangent, slope, rtol=1e-7, atol=tolerances.FINITE_ATOL)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[1, 4:] == 0).all()
