"""Operation 2 for TPUs, by Pallas kernels: masks, a skew, the recursions, and the posteriors.

XLA makes the masks and puts the arcs into the kernels' layout, frames first and columns last.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl

from jax_rnnt.ops import lax_lattice_stacked
from jax_rnnt.ops.labels import Moves
from jax_rnnt.ops.pallas_recursion import ARC_RANGE, PATH_RANGE, chunk_depth, memory_limits, recursion
from jax_rnnt.ops.pallas_skew import LANES, SUBLANES, block_rows, products, skewed

_LN2 = float(np.log(2.0))


def refusal(arcs, *_, moves: Moves) -> str | None:
    """Why the kernels do not take arcs of this type, or None."""
    if not all(isinstance(size, int) for size in arcs.shape):
        return f"it needs static shapes, got {arcs.shape}"
    if arcs.dtype != np.float32:
        return f"it computes in float32, got {arcs.dtype}"
    num_positions = arcs.shape[-2]
    if chunk_depth(num_positions, moves) is None:
        needed, most = memory_limits(num_positions, moves)
        return (
            f"U+1 = {num_positions} positions with {len(moves)} arcs each need {needed} bytes of a core's fast memory, "
            f"and it uses {most} at most"
        )
    return None


def lattice(
    arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves, posteriors: bool, interpret: Any
) -> list[Array]:
    """As :func:`lax_lattice.lattice`, in float32.

    An arc that is finite and beyond the range of the kernels' exponents makes the whole batch run the ``lax`` form.
    """
    if arcs.size == 0:
        return lax_lattice_stacked.lattice(arcs, logit_lengths, target_lengths, moves=moves, posteriors=posteriors)
    *batch, t_max, u1, k = arcs.shape
    one_batch = arcs.reshape(-1, t_max, u1, k), logit_lengths.reshape(-1), target_lengths.reshape(-1)
    return [x.reshape(*batch, *x.shape[1:]) for x in _one_batch(*one_batch, moves, posteriors, interpret)]


def _one_batch(arcs: Array, t_b: Array, u_b: Array, moves: Moves, with_posteriors: bool, interpret: Any) -> list[Array]:
    _, t_max, u1, _ = arcs.shape
    t, u = (lax.broadcasted_iota(jnp.int32, arcs.shape[:3], axis) for axis in (1, 2))
    valid = (t_b >= 0) & (t_b <= t_max) & (u_b >= 0) & (u_b < u1)
    of_t, of_u = t_b[:, None, None], u_b[:, None, None]
    inside = valid[:, None, None] & (t < of_t) & (u <= of_u)
    exists = []
    for dt, du in moves:
        lands_inside = (t + dt < of_t) & (u + du <= of_u)
        lands_at_end = (t + dt == of_t) & (u + du == of_u)
        exists.append(inside & (lands_inside | lands_at_end))
    x = jnp.where(jnp.stack(exists, axis=-1), arcs, -jnp.inf)
    poison = ~(x < jnp.inf)
    poisoned = ~valid | jnp.any(poison, axis=(1, 2, 3))
    opened = jnp.where(poison, -jnp.inf, x)

    arcs_at_most = jnp.where(valid, t_b + u_b, 0).astype(jnp.float32) + 1
    largest = jnp.minimum(ARC_RANGE, PATH_RANGE / arcs_at_most) * _LN2
    beyond = (jnp.abs(opened) > largest[:, None, None, None]) & (opened > -jnp.inf)

    def by_pallas(opened: Array, t_b: Array, u_b: Array) -> list[Array]:
        return by_kernels(opened, valid, t_b, u_b, moves, with_posteriors, interpret)

    def by_lax(*operands: Array) -> list[Array]:
        # A group of utterances after the other, because the whole batch takes long to compile and much memory. Those
        # that are added have invalid lengths.
        groups = pl.cdiv(arcs.shape[0], SUBLANES)
        more = groups * SUBLANES - arcs.shape[0]

        def grouped(x: Array, fill: float) -> Array:
            x = jnp.pad(x, [(0, more), *[(0, 0)] * (x.ndim - 1)], constant_values=fill)
            return x.reshape(groups, SUBLANES, *x.shape[1:])

        def of_group(operands: tuple[Array, ...]) -> list[Array]:
            return lax_lattice_stacked.lattice(*operands, moves=moves, posteriors=with_posteriors)

        results = lax.map(of_group, tuple(grouped(x, -1) for x in operands))
        return [x.reshape(-1, *x.shape[2:])[: arcs.shape[0]] for x in results]

    cost, *posterior = lax.cond(jnp.any(beyond), by_lax, by_pallas, opened, t_b, u_b)
    in_example = ~valid[:, None, None] | ((t < of_t) & (u <= of_u))
    nan = (poisoned[:, None, None] & in_example)[..., None]
    return [jnp.where(poisoned, jnp.nan, cost), *(jnp.where(nan, jnp.nan, p) for p in posterior)]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def by_kernels(
    opened: Array, valid: Array, t_b: Array, u_b: Array, moves: Moves, with_posteriors: bool, interpret: Any
) -> list[Array]:
    """Of arcs that are -inf outside of the lattices; without NaN."""
    batch, t_max, u1, _ = opened.shape
    rows, depth = block_rows(u1), chunk_depth(u1, moves)
    assert depth is not None  # as `refusal` says
    frames, diagonals = _up(t_max, rows), _up(t_max + u1, rows)
    groups, columns = _up(batch, SUBLANES) // SUBLANES, _up(u1, LANES)
    more = groups * SUBLANES - batch

    x = jnp.transpose(opened, (1, 3, 0, 2))  # [T, K, B, U+1]
    x = jnp.pad(x, ((0, frames - t_max), (0, 0), (0, more), (0, columns - u1)), constant_values=-jnp.inf)
    x = skewed(x, diagonals, rows, interpret)

    end_n, end_u = (jnp.pad(jnp.where(valid, y, -1), (0, more), constant_values=-1) for y in (t_b + u_b, u_b))
    column = lax.broadcasted_iota(jnp.int32, (groups * SUBLANES, columns), 1)
    end = jnp.where(column == end_u[:, None], end_n[:, None], -1)
    chunks = jnp.max(end_n.reshape(groups, SUBLANES), axis=1) // depth + 1
    *values, m, e = recursion(x, end, chunks, moves, depth, with_posteriors, interpret)

    m, e = m[:, 0], e[:, 0]  # beta at the node (0, 0)
    impossible = (end_n < 0) | (m == 0)
    e = jnp.where(impossible, 0, e)
    m = jnp.where(impossible, 1, m)
    cost = jnp.where(impossible, jnp.inf, 0 - (jnp.log(m) + e.astype(jnp.float32) * _LN2))[:batch]
    if not with_posteriors:
        return [cost]
    alpha, terms = values[:2], values[2:]
    inverse, exponent, last = (
        jnp.broadcast_to(y[:, None], column.shape) for y in (jnp.where(impossible, 0, 1 / m), e, end_n)
    )
    p = products(alpha, terms, inverse, exponent, last, frames, rows, interpret)
    return [cost, jnp.transpose(p[:t_max, :, :batch, :u1], (2, 0, 3, 1))]
