"""Wildcards, for transcripts that lack words: a path may pass some frames without paying for their blanks.

A wildcard *anywhere* is a second arc beside the blank at every node. The two probabilities are added. With a *star*
(Star-Transducer) the last frame has no such arcs. Wildcards at the *ends* (W-transducer) are jumps: one from (0, 0) to
any (t, 0), and one from any (t, U_b) to the node of the last frame, (T_b - 1, U_b). The path leaves that node by its
blank, as without wildcards. Paths enter position 0 only at (0, 0), and leave position U_b only at its end. So the sum
S(t) over all ways at such a position from its first node to frame t, jumps included, does not depend on other
positions: ``S(0) = 1`` and ``S(t + 1) = S(t) * blank(t) + jump``. The blank of the position becomes ``S(t + 1) /
S(t)``, which gives the same sums without jumps.

Where a source lacks nodes, no arc and no jump leaves or enters them, but a jump passes over them. Then the new blanks
of the position lead through them. The quotients of such a node do no harm for any S: nothing else enters or
leaves the node, so one quotient multiplies by S and the next one divides by S.
"""

import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.core.topology import Topology
from jax_rnnt.ops.labels import Moves


def with_wildcard(
    arcs: Array, topology: Topology, t_b: Array, u_b: Array, nodes: Array | None, where: str, weight: Array
) -> Array:
    """The scores ``arcs [B, T, U+1, K]``, finite or -inf, with those of the blank and its wildcard together.

    ``nodes [B, T, U+1]`` says which nodes there are; None: all.
    """
    arc = topology.frame_arc()
    t = lax.broadcasted_iota(jnp.int32, arcs.shape[:3], 1)
    opens = jnp.ones(arcs.shape, bool)
    if nodes is not None:
        opens = _between(nodes, t, t_b, topology.moves)
        arcs = arcs + _closed(~opens, arcs)
    blank = arcs[..., arc]
    if where == "ends":
        blank = _with_ends(blank, t, t_b, u_b, nodes, weight)
    else:
        stands = opens[..., arc] & ((where == "anywhere") | (t < t_b[:, None, None] - 1))
        blank = jnp.where(stands, _log_add(blank, jnp.broadcast_to(weight, blank.shape)), blank)
    return jnp.concatenate([arcs[..., :arc], blank[..., None], arcs[..., arc + 1 :]], axis=-1)


def _closed(where: Array, like: Array) -> Array:
    """-inf to be added, so that the derivative stays: the gradient of an example that costs NaN is NaN there too."""
    return jnp.where(where, -jnp.inf, 0).astype(like.dtype)


def _between(nodes: Array, t: Array, t_b: Array, moves: Moves) -> Array:
    """``[B, T, U+1, K]``: whether the arc leaves one of the ``nodes``, and lands on one of them or at the end."""
    each = []
    for dt, du in moves:
        lands = jnp.pad(nodes, ((0, 0), (0, dt), (0, du)))[:, dt:, du:]
        each.append(nodes & (lands | (t + dt >= t_b[:, None, None])))
    return jnp.stack(each, axis=-1)


def _with_ends(blank: Array, t: Array, t_b: Array, u_b: Array, nodes: Array | None, weight: Array) -> Array:
    u = lax.broadcasted_iota(jnp.int32, blank.shape, 2)
    last_t, last_u = t_b[:, None, None] - 1, u_b[:, None, None]
    jumps = t < last_t  # not at the last frame: its blank leaves the lattice
    # Position 0 from its first frame to its last, and position U_b from its last frame to its first.
    end_blank = jnp.sum(jnp.where(u == last_u, blank, 0), axis=2)
    both = jnp.stack([blank[:, :, 0], jnp.flip(end_blank, 1)], axis=-1)
    sums = _sums(both, jnp.stack([jumps[:, :, 0], jnp.flip(jumps[:, :, 0], 1)], axis=-1), weight)
    start, end = sums[:, :, :1], jnp.flip(sums[:, :, 1:], 1)
    at_ends = jumps & ((u == 0) | (u == last_u))
    jumped = jnp.where(at_ends, _log_add(blank, weight - jnp.where(u == 0, start, end)), blank)
    return jumped if nodes is None else jumped + _closed((t == 0) & (u == 0) & ~nodes, jumped)


def _sums(blank: Array, jumps: Array, weight: Array) -> Array:
    """``log S(t)``, of the shape of ``blank``, ``[B, T, positions]``; S(t + 1) = S(t) where there is no jump."""
    none = jnp.finfo(blank.dtype).min / 4  # not -inf: the log-sum of two of those has no derivative
    products, jumped = lax.associative_scan(
        lambda first, then: (first[0] + then[0], _log_add(first[1] + then[0], then[1])),
        (jnp.where(jumps, blank, 0), jnp.where(jumps, weight, none).astype(blank.dtype)),
        axis=1,
    )
    sums = _log_add(products, jumped)
    return jnp.concatenate([jnp.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)


def _log_add(x: Array, y: Array) -> Array:
    """``log(exp(x) + exp(y))`` for x finite or -inf and y finite."""
    return jnp.logaddexp(x, y)
