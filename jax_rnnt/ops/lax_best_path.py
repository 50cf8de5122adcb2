"""The pure ``lax`` form of the best path, by the recursion of cpp/best_path.h over anti-diagonals ``n = t + u``.

The score of a path is a pair of numbers. The second number holds the digits that do not fit into the first one. So sums
in float32 distinguish paths as well as double precision does, even behind masks of -1e9.
"""

import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.ops.labels import Moves
from jax_rnnt.ops.lax_lattice import by_diagonal, shift
from jax_rnnt.xla.sharding import match_manual_axes

Pair = tuple[Array, Array]

_UNIT = 2.0**-32  # scores are scaled by it: a path has fewer than 2**32 arcs, so no sum overflows


def best_path(arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves) -> list[Array]:
    """The best path through ``arcs [..., T, U+1, K]``: its cost ``[...]``, the frame and the duration of each label
    ``[..., U]``, and the arcs that it takes ``[..., T+U]``."""
    steps = [dt + du for dt, du in moves]
    n, u, opened, at_end, _, poisoned = by_diagonal(arcs, logit_lengths, target_lengths, moves)
    never = float(jnp.finfo(arcs.dtype).min)  # of closed arcs; not -inf, because differences of -inf are NaN
    scores = jnp.where(opened == -jnp.inf, never, opened * _UNIT)

    def backward(recent, inputs):
        out, end = inputs
        best = jnp.where(end, 0, never).astype(arcs.dtype), jnp.zeros_like(out[0])
        arc = jnp.full_like(end, -1, dtype=jnp.int32)
        for k, (step, (_, du)) in enumerate(zip(steps, moves, strict=True)):
            high, low = recent[step - 1]
            score = _plus((shift(high, -du, never), shift(low, -du)), out[k], never)
            better = (score[0] > best[0]) | ((score[0] == best[0]) & (score[1] > best[1]))
            best = jnp.where(better, score[0], best[0]), jnp.where(better, score[1], best[1])
            arc = jnp.where(better, k, arc)
        return (best, *recent[:-1]), arc

    like = scores[0][0]
    _, nowhere, nothing = match_manual_axes([like, jnp.full_like(like, never), jnp.zeros_like(like)])
    recent, choices = lax.scan(backward, ((nowhere, nothing),) * max(steps), (scores, at_end), reverse=True)
    high, low = (x[..., 0] for x in recent[0])

    def forward(node, inputs):
        choice, n_here = inputs
        next_n, next_u = node
        chosen = jnp.sum(jnp.where(u[0] == next_u[..., None], choice, 0), axis=-1, dtype=jnp.int32)
        taken = jnp.where((next_n == n_here) & ~poisoned, chosen, -1)
        return (next_n + of_arcs(taken, steps), next_u + of_arcs(taken, [du for _, du in moves])), taken

    choice = choices[0]
    _, start = match_manual_axes([choice, jnp.zeros_like(choice[..., 0])])
    _, taken = lax.scan(forward, (start, start), (choices, n.reshape(n.shape[0])))

    most = float(jnp.finfo(arcs.dtype).max)
    cost = jnp.clip((0 - (high + low)) / _UNIT, -most, most)
    cost = jnp.where(poisoned, jnp.nan, jnp.where(high == never, jnp.inf, cost))
    taken = jnp.moveaxis(taken, 0, -1)[..., :-1]
    return [cost, *_of_labels(taken, arcs.shape[-2] - 1, moves), taken]


def positions(taken: Array, moves: Moves) -> Array:
    """``u [..., T+U]`` of the path's node at each index t + u; a number without meaning where it has none."""
    num_labels = of_arcs(taken, [du for _, du in moves])
    return jnp.cumsum(num_labels, axis=-1, dtype=jnp.int32) - num_labels


def _of_labels(taken: Array, num_labels: int, moves: Moves) -> list[Array]:
    """The frame at which each of ``num_labels`` labels is emitted, and the frames that it takes; -1 for none."""
    u = positions(taken, moves)
    t = lax.broadcasted_iota(jnp.int32, taken.shape, taken.ndim - 1) - u
    label = jnp.expand_dims(jnp.arange(num_labels, dtype=jnp.int32), tuple(range(taken.ndim)))
    emits = (u[..., None] <= label) & (label < (u + of_arcs(taken, [du for _, du in moves]))[..., None])
    durations = of_arcs(taken, [dt for dt, _ in moves])
    return [jnp.sum(jnp.where(emits, x[..., None] + 1, 0), axis=-2, dtype=jnp.int32) - 1 for x in (t, durations)]


def _plus(a: Pair, x: Array, never: float) -> Pair:
    closed = (a[0] == never) | (x == never)
    total = a[0] + x
    x_part = total - a[0]
    low = ((a[0] - (total - x_part)) + (x - x_part)) + a[1]  # the digits that this sum has lost, and those of `a`
    high = total + low
    return jnp.where(closed, never, high), jnp.where(closed, 0, low - (high - total))


def of_arcs(taken: Array, values: list[int]) -> Array:
    """``values[k]`` for each arc k of ``taken``; 0 for -1."""
    result = jnp.zeros_like(taken)
    for k, value in enumerate(values):
        result = jnp.where(taken == k, value, result)
    return result
