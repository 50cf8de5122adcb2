"""The recursions over anti-diagonals as a Pallas kernel for TPUs: alpha and beta of a lattice.

Columns u are lanes, eight utterances are sublanes, and the anti-diagonal ``n = t + u`` is a leading dimension, so a
diagonal of 128 columns is one vector register. Chunks of diagonals are streamed. In one step of the grid alpha goes up
through a chunk and beta goes down through another one: two chains of dependent instructions, each of which fills the
waits of the other.

A value is ``m * 2**e``, with m in float32 and e in int32. An arc is split, off the chain, into ``p * 2**i`` with p near
1. On the chain there are integer sums, maxima and shifts, products and sums of floats, and the rotation by a column:
neither exp nor log.
"""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jax_rnnt.ops.labels import Moves
from jax_rnnt.ops.pallas_skew import LANES, SUBLANES
from jax_rnnt.xla.pallas import result

ARC_RANGE = 2**15  # exponents of an arc are at most this: then the subtraction of whole * ln 2 is exact
PATH_RANGE = 2**27  # and the exponents of a path's arcs have a sum below this, so that int32 holds all sums
_ZERO_EXPONENT = -(2**28)  # of the value 0 and of an arc of -inf
_NORMALISE = 8  # diagonals after which m is in [1, 2) again; meanwhile it changes by a factor of 1.42 K each
_DEPTHS = (16, 8)  # diagonals of a chunk
_MEMORY = 12 * 2**20  # bytes for blocks, of the 16 MiB that a kernel gets; spilled registers need some, too

_LOG2E = float(np.log2(np.e))
_LN2_HIGH = 0.693359375  # 9 bits
_LN2_LOW = -2.12194440054690583e-4

Scaled = tuple[Array, Array]  # (m, e)


def memory(num_positions: int, moves: Moves, depth: int) -> int:
    """Bytes of the blocks in fast memory; each is there twice, so that copies run beside the arithmetic."""
    columns = pl.cdiv(num_positions, LANES) * LANES
    rows = 2 * depth * (4 * len(moves) + 2) + (len(moves) + 4) * max(dt + du for dt, du in moves)
    return 4 * SUBLANES * columns * rows


def chunk_depth(num_positions: int, moves: Moves) -> int | None:
    """The diagonals of a chunk, or None if not even short chunks fit into fast memory."""
    return next((d for d in _DEPTHS if memory(num_positions, moves, d) <= _MEMORY), None)


def memory_limits(num_positions: int, moves: Moves) -> tuple[int, int]:
    """How many bytes of blocks there would be at least, and how many there may be."""
    return memory(num_positions, moves, _DEPTHS[-1]), _MEMORY


def _split(x: Array) -> Scaled:
    """exp(x) as ``(p, i)``: p * 2**i with p in [0.70, 1.42]."""
    closed = x == -jnp.inf
    x = jnp.where(closed, 0, x)
    whole = jnp.floor(x * _LOG2E + 0.5)  # a compiler may drop the sum and difference of a large number
    p = jnp.exp((x - whole * _LN2_HIGH) - whole * _LN2_LOW)
    return jnp.where(closed, 0, p), jnp.where(closed, _ZERO_EXPONENT, whole.astype(jnp.int32))


def _normalised(m: Array, e: Array) -> Scaled:
    bits = lax.bitcast_convert_type(m, jnp.int32)
    power = (bits >> 23) - 127
    zero = m == 0
    scaled = lax.bitcast_convert_type(bits - (power << 23), jnp.float32)
    return jnp.where(zero, 0, scaled), jnp.where(zero, _ZERO_EXPONENT, e + power)


def _sum(terms: Sequence[Scaled], unit: Array) -> Scaled:
    """The sum of the terms; 1 where ``unit``."""
    top = functools.reduce(jnp.maximum, [e for _, e in terms], jnp.int32(_ZERO_EXPONENT))
    low = top - 127
    parts = []
    for m, e in terms:  # 2**(e - top), or 0 below 2**-126
        parts.append(m * lax.bitcast_convert_type(jnp.maximum(e - low, 0) << 23, jnp.float32))
    return jnp.where(unit, 1, functools.reduce(jnp.add, parts)), jnp.where(unit, 0, top)


def _rolled(x: Array, by: int) -> Array:
    # What comes around the end meets an arc of -inf.
    return x if by % x.shape[-1] == 0 else pltpu.roll(x, by % x.shape[-1], 1)


class _Chain:
    """One direction of the recursion, unrolled over the diagonals of a chunk."""

    def __init__(self, past: list[Scaled], moves: Moves, direction: int):
        self._past = past  # the values of the last diagonals, the latest one first
        self._moves = moves
        self._direction = direction

    def terms(self, arcs: Sequence[Scaled]) -> list[Scaled]:
        """The products of the moves' arcs with the values at their other ends."""
        rolled = {}  # one rotation, however many moves take the same diagonal from there
        products = []
        for (p, i), (dt, du) in zip(arcs, self._moves, strict=True):
            if (dt + du, du) not in rolled:
                rolled[dt + du, du] = [_rolled(x, self._direction * du) for x in self._past[dt + du - 1]]
            m, e = rolled[dt + du, du]
            products.append((m * p, e + i))
        return products

    def push(self, value: Scaled) -> None:
        self._past = [value, *self._past[:-1]]

    def past(self) -> list[Scaled]:
        return self._past


