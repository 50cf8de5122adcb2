"""Which hypotheses have the same labels, and the sum of their probabilities."""

import jax.numpy as jnp
from jax import Array


def empty(shape: tuple[int, ...]) -> Array:
    """The key ``[..., 2]`` of an empty sequence of labels."""
    return jnp.broadcast_to(jnp.array([0x243F6A88, 0x85A308D3], jnp.uint32), (*shape, 2))


def extended(prefix: Array, label: Array) -> Array:
    """The key of a sequence with key ``prefix [..., 2]`` after one more label ``[...]``.

    Two different sequences have the same key with a probability of 2^-64, so the search compares keys. To compare
    labels instead would take more time at every step as sequences grow.
    """
    x = prefix + label.astype(jnp.uint32)[..., None] + jnp.uint32(1)
    for shift, factors in ((16, (0x85EBCA6B, 0x7FEB352D)), (15, (0xC2B2AE35, 0x846CA68B))):
        factor = jnp.array(factors, jnp.uint32)
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.broadcast_to(factor, x.shape)
    return x ^ (x >> jnp.uint32(16))


def equal(prefix: Array, others: Array) -> Array:
    """Which of the keys ``prefix [B, M, 2]`` and ``others [B, P, 2]`` are equal, ``[B, M, P]``."""
    return jnp.all(prefix[:, :, None] == others[:, None], axis=-1)


def log_add(x: Array, y: Array) -> Array:
    """The log of the sum of two probabilities. Either or both may be 0."""
    top = jnp.maximum(x, y)
    top = jnp.where(top == -jnp.inf, 0, top)
    return top + jnp.log(jnp.exp(x - top) + jnp.exp(y - top))


def merged(score: Array, prefix: Array, time: Array) -> Array:
    """``score [B, P]`` where the best of the hypotheses with equal ``prefix [B, P, 2]`` and ``time [B, P]`` has the
    log-sum of their probabilities, and the others have -inf."""
    same = equal(prefix, prefix) & (time[:, :, None] == time[:, None])
    mine, theirs = score[:, :, None], score[:, None]
    index = jnp.arange(score.shape[1], dtype=jnp.int32)
    before = index[None, None, :] < index[None, :, None]
    beaten = jnp.any(same & ((theirs > mine) | ((theirs == mine) & before)), axis=-1)
    top = jnp.max(jnp.where(same, theirs, -jnp.inf), axis=-1)
    top = jnp.where(top == -jnp.inf, 0, top)
    total = jnp.sum(jnp.where(same, jnp.exp(score - top)[:, None], 0), axis=-1)
    return jnp.where(beaten, -jnp.inf, top + jnp.log(total))
