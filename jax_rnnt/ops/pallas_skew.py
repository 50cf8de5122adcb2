"""Pallas kernels for TPUs that turn rows of frames into rows of anti-diagonals, and back.

In arrays ``[rows, K, B, C]`` columns u are lanes and utterances are sublanes, so diagonals need lane u to come from u
rows away. The kernels move whole rows and choose lanes: for each bit of u, the lanes that have it take what is 2**bit
rows away. No lane moves, so a bit costs a load, a select and a store. XLA's own way (a pad and a reshape of the whole
array) compiles for most of a minute at 32 utterances of 1500 frames and 300 labels.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jax_rnnt.xla.pallas import result

LANES = 128
SUBLANES = 8  # utterances of a block
_TURN = 8  # rows that a turn of a loop moves


def block_rows(num_positions: int) -> int:
    """The rows of a block: a power of two, and at least as many as the lanes of a block are moved apart."""
    return min(LANES, max(16, 1 << (num_positions - 1).bit_length()))


def _pull_apart(window, direction: int) -> None:
    """Row r of the window becomes, in lane c, row ``r - direction * c``, in that half for which these rows exist."""
    rows = window.shape[0]
    lane = lax.broadcasted_iota(jnp.int32, (1, SUBLANES, LANES), 2)
    by, lost = rows // 4, 0
    while by:
        lost += by  # rows at one end are of no further use
        away = (lane & by) != 0

        def turn(i, carry, by=by, away=away):
            # Each turn reads rows that no turn has overwritten yet: it goes towards those that are taken.
            at = rows - (i + 1) * _TURN if direction == 1 else i * _TURN
            here, there = (window[pl.ds(r, _TURN)] for r in (at, at - direction * by))
            window[pl.ds(at, _TURN)] = jnp.where(away, there, here)
            return carry

        lax.fori_loop(np.int32(0), np.int32(pl.cdiv(rows - lost, _TURN)), turn, None)
        by //= 2


def _skew_kernel(before, these, out, window, *, blocks: int):
    rows = out.shape[0]
    block = pl.program_id(3) - pl.program_id(2)  # that holds frames for the first lane
    window[:rows] = jnp.where((block > 0) & (block <= blocks), before[:, 0], -jnp.inf)
    window[rows:] = jnp.where((block >= 0) & (block < blocks), these[:, 0], -jnp.inf)
    _pull_apart(window, 1)
    out[:, 0] = window[rows:]


def skewed(x: Array, diagonals: int, rows: int, interpret) -> Array:
    """[T, K, B, C] -> [N, K, B, C]: y[n, k, b, u] = x[n - u, k, b, u], and -inf where there is no such row.

    T and N are multiples of ``rows``, B of 8 and C of 128.
    """
    frames, k, batch, size = x.shape
    blocks = frames // rows

    def taken(back: int):
        def index(g, k, c, j):
            return jnp.clip(j - c - back, 0, blocks - 1), k, g, c

        return pl.BlockSpec((rows, 1, SUBLANES, LANES), index)

    return pl.pallas_call(
        functools.partial(_skew_kernel, blocks=blocks),
        grid=(batch // SUBLANES, k, size // LANES, diagonals // rows),
        in_specs=[taken(1), taken(0)],
        out_specs=pl.BlockSpec((rows, 1, SUBLANES, LANES), lambda g, k, c, j: (j, k, g, c)),
        scratch_shapes=[pltpu.VMEM((2 * rows, SUBLANES, LANES), x.dtype)],
        out_shape=result((diagonals, k, batch, size), x.dtype, x),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 4),
        interpret=interpret,
        name="rnnt_lattice_skew",
    )(x, x)


def _product_kernel(*refs, blocks: int):
    """The posteriors of two blocks of diagonals, from alpha and beta's terms, and from them a block of frames."""
    *values, inverse, exponent, last, out, window = refs
    rows = out.shape[0]
    first = pl.program_id(3) + pl.program_id(2)  # block of diagonals
    for half in range(2):
        block = jnp.minimum(first + half, blocks - 1)
        alpha_m, alpha_e, beta_m, beta_e = values[4 * half : 4 * half + 4]

        def turn(i, carry, half=half, block=block, refs=(alpha_m, alpha_e, beta_m, beta_e)):
            at = i * _TURN
            a_m, a_e, b_m, b_e = (x[pl.ds(at, _TURN)] for x in refs)
            n = block * rows + at + lax.broadcasted_iota(jnp.int32, (_TURN, SUBLANES, LANES), 0)
            power = jnp.clip(a_e + b_e[:, 0] - exponent[...][None], -127, 64)  # below the range of float32: 0
            scale = lax.bitcast_convert_type((power + 127) << 23, jnp.float32)
            # Beyond the utterances' last chunk of diagonals there is what was in memory before.
            through = jnp.where(n < last[...][None], a_m * b_m[:, 0] * inverse[...][None] * scale, 0)
            window[pl.ds(half * rows + at, _TURN)] = jnp.minimum(through, 1)  # rounding may give more than 1
            return carry

        lax.fori_loop(np.int32(0), np.int32(rows // _TURN), turn, None)
    _pull_apart(window, -1)
    out[:, 0] = window[:rows]


def products(alpha, terms, inverse, exponent, last, frames: int, rows: int, interpret) -> Array:
    """``[T, K, B, C]`` of diagonals: alpha ``(m, e)`` of the nodes, and beta's terms ``(m, e)`` of the arcs.

    ``inverse [B, C]`` and ``exponent [B, C]`` divide by the sum of all paths. Nodes of diagonals from ``last [B, C]``
    on get zeros.
    """
    diagonals, k, batch, size = terms[0].shape
    blocks = diagonals // rows

    def block_of(ahead: int, c, j):
        return jnp.minimum(j + c + ahead, blocks - 1)

    def nodes(ahead: int):
        return pl.BlockSpec((rows, SUBLANES, LANES), lambda g, k, c, j: (block_of(ahead, c, j), g, c))

    def arcs(ahead: int):
        return pl.BlockSpec((rows, 1, SUBLANES, LANES), lambda g, k, c, j: (block_of(ahead, c, j), k, g, c))

    example = pl.BlockSpec((SUBLANES, LANES), lambda g, k, c, j: (g, c))
    values = [spec for ahead in range(2) for spec in (nodes(ahead), nodes(ahead), arcs(ahead), arcs(ahead))]
    return pl.pallas_call(
        functools.partial(_product_kernel, blocks=blocks),
        grid=(batch // SUBLANES, k, size // LANES, frames // rows),
        in_specs=[*values, example, example, example],
        out_specs=pl.BlockSpec((rows, 1, SUBLANES, LANES), lambda g, k, c, j: (j, k, g, c)),
        scratch_shapes=[pltpu.VMEM((2 * rows, SUBLANES, LANES), jnp.float32)],
        out_shape=result((frames, k, batch, size), jnp.float32, inverse),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 4),
        interpret=interpret,
        name="rnnt_lattice_posteriors",
    )(*alpha, *terms, *alpha, *terms, inverse, exponent, last)
