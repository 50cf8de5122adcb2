"""The norms of sums of rows, ``log sum_v exp(a[t, v] + b[u, v])``, by one matrix product of exponentials.

Each row is shifted by its maximum, its top, so no exponential overflows. The result is what remains of the norm without
the tops of the two rows: it is not rounded to the size of the logits. Where the maxima of two rows lie at entries far
apart, all products of the two rows are tiny, and some underflow. Each of the V products then loses less than the
smallest normal number. So a sum of at least ``V tiny / eps`` is as exact as its rounding. In float32 with V = 500 this
is a sum 65 nats below the maxima. If any sum is less, all are computed by the definition, one t after another.

No array has both T U and V entries, forward or backward. Of arrays with T V entries there is only ``a``: a loop makes
the exponentials for a part of the frames at a time, and the gradient of ``a`` is written in the place of ``a``.
"""

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.xla.primitive import Operation
from jax_rnnt.xla.sharding import match_manual_axes

_TILES = 16
"""Turns of a loop over the frames. Few turns cost little time; each of them needs a small part of the memory."""

Carry = TypeVar("Carry")


def tops(x: Array, usable: Array) -> Array:
    """The maximum of each row, or 0 where that is -inf or the row is not usable."""
    highest = lax.stop_gradient(jnp.max(x, axis=-1))
    return jnp.where(usable & (highest > -jnp.inf), highest, 0)


def _shifted(x: Array, usable: Array) -> Array:
    """``exp(x - top)``. A row that is not usable counts as one of zeros."""
    return jnp.exp(_relative(x, usable))


def _relative(x: Array, usable: Array) -> Array:
    return _used(x, usable) - tops(x, usable)[..., None]


def _used(x: Array, usable: Array) -> Array:
    return jnp.where(usable[..., None], x, 0)


def _product(subscripts: str, x: Array, y: Array) -> Array:
    return jnp.einsum(subscripts, x, y, precision=lax.Precision.HIGHEST)  # else a GPU rounds float32 to ten bits


def _inexact(width: int, log_sum: Array) -> Array:
    """Whether one of the sums of shifted exponentials is too small; -inf is a sum of nothing."""
    info = jnp.finfo(log_sum.dtype)
    least = math.log(width) + math.log(info.tiny) - math.log(info.eps)
    return jnp.any((log_sum < least) & (log_sum > -jnp.inf))


def _one_over(log_sums: Array) -> Array:
    """A factor of products that are all 0 where nothing is summed; there it is 1."""
    return jnp.exp(jnp.where(log_sums == -jnp.inf, 0, -log_sums))


def _row(x: Array, usable: Array, t: Array) -> tuple[Array, Array]:
    """``x[..., t, :]`` as ``[..., 1, V]``, and whether it is usable."""
    return lax.dynamic_index_in_dim(x, t, x.ndim - 2), lax.dynamic_index_in_dim(usable, t, usable.ndim - 1)


def _of_frame(x: Array, t: Array) -> Array:
    """``x[..., t, :]`` of ``[..., T, U+1]``."""
    return lax.dynamic_index_in_dim(x, t, x.ndim - 2, keepdims=False)


def _over_frames(a: Array, frame: Callable[[Array], Array]) -> Array:
    """``frame(t) [..., U+1]`` for every t, as ``[..., T, U+1]``."""
    return jnp.moveaxis(lax.map(frame, jnp.arange(a.shape[-2], dtype=jnp.int32)), 0, -2)


