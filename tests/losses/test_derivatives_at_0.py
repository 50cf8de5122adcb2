"""Derivatives with respect to a factor of the costs, where the factor is exactly 0: weights, loss scales, cotangents.

The gradient of the logits is linear in the cotangent of the costs. So its derivative at a cotangent of 0 is that
gradient, for a cotangent of 1. But an example whose cost is NaN counts for nothing at 0, so there the derivative is 0.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
from dense_sources import pruned
from losses import RNNT, LossUnderTest, T, U
from sources import KEPT
from table_joint import joint_logits

# The last two examples cost NaN: one by its length, one by a logit. Their cotangents are 0.
LENGTHS = np.array([5, 3, 0, T + 1, 2], np.int32), np.array([3, 2, 1, 2, 1], np.int32)
COTANGENT = np.array([0.0, -2.0, 0.0, 0.0, 0.0])
BAD = np.array([False, False, False, True, True])
FIRST = np.array([[0, 0, 1, 1, 2]] * len(BAD), np.int32)


def dense(x, first, t_b, u_b):
    return x


@functools.cache
def _arrays(width: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(width)
    x = rng.normal(size=(len(BAD), T, U + 1, width))
    x[4, 0, 0, 1] = np.nan
    return x, FIRST, rng.integers(*losses.LABELS, (len(BAD), U)).astype(np.int32), *LENGTHS


def _gradient(source: Callable, loss: LossUnderTest, clamp: float) -> np.ndarray:
    """The gradient of the cost of each example with respect to x, by the definition; 0 where the cost is NaN."""
    x, first, *rest = _arrays(loss.width)
    u = np.arange(U + 1)[None, None]
    kept = (u >= first[..., None]) & (u < first[..., None] + KEPT) | (source is not pruned)
    _, of_x = loss.expected(np.where(kept[..., None], x, -np.inf), *rest, clamp=clamp)
    return np.where(BAD[:, None, None, None], 0, of_x)


def _check(source: Callable, loss: LossUnderTest, implementation: str, clamps: tuple[float, ...]) -> None:
    x, first, *rest = _arrays(loss.width)
    rng = np.random.default_rng(0)
    v, direction = rng.normal(size=x.shape), rng.normal(size=len(BAD))

    @losses.jit
    def run(x, ct):
        def products(clamp, ct):
            held = functools.partial(source, first=first, t_b=rest[1], u_b=rest[2])
            _, pull = jax.vjp(
                lambda x: loss.costs(held(x), *rest, clamp=clamp, implementation=implementation), jnp.asarray(x)
            )
            gradient = pull(ct)[0]
            return jnp.sum(gradient * v, axis=(1, 2, 3)), gradient

        def both(clamp):
            of = functools.partial(products, clamp)
            gradient, (tangent, _) = of(ct)[1], jax.jvp(of, (ct,), (direction,))[1]
            return gradient, tangent, jax.grad(lambda ct: jnp.sum(of(ct)[0] * direction))(ct)

        return [both(clamp) for clamp in clamps]

    for clamp, (gradient, tangent, slope) in zip(clamps, run(x, COTANGENT), strict=True):
        unit = _gradient(source, loss, clamp)
        np.testing.assert_allclose(gradient, unit * COTANGENT[:, None, None, None], rtol=0, atol=1e-13)
        expected = (unit * v).sum((1, 2, 3)) * direction
        assert (np.abs(expected) > 1e-3).tolist() == [True, True, False, False, False]
        np.testing.assert_allclose(tangent, expected, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(slope, expected, rtol=1e-11, atol=1e-13)
        assert (tangent[BAD] == 0).all()
        assert (slope[BAD] == 0).all()


@pytest.mark.once
def test_gradient_by_cotangent_of_tdt() -> None:
    _check(dense, losses.PLAIN[2], losses.QUICK, clamps=(-1.0,))


@pytest.mark.once
def test_gradient_by_cotangent_of_pruned_logits() -> None:
    _check(pruned, RNNT, losses.QUICK, clamps=(-1.0, 0.05))


def test_gradient_by_cotangent_of_each_form(implementation: str) -> None:
    _check(dense, RNNT, implementation, clamps=(-1.0,))


REDUCTIONS = ("none", "sum", "mean", "mean_volume")


def _by_weights(costs: np.ndarray, w: np.ndarray, u_b: np.ndarray, reduction: str) -> np.ndarray:
    """The gradient of a reduction with respect to the weights, for finite costs; of the sum for "none"."""
    by = {"mean": np.ones(len(w)), "mean_volume": u_b}.get(reduction)
    return costs if by is None else (costs - by * (w * costs).sum() / (w * by).sum()) / (w * by).sum()


@pytest.mark.once
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_gradient_by_weights(zero_infinity: bool) -> None:
    """A weight of 0 has the derivative of any other weight. That of an example that costs NaN or +inf has none."""
    x, _, *rest = _arrays(RNNT.width)
    costs, _ = RNNT.expected(x, *rest)
    finite = np.isfinite(costs)
    assert finite.tolist() == [True, True, False, False, False]
    w = np.array([0.0, 1.5, 0.0, 0.0, 0.0])

    def total(reduction, w):
        options = {"weights": w, "zero_infinity": zero_infinity, "implementation": losses.QUICK}
        return jnp.sum(RNNT.costs(x, *rest, reduction=reduction, **options))

    of_reductions = [functools.partial(total, reduction) for reduction in REDUCTIONS]
    rows = losses.jit(lambda w: [(jax.grad(f)(w), jax.jacfwd(f)(w)) for f in of_reductions])(w)
    for reduction, (reverse, forward) in zip(REDUCTIONS, rows, strict=True):
        expected = _by_weights(np.where(finite, costs, 0), w, rest[2], reduction)
        # With `zero_infinity` a cost of +inf becomes 0, a cost like any other.
        expected = np.where(finite | (zero_infinity & np.isposinf(costs)), expected, 0)
        np.testing.assert_allclose(reverse, expected, rtol=1e-12, atol=1e-13, err_msg=reduction)
        np.testing.assert_allclose(forward, expected, rtol=1e-12, atol=1e-13, err_msg=reduction)


@pytest.mark.once
def test_learning_to_reweight() -> None:
    """The derivative of a second loss with respect to weights of 0, through a step of gradient descent (Ren 2018)."""
    x, _, *rest = _arrays(RNNT.width)
    x, rest = x[:2], [a[:2] for a in rest]
    _, gradients = RNNT.expected(x, *rest)

    def after_a_step(w):
        of_weights = functools.partial(RNNT.costs, implementation=losses.QUICK, reduction="sum")
        stepped = x - jax.grad(lambda x: of_weights(x, *rest, weights=w))(jnp.asarray(x))
        return of_weights(stepped, *rest)

    slopes = losses.jit(jax.grad(after_a_step))(np.zeros(2))
    np.testing.assert_allclose(slopes, -(gradients**2).sum((1, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])
def test_refused_where_a_gradient_cannot_be_differentiated(derivative: Callable) -> None:
    """At 0 forward mode would give 0, because nodes without a cotangent are left out."""
    x, _, *rest = _arrays(RNNT.width)

    def scaled_gradient(scale):
        return jax.grad(lambda x: scale * RNNT.costs(joint_logits(x), *rest).sum())(jnp.asarray(x))

    with pytest.raises(TypeError, match="With `JointLogits` the loss has no second derivatives"):
        jax.eval_shape(derivative(scaled_gradient), 0.0)
