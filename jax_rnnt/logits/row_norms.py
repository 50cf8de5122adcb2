"""Bounds of the norm of the gradient of a row of logits, from the row's arcs alone, and the rows to leave out."""

import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import NO_LABEL


def row_norms(entries: Array, labels: Array, cotangent: Array, parameters: ArcParameters) -> tuple[Array, Array]:
    """Two bounds ``[N]``, from below and from above, of the L1 norm over W of the gradient of a row of logits.

    They come from ``entries [N, K']``, their ``cotangent`` and ``labels [N]``. Let s be the sum of the cotangents of
    the arcs in the window. The gradient of an arc's own logit is ``ct - s p``; that of every other logit is ``-s p``,
    and the probabilities of the other logits sum to 1 minus those of the arcs. The columns must be different entries.
    """
    first, stop = parameters.window
    static = [jnp.full_like(labels, first <= c < stop, bool) for c in parameters.columns]
    inside = jnp.stack([*static, (labels >= first) & (labels < stop)], axis=-1)
    ct = cotangent.at[..., -1].set(jnp.where(labels == NO_LABEL, 0, cotangent[..., -1]))
    within = jnp.where(inside, ct, 0)
    share = jnp.sum(within, axis=-1)
    # An arc without a cotangent may have any entry, even NaN.
    p = jnp.where(inside & (ct != 0), jnp.exp(entries), 0)
    own = jnp.sum(jnp.abs(ct - share[:, None] * p), axis=-1)
    rest = lax.max(1 - jnp.sum(p, axis=-1), jnp.zeros_like(share))
    slack = 4 * jnp.finfo(entries.dtype).eps  # bounds the rounding of the probabilities
    weight = jnp.abs(share)
    return own + weight * lax.max(rest - slack, jnp.zeros_like(rest)), own + weight * (rest + slack)


def left_out(share: float, lower: Array, upper: Array, asked: Array, shape: tuple[int, ...]) -> Array:
    """Which nodes ``[B T (U+1)]`` of those asked for are left out. Together they hold at most ``share`` of the norm.

    ``lower`` and ``upper`` are bounds of the norms of their gradients, and ``shape`` is (B, T, U+1). Each utterance has
    its own budget, so that an easy utterance in a batch with a hard one keeps its accuracy.
    """
    nodes = shape[1] * shape[2]
    total = jnp.sum(jnp.where(asked, lower, 0).reshape(shape[0], nodes), axis=1)
    count = jnp.sum(asked.reshape(shape[0], nodes), axis=1)
    largest = share * total / jnp.maximum(count, 1).astype(total.dtype)
    return upper <= jnp.broadcast_to(largest[:, None], (shape[0], nodes)).reshape(-1)
