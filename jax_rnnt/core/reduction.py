"""Reduces the costs of the examples of a batch to the result of a loss."""

import jax.numpy as jnp
from jax import Array

from jax_rnnt.ops.masking import scaled


def reduced(costs: Array, u_b: Array, weights: Array | None, reduction: str, *, zero_infinity: bool) -> Array:
    """``costs [B]`` as they are, or their (weighted) sum or mean.

    An example of weight 0 counts for nothing, even where its cost is NaN.
    """
    if zero_infinity:
        costs = jnp.where(costs == jnp.inf, 0, costs)
    if weights is not None:
        # Where a cost that is not finite counts for nothing, its weight has no derivative in the divisor either.
        weights = jnp.where((weights == 0) & ~jnp.isfinite(costs), 0, weights)
        costs = scaled(costs, by=weights)
    if reduction == "none":
        return costs
    total = jnp.sum(costs)
    if reduction == "sum":
        return total
    if reduction == "mean_volume":
        volume = u_b.astype(costs.dtype) if weights is None else u_b.astype(costs.dtype) * weights
        return _divided(total, jnp.sum(volume))
    if weights is not None:
        return _divided(total, jnp.sum(weights))
    # max(B, 1): the mean over an empty batch is 0, like that of a batch of filler rows, and not 0 / 0.
    return total / max(costs.shape[0], 1)


def _divided(total: Array, by: Array) -> Array:
    """``total / by``, and 0 where ``by`` is 0."""
    return jnp.where(by == 0, 0, total / jnp.where(by == 0, 1, by))