def _over_tiles(frames: int, tile: Callable[[Carry, Array, int], Carry], carry: Carry) -> Carry:
    """Calls ``carry = tile(carry, first frame, number of frames)`` until each frame was in one tile."""
    if not isinstance(frames, int):  # a symbol, in a program for any number of frames: a loop has tiles of one size
        return tile(carry, jnp.int32(0), frames)
    size = max(1, -(-frames // _TILES))
    whole, rest = divmod(frames, size)
    if whole:
        starts = size * jnp.arange(whole, dtype=jnp.int32)
        carry, _ = lax.scan(lambda carry, start: (tile(carry, start, size), None), carry, starts)
    return tile(carry, jnp.int32(whole * size), rest) if rest else carry


def _slice(x: Array, start: Array, size: int, axis: int = -2) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis % x.ndim)


def _updated(x: Array, update: Array, start: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(x, update, start, x.ndim - 2)


def _norms(a: Array, b: Array, use_a: Array, use_b: Array) -> list[Array]:
    exp_b = _shifted(b, use_b)

    def tile(total: Array, start: Array, size: int) -> Array:
        exp_a = _shifted(_slice(a, start, size), _slice(use_a, start, size, -1))
        return _updated(total, _product("...tv,...uv->...tu", exp_a, exp_b), start)

    # Made from the rows, so that a mesh with explicit axes divides the zeros as it divides the rows.
    zeros = jnp.zeros_like(a[..., :1]) + jnp.zeros_like(b[..., :1]).swapaxes(-1, -2)
    total = _over_tiles(a.shape[-2], tile, match_manual_axes([zeros, a, b])[0])
    # A sum of 0 has underflowed, unless a row holds nothing but -inf.
    empty = _is_empty(a, use_a)[..., :, None] | _is_empty(b, use_b)[..., None, :]
    inexact = jnp.any((total == 0) & ~empty) | _inexact(a.shape[-1], jnp.log(total))

    def exactly() -> Array:
        relative_b = _relative(b, use_b)

        def frame(t: Array) -> Array:
            x, usable = _relative(*_row(a, use_a, t)) + relative_b, jnp.ones_like(use_b)
            return jnp.log(jnp.sum(_shifted(x, usable), axis=-1)) + tops(x, usable)

        return _over_frames(a, frame)

    return [lax.cond(inexact, exactly, lambda: jnp.log(total))]


def _is_empty(x: Array, usable: Array) -> Array:
    return usable & (jnp.max(x, axis=-1) == -jnp.inf)


def _softmax(x: Array, norm: Array) -> Array:
    return jnp.exp(x - jnp.where(norm == -jnp.inf, 0, norm)[..., None])


def _tangent(d_a: Array, d_b: Array, a: Array, b: Array, use_a: Array, use_b: Array, norm: Array) -> list[Array]:
    """Of the norms, linear in the tangents of ``a`` and ``b``."""
    exp_a, exp_b = _shifted(a, use_a), _shifted(b, use_b)

    def exactly() -> Array:
        relative_b, used_d_b = _relative(b, use_b), _used(d_b, use_b)

        @jax.checkpoint
        def frame(t: Array) -> Array:
            softmax = _softmax(_relative(*_row(a, use_a, t)) + relative_b, _of_frame(norm, t))
            return jnp.sum(softmax * (_used(*_row(d_a, use_a, t)) + used_d_b), axis=-1)

        return _over_frames(a, frame)

    def by_product() -> Array:
        of_a = _product("...tv,...uv->...tu", exp_a * _used(d_a, use_a), exp_b)
        of_b = _product("...tv,...uv->...tu", exp_a, exp_b * _used(d_b, use_b))
        return (of_a + of_b) * _one_over(norm)

    return [lax.cond(_inexact(a.shape[-1], norm), exactly, by_product)]


@functools.partial(jax.jit, inline=True)  # without a jit around it, JAX would compile its loop in every call
def _gradient(cotangent: Array, a: Array, b: Array, use_a: Array, use_b: Array, norm: Array) -> tuple[Array, Array]:
    """Of ``a`` and ``b``; exactly 0 for an example whose cotangents are 0."""
    exp_b = _shifted(b, use_b)
    relative_b = _relative(b, use_b)
    inexact = _inexact(a.shape[-1], norm)

    def tile(carry: tuple[Array, Array], start: Array, size: int) -> tuple[Array, Array]:
        of_a, of_b = carry  # `of_a` still holds `a` where the loop has not been, so no other array is needed
        rows, use = _slice(of_a, start, size), _slice(use_a, start, size, -1)
        norms, cotangents = (_slice(x, start, size) for x in (norm, cotangent))

        def exactly() -> tuple[Array, Array]:
            @jax.checkpoint
            def frame(of_b: Array, t: Array) -> tuple[Array, Array]:
                softmax = _softmax(_relative(*_row(rows, use, t)) + relative_b, _of_frame(norms, t))
                each = softmax * _of_frame(cotangents, t)[..., None]
                return of_b + each, jnp.sum(each, axis=-2)

            of_b, of_frames = lax.scan(frame, _zeros_like(b, cotangent), jnp.arange(size, dtype=jnp.int32))
            return jnp.moveaxis(of_frames, 0, -2), of_b

        def by_product() -> tuple[Array, Array]:
            exp_a = _shifted(rows, use)
            weight = cotangents * _one_over(norms)
            of_rows = exp_a * _product("...tu,...uv->...tv", weight, exp_b)
            return of_rows, _product("...tu,...tv->...uv", weight, exp_a)

        of_rows, more = lax.cond(inexact, exactly, by_product)
        return _updated(of_a, of_rows, start), of_b + more

    start = match_manual_axes([a, cotangent])[0], _zeros_like(b, cotangent)
    of_a, of_b = _over_tiles(a.shape[-2], tile, start)
    return of_a, jnp.where(inexact, of_b, exp_b * of_b)


def _zeros_like(x: Array, *others: Array) -> Array:
    """Zeros like ``x`` that vary over the mesh axes of a ``shard_map`` that any of these arrays varies over."""
    return match_manual_axes([jnp.zeros_like(x), x, *others])[0]


def _norm_type(a, b, *_) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((*a.shape[:-1], b.shape[-2]), a.dtype)]


def _batch_ndim(a, *_) -> int:
    return a.ndim - 2


_forward = Operation("sum_norms", _norm_type, _norms, _batch_ndim, has_kernel=False)
_tangent_operation = Operation("sum_norms_tangent", _norm_type, _tangent, _batch_ndim, has_kernel=False)


def _transpose(cotangents, d_a, d_b, *primals, **_):
    (ct,) = cotangents
    return *((None, None) if ct is None else _gradient(ct, *primals)), *(None,) * 5


_tangent_operation.def_transpose(_transpose)


@jax.custom_jvp
def sum_norms(a: Array, b: Array, use_a: Array, use_b: Array) -> Array:
    """``[..., T, U+1]`` from ``a [..., T, V]`` and ``b [..., U+1, V]``, both float32 or both float64.

    They are the norms of the sums minus ``tops(a, use_a)`` and ``tops(b, use_b)``, which count as constants.

    In rows to use, ``use_a [..., T]`` and ``use_b [..., U+1]``, entries are finite or -inf. Others are not read: they
    count as zeros, and have a gradient of 0 where the cotangents of their norms are. A sum of nothing but -inf is -inf.
    """
    return _forward(a, b, use_a, use_b, implementation=None)[0]


@sum_norms.defjvp
def _jvp(primals, tangents):
    norm = sum_norms(*primals)
    return norm, _tangent_operation(*tangents[:2], *primals, norm, implementation=None)[0]
