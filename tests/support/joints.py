"""A small joint network, tanh(e + p) @ kernel + bias, with a batch for it, and its dense costs and gradients."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import losses
import numpy as np

import jax_rnnt

B, T, U, D, V = 4, 7, 5, 6, 9
LENGTHS = np.array([7, 4, 6, 0], np.int32), np.array([5, 0, 3, 0], np.int32)
TARGETS = np.random.default_rng(4).integers(0, V - 1, (B, U)).astype(np.int32)
COTANGENT = np.array([1.0, -2.0, 0.5, 1.0])


@functools.cache
def operands(dtype: str = "float64") -> tuple:
    """The parameters, the encoder's and the predictor's output."""
    rng = np.random.default_rng(3)
    shapes = (D, V), (V,), (B, T, D), (B, U + 1, D)
    kernel, bias, encoded, predicted = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return {"kernel": kernel, "bias": bias}, encoded, predicted


def step(costs: Callable) -> Callable:
    """The costs, and the gradients of their sum weighted by COTANGENT."""

    def total(*operands):
        cost = costs(*operands)
        return jnp.sum(cost * COTANGENT.astype(cost.dtype)), cost

    return losses.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))


def dense_costs(params, encoded, predicted, activation=jnp.tanh, factors=1.0, **options):
    """The network by JAX alone. `factors` are dropout's."""
    hidden = activation(encoded[:, :, None] + predicted[:, None]) * factors
    logits = jnp.einsum("btud,dv->btuv", hidden, params["kernel"])
    logits = logits + params["bias"][None, None, None] if "bias" in params else logits
    return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none", **options)


@functools.cache
def expected():
    (_, cost), gradient = step(dense_costs)(*operands())
    return cost, gradient


def assert_close(actual, wanted, rtol: float = 1e-10) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    for a, w in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == w.dtype
        wide = np.asarray(w, np.float64)
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=0)
        np.testing.assert_allclose(np.asarray(a, np.float64), wide, rtol=rtol, atol=rtol * scale)
