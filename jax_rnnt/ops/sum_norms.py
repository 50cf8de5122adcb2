"""The log-norms of sums of rows, ``log sum_v exp(a[t, v] + b[u, v])``, by one matrix product of exponentials.

Each row is shifted by its maximum, so that no exponential overflows. Where the maxima of two rows lie at entries far
apart, all their products are tiny, and what underflows counts. It is less than the smallest normal number for each of
the V products, so a sum of at least ``V tiny / eps`` is as exact as its rounding: in float32 with V = 500 one that is
65 nats below the maxima. If any sum is less, all are made by the definition, one u at a time. No array has both T U and
V entries, forward or backward.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.xla.primitive import Operation
from jax_rnnt.xla.sharding import match_manual_axes


def _shifted(x: Array) -> tuple[Array, Array]:
    """``exp(x - top)``, and ``top [...]``: the maximum of each row, or 0 where that is -inf."""
    top = lax.stop_gradient(jnp.max(x, axis=-1))
    top = jnp.where(top == -jnp.inf, 0, top)
    return jnp.exp(x - top[..., None]), top


def _product(subscripts: str, x: Array, y: Array) -> Array:
    return jnp.einsum(subscripts, x, y, precision=lax.Precision.HIGHEST)  # else a GPU rounds float32 to ten bits


def _inexact(a: Array, log_sum: Array) -> Array:
    """Whether one of the sums of shifted exponentials is too small; -inf is a sum of nothing."""
    info = jnp.finfo(a.dtype)
    least = math.log(a.shape[-1]) + math.log(info.tiny) - math.log(info.eps)
    return jnp.any((log_sum < least) & (log_sum > -jnp.inf))


def _norms(a: Array, b: Array) -> list[Array]:
    """``[..., T, U+1]`` from ``a [..., T, V]`` and ``b [..., U+1, V]``, whose entries are finite or -inf."""
    exp_a, top_a = _shifted(a)
    exp_b, top_b = _shifted(b)
    total = _product("...tv,...uv->...tu", exp_a, exp_b)
    has_mass = jnp.any(exp_a > 0, axis=-1)[..., :, None] & jnp.any(exp_b > 0, axis=-1)[..., None, :]
    # A sum of 0 may be one that underflowed.
    inexact = jnp.any(has_mass & (total == 0)) | _inexact(a, jnp.log(total))

    def exactly() -> Array:
        return jnp.moveaxis(lax.map(lambda row: _norm_of(a + row[..., None, :]), jnp.moveaxis(b, -2, 0)), 0, -1)

    return [lax.cond(inexact, exactly, lambda: jnp.log(total) + top_a[..., :, None] + top_b[..., None, :])]


def _norm_of(x: Array) -> Array:
    exp, top = _shifted(x)
    return jnp.log(jnp.sum(exp, axis=-1)) + top


def _softmax(x: Array, norm: Array) -> Array:
    return jnp.exp(x - jnp.where(norm == -jnp.inf, 0, norm)[..., None])


def _scale(norm: Array, top_a: Array, top_b: Array) -> Array:
    """One over the sum of shifted exponentials; 0 where nothing is summed."""
    return jnp.exp(jnp.where(norm == -jnp.inf, -jnp.inf, top_a[..., :, None] + top_b[..., None, :] - norm))


def _tangent(d_a: Array, d_b: Array, a: Array, b: Array, norm: Array) -> list[Array]:
    """Of the norms, linear in the tangents of ``a`` and ``b``."""
    exp_a, top_a = _shifted(a)
    exp_b, top_b = _shifted(b)

    def exactly() -> Array:
        def column(rows: tuple[Array, Array, Array]) -> Array:
            row, d_row, norm_of_row = rows
            return jnp.sum(_softmax(a + row[..., None, :], norm_of_row) * (d_a + d_row[..., None, :]), axis=-1)

        each = jnp.moveaxis(b, -2, 0), jnp.moveaxis(d_b, -2, 0), jnp.moveaxis(norm, -1, 0)
        return jnp.moveaxis(lax.map(jax.checkpoint(column), each), 0, -1)

    def by_product() -> Array:
        of_a = _product("...tv,...uv->...tu", exp_a * d_a, exp_b)
        of_b = _product("...tv,...uv->...tu", exp_a, exp_b * d_b)
        return (of_a + of_b) * _scale(norm, top_a, top_b)

    inexact = _inexact(a, norm - top_a[..., :, None] - top_b[..., None, :])
    return [lax.cond(inexact, exactly, by_product)]


def _gradient(cotangent: Array, a: Array, b: Array, norm: Array) -> tuple[Array, Array]:
    """Of ``a`` and ``b``; exactly 0 for an example whose cotangents are 0."""
    exp_a, top_a = _shifted(a)
    exp_b, top_b = _shifted(b)

    def exactly() -> tuple[Array, Array]:
        @jax.checkpoint
        def column(of_a: Array, rows: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            row, norm_of_row, ct = rows
            each = _softmax(a + row[..., None, :], norm_of_row) * ct[..., None]
            return of_a + each, jnp.sum(each, axis=-2)

        rows = jnp.moveaxis(b, -2, 0), jnp.moveaxis(norm, -1, 0), jnp.moveaxis(cotangent, -1, 0)
        of_a, of_b = lax.scan(column, _zeros_like(a, cotangent), rows)
        return of_a, jnp.moveaxis(of_b, 0, -2)

    def by_product() -> tuple[Array, Array]:
        weight = cotangent * _scale(norm, top_a, top_b)
        of_a = exp_a * _product("...tu,...uv->...tv", weight, exp_b)
        return of_a, exp_b * _product("...tu,...tv->...uv", weight, exp_a)

    inexact = _inexact(a, norm - top_a[..., :, None] - top_b[..., None, :])
    return lax.cond(inexact, exactly, by_product)


def _zeros_like(x: Array, *others: Array) -> Array:
    """Varying over the mesh axes of a ``shard_map`` as all of them together."""
    return match_manual_axes([jnp.zeros_like(x), x, *others])[0]


def _norm_type(a, b) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((*a.shape[:-1], b.shape[-2]), a.dtype)]


_norm_operation = Operation("sum_norms", _norm_type, _norms, lambda a, b: a.ndim - 2, has_kernel=False)
_tangent_operation = Operation(
    "sum_norms_tangent", lambda a, b, *_: _norm_type(a, b), _tangent, lambda a, *_: a.ndim - 2, has_kernel=False
)


def _transpose(cotangents, d_a, d_b, a, b, norm, **_):
    (ct,) = cotangents
    return (None, None, None, None, None) if ct is None else (*_gradient(ct, a, b, norm), None, None, None)


_tangent_operation.def_transpose(_transpose)


@jax.custom_jvp
def sum_norms(a: Array, b: Array) -> Array:
    """``log sum_v exp(a[..., t, v] + b[..., u, v])``, ``[..., T, U+1]``, for entries that are finite or -inf."""
    return _norm_operation(a, b, implementation=None)[0]


@sum_norms.defjvp
def _jvp(primals, tangents):
    norm = sum_norms(*primals)
    return norm, _tangent_operation(*tangents, *primals, norm, implementation=None)[0]