def _needs_normalising(n: int, span: int) -> bool:
    """True for ``span`` diagonals of every few, so that no path jumps over all of them."""
    return n % _NORMALISE >= _NORMALISE - span


def _kernel(chunks, *refs, moves: Moves, depth: int, both: bool):
    """With ``both``, alpha and all terms of beta; else only beta at the first diagonal."""
    if both:
        up, down, end, alpha_m, alpha_e, term_m, term_e, start_m, start_e, keep_m, keep_e, keep_x = refs
    else:
        down, end, start_m, start_e, keep_m, keep_e = refs
    j = pl.program_id(1)
    count = chunks[pl.program_id(0)]
    span = max(dt + du for dt, du in moves)

    @pl.when(j == 0)
    def _():
        keep_m[...] = jnp.zeros_like(keep_m)
        keep_e[...] = jnp.full_like(keep_e, _ZERO_EXPONENT)
        if both:
            keep_x[...] = jnp.full_like(keep_x, -jnp.inf)

    @pl.when(j < count)
    def _():
        def kept(d: int) -> list[Scaled]:
            return [(keep_m[d, s], keep_e[d, s]) for s in range(span)]

        chains = [_Chain(kept(0), moves, -1), *([_Chain(kept(1), moves, 1)] if both else [])]
        beta, alpha = chains[0], chains[-1]
        is_first = lax.broadcasted_iota(jnp.int32, end.shape, 1) == 0

        def incoming(row: int, k: int) -> Array:
            """Arc k of the diagonal from which it comes to this row, in the column to which it comes."""
            dt, du = moves[k]
            before = row - dt - du
            return _rolled(up[before, k] if before >= 0 else keep_x[-1 - before, k], du)

        for step in range(depth):
            row = depth - 1 - step
            here = (count - 1 - j) * depth + row
            terms = beta.terms([_split(down[row, k]) for k in range(len(moves))])
            m, e = _sum(terms, end[...] == here)
            beta.push(_normalised(m, e) if _needs_normalising(row, span) else (m, e))
            if not both:
                continue
            for k, (m, e) in enumerate(terms):
                term_m[row, k], term_e[row, k] = m, e
            arcs = [_split(incoming(step, k)) for k in range(len(moves))]
            m, e = _sum(alpha.terms(arcs), is_first & (j * depth + step == 0))
            alpha.push(_normalised(m, e) if _needs_normalising(step, span) else (m, e))
            alpha_m[step], alpha_e[step] = alpha.past()[0]

        for d, chain in enumerate(chains):
            for s in range(span):
                keep_m[d, s], keep_e[d, s] = chain.past()[s]
        if both:
            for s in reversed(range(span)):
                keep_x[s] = up[depth - 1 - s] if s < depth else keep_x[s - depth]

        @pl.when(j == count - 1)
        def _():
            start_m[...], start_e[...] = _normalised(*beta.past()[0])


def recursion(x: Array, end: Array, chunks: Array, moves: Moves, depth: int, both: bool, interpret) -> list[Array]:
    """Values of the arcs ``x [N, K, B, C]``, whose end is the node of diagonal ``end [B, C]`` (-1: no end here).

    Returns, with ``both``, alpha ``(m, e)`` ``[N, B, C]`` and for each arc the product of the arc and beta behind it
    ``(m, e)`` ``[N, K, B, C]``; then always beta ``(m, e)`` ``[B, C]`` at the first diagonal. Chunks of diagonals
    beyond a group's ``chunks [B / 8]`` are neither read nor written; nor is beta, where there are no chunks.
    """
    diagonals, k, batch, size = x.shape
    span = max(dt + du for dt, du in moves)

    def up(g, j, count):
        return jnp.minimum(j, jnp.maximum(count[g] - 1, 0))

    def down(g, j, count):
        return jnp.maximum(count[g] - 1 - j, 0)

    def nodes(index):
        return pl.BlockSpec((depth, SUBLANES, size), lambda g, j, count: (index(g, j, count), g, 0))

    def arcs(index):
        return pl.BlockSpec((depth, k, SUBLANES, size), lambda g, j, count: (index(g, j, count), 0, g, 0))

    example = pl.BlockSpec((SUBLANES, size), lambda g, j, count: (g, 0))
    dtypes = (jnp.float32, jnp.int32)
    values: list[tuple[tuple[int, ...], pl.BlockSpec]] = [((batch, size), example)]
    scratch = [pltpu.VMEM((2 if both else 1, span, SUBLANES, size), t) for t in dtypes]
    if both:
        values = [((diagonals, batch, size), nodes(up)), ((diagonals, k, batch, size), arcs(down)), *values]
        scratch.append(pltpu.VMEM((span, k, SUBLANES, size), jnp.float32))
    return pl.pallas_call(
        functools.partial(_kernel, moves=moves, depth=depth, both=both),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch // SUBLANES, diagonals // depth),
            in_specs=[*([arcs(up)] if both else []), arcs(down), example],
            out_specs=[spec for _, spec in values for _ in dtypes],
            scratch_shapes=scratch,
        ),
        out_shape=[result(shape, t, x) for shape, _ in values for t in dtypes],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="rnnt_lattice",
    )(chunks, *([x, x] if both else [x]), end)
