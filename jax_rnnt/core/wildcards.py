"""Wildcards for transcripts that lack words: frames that a path may pass without paying for them.

The arc that takes a frame and emits nothing gets company. A wildcard *anywhere* stands beside it at every node: the two
probabilities add up. A wildcard at the *ends* is one jump from (0, 0) to any (t, 0), and one from any (t, U_b) to the
last frame's node (T_b - 1, U_b), which the last blank leaves as ever. Column 0 is entered, and column U_b is left, by
that arc alone; so the sums of probabilities along the column, jumps included, are known beforehand, and the quotient of
two neighbours is what the arc between them is worth.
"""

import jax.numpy as jnp
from jax import Array, lax


def with_wildcard(blank: Array, t_b: Array, u_b: Array, where: str, weight: float) -> Array:
    """The scores ``[B, T, U+1]`` of the frame's arc, given those of the blank; finite or -inf."""
    if where == "anywhere":
        return _log_add(blank, weight)
    t = lax.broadcasted_iota(jnp.int32, blank.shape, 1)
    u = lax.broadcasted_iota(jnp.int32, blank.shape, 2)
    last_t, last_u = t_b[:, None, None] - 1, u_b[:, None, None]
    steps = jnp.where(t < last_t, blank, 0)  # the last blank leads out of the lattice: no jump takes its place
    # The sums over paths from (0, 0) to (t, 0) and to (t + 1, 0). No jump leads to (0, 0).
    to_next = lax.cumsum(steps, axis=1)
    to_this = jnp.where(t == 0, 0, _log_add(_previous(to_next), weight))
    start = _log_add(to_next, weight) - to_this
    # The sums over paths from (t, U_b) and from (t + 1, U_b) to the last frame's node, from which no jump leads.
    from_this = lax.cumsum(steps, axis=1, reverse=True)
    from_next = jnp.where(t + 1 >= last_t, 0, _log_add(jnp.flip(_previous(jnp.flip(from_this, 1)), 1), weight))
    end = _log_add(from_this, weight) - from_next
    jumps = jnp.where(u == 0, start, jnp.where(u == last_u, end, blank))
    return jnp.where(t < last_t, jumps, blank)


def _previous(x: Array) -> Array:
    """``y[:, t] = x[:, t - 1]``, and 0 at t = 0."""
    return jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], axis=1)


def _log_add(x: Array, weight: float) -> Array:
    """``log(exp(x) + exp(weight))`` for x finite or -inf."""
    return jnp.logaddexp(x, jnp.full_like(x, weight))
