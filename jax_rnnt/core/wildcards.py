"""Wildcards for transcripts that lack words: frames that a path may pass without paying for them.

The arc that takes a frame and emits nothing gets company. A wildcard *anywhere* stands beside it at every node: the two
probabilities add up. A wildcard at the *ends* is one jump from (0, 0) to any (t, 0), and one from any (t, U_b) to the
last frame's node (T_b - 1, U_b), which the last blank leaves as ever. Column 0 is entered at (0, 0) alone, and column
U_b is left at its end alone. So the sums over all ways along the column, jumps included, are known beforehand, and the
quotient of two neighbours is what the arc between them is worth: ``S(t + 1) / S(t)``, where ``S(0) = 1`` and
``S(t + 1) = S(t) * blank(t) + jump``.
"""

import jax.numpy as jnp
from jax import Array, lax


def with_wildcard(blank: Array, t_b: Array, u_b: Array, where: str, weight: float) -> Array:
    """The scores ``[B, T, U+1]`` of the frame's arc, given those of the blank; finite or -inf."""
    if where == "anywhere":
        return _log_add(blank, jnp.full_like(blank, weight))
    t = lax.broadcasted_iota(jnp.int32, blank.shape, 1)
    u = lax.broadcasted_iota(jnp.int32, blank.shape, 2)
    last_t, last_u = t_b[:, None, None] - 1, u_b[:, None, None]
    jumps = t < last_t  # the last blank leads out of the lattice: no jump takes its place
    start = _sums(blank[:, :, 0], jumps[:, :, 0], weight, reverse=False)
    of_end = jnp.sum(jnp.where(u == last_u, blank, 0), axis=2)
    end = _sums(of_end, jumps[:, :, 0], weight, reverse=True)
    sums = jnp.where(u == 0, start[:, :, None], end[:, :, None])
    at_ends = jumps & ((u == 0) | (u == last_u))
    return jnp.where(at_ends, _log_add(blank, weight - sums), blank)


def _sums(blank: Array, jumps: Array, weight: float, reverse: bool) -> Array:
    """``log S [B, T]`` where each frame's arc starts; with ``reverse``, from the last frame on, where the arc ends."""
    steps = jnp.where(jumps, blank, 0)
    none = jnp.finfo(blank.dtype).min / 4  # in place of -inf, of which two have a sum without a derivative
    products, jumped = lax.associative_scan(
        lambda first, then: (first[0] + then[0], _log_add(first[1] + then[0], then[1])),
        (steps, jnp.where(jumps, weight, none)),
        axis=1,
        reverse=reverse,
    )
    sums, zero = _log_add(products, jumped), jnp.zeros_like(blank[:, :1])
    return jnp.concatenate([sums[:, 1:], zero] if reverse else [zero, sums[:, :-1]], axis=1)


def _log_add(x: Array, y: Array) -> Array:
    """``log(exp(x) + exp(y))`` for x finite or -inf and y finite."""
    return jnp.logaddexp(x, y)
