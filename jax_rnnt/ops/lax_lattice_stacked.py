"""The ``lax`` form of operation 2 for TPUs, and for short moves on GPUs: few operations for each diagonal.

A TPU takes some time for every operation, however small, and reads slowly along the minor dimension of an array. So
both recursions are one: beta is the alpha of the mirrored lattice, and the two stand side by side on an axis of their
own, in arrays whose major dimension is the diagonal. All posteriors are products of whole arrays, after the scan.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.ops import lax_lattice
from jax_rnnt.ops.labels import Moves
from jax_rnnt.ops.lax_lattice import shift
from jax_rnnt.ops.scaled_numbers import ZERO_EXPONENT, pow2, sum_of, times
from jax_rnnt.xla.layouts import first_is_major
from jax_rnnt.xla.sharding import match_manual_axes


def _moved(x: Array, by: int) -> Array:
    """y[n] = x[n - by]; places without a source get 0."""
    size = min(abs(by), x.shape[0])  # with a symbolic size, other comparisons may be undecided
    none = jnp.zeros_like(x[:size])
    return jnp.concatenate([none, x[: x.shape[0] - size]] if by > 0 else [x[size:], none])


def _skewed(x: Array, direction: int) -> Array:
    """y[n, ..., u] = x[n - direction * u, ..., u]; places without a source get 0.

    One move along the major dimension for each bit of u. A reshape would leave the diagonals in the minor dimension.
    """
    u = np.arange(x.shape[-1])
    for bit in range((x.shape[-1] - 1).bit_length()):
        here = jnp.expand_dims(jnp.asarray((u >> bit) % 2 == 1), tuple(range(x.ndim - 1)))
        x = jnp.where(here, _moved(x, direction << bit), x)
    return x


def shear(x: Array) -> Array:
    """As :func:`lax_lattice.shear`."""
    u1 = x.shape[-1]
    if not isinstance(u1, int):  # a symbol has no bits
        return lax_lattice.shear(x)
    x = jnp.moveaxis(x, -2, 0)
    return _skewed(jnp.pad(x, [(0, u1)] + [(0, 0)] * (x.ndim - 1)), 1)


def unshear(y: Array, t: int) -> Array:
    """The inverse of :func:`shear`."""
    if not isinstance(y.shape[-1], int):
        return lax_lattice.unshear(y, t)
    return jnp.moveaxis(_skewed(y, -1)[:t], 0, -2)


def lattice(arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves, posteriors: bool) -> list[Array]:
    """As :func:`lax_lattice.lattice`."""
    *_, t_max, u1, _ = arcs.shape
    steps = [min(dt + du, t_max + u1) for dt, du in moves]
    diagonals = lax_lattice.by_diagonal(arcs, logit_lengths, target_lengths, moves, shear)
    scaled = lax_lattice.scaled_arcs(diagonals.arcs, logit_lengths, target_lengths)
    arcs_out = [tuple(x[:, k] for x in scaled) for k in range(len(moves))]  # each m, high, low, excess: [N, ..., U+1]

    def mirrored(x: Array) -> Array:
        return jnp.flip(x, (0, -1))

    def both(of_alpha: Array, of_beta: Array) -> Array:
        return first_is_major(jnp.stack([of_alpha, mirrored(of_beta)] if posteriors else [mirrored(of_beta)], axis=1))

    first = (diagonals.n == 0) & (diagonals.u == 0) & jnp.ones_like(diagonals.at_end)
    here = both(first, diagonals.at_end)
    arcs_in = [  # of each node, in the lattice and in its mirror: [N, 2, ..., U+1]
        tuple(both(shift(_moved(x, step), du), x) for x in out)
        for out, step, (_, du) in zip(arcs_out, steps, moves, strict=True)
    ]
    like = arcs_in[0][0][0]  # constants take their sharding and their manual axes from the data
    _, nil, lowest = match_manual_axes([like, jnp.zeros_like(like), jnp.full_like(like, ZERO_EXPONENT)])
    most = jnp.finfo(like.dtype).max

    def diagonal(recent, inputs):
        arcs, here = inputs
        terms = [(here.astype(like.dtype), jnp.where(here, 0, ZERO_EXPONENT).astype(like.dtype), jnp.zeros_like(like))]
        beyond = [jnp.zeros_like(like)]
        for (*arc, excess_of_arc), step, (_, du) in zip(arcs, steps, moves, strict=True):
            *value, excess = (shift(x, du) for x in recent[step - 1])
            terms.append(times(value, arc))
            beyond.append(jnp.clip(excess + excess_of_arc, -most, most))
        now, below = sum_of(terms)
        excess = jnp.full_like(like, -most)
        for x, far in zip(beyond, below, strict=True):
            excess = jnp.maximum(excess, jnp.where(far == 0, x, -most))  # of the terms of the largest exponent
        # Else the layout of a diagonal would follow from that of the costs.
        m, high, low, excess = (first_is_major(x) for x in (*now, excess))
        return ((m, high, low, excess), *recent[:-1]), (m, high, low) if posteriors else None

    recent, values = lax.scan(diagonal, ((nil, lowest, nil, nil),) * max(steps), (arcs_in, here))
    m_all, high_all, low_all, excess_all = (x[-1, ..., -1] for x in recent[0])  # beta at (0, 0)
    cost = lax_lattice.cost_of((m_all, high_all, low_all), excess_all, diagonals.poisoned)
    if not posteriors:
        return [cost]

    alphas, betas = [x[:, 0] for x in values], [mirrored(x[:, 1]) for x in values]
    impossible = m_all == 0
    inverse = jnp.where(impossible, 0, 1 / jnp.where(impossible, 1, m_all))[None, ..., None]
    through = []
    for (*arc, _), step, (_, du) in zip(arcs_out, steps, moves, strict=True):
        ahead = [shift(_moved(x, -step), -du) for x in betas]
        m, high, low = times(alphas, times(arc, ahead))
        p = m * inverse * pow2((high - high_all[None, ..., None]) + (low - low_all[None, ..., None]), 8)
        through.append(p - lax.stop_gradient(jnp.maximum(p - 1, 0)))  # rounding may give more than 1
    by_arc = jnp.stack(through, axis=1)
    return [
        cost,
        lax_lattice.posteriors_of(by_arc, logit_lengths, target_lengths, diagonals, lambda x: unshear(x, t_max)),
    ]
