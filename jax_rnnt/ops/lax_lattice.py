"""The pure ``lax`` form of operation 2: the fallback on every platform without kernels, and its derivative.

The lattice is a scan over anti-diagonals ``n = t + u`` of *scaled numbers* ``m * 2**e`` (``m`` in [1, 2), ``e`` an
integer kept in a float). Sums of products of probabilities then never under- or overflow, and the rounding error of
one step does not depend on how small the probabilities have become, which a log-domain recursion cannot offer in
float32. The compiled kernels use the same arithmetic. All of it can be differentiated: exponents are constants.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.ops.labels import Moves
from jax_rnnt.ops.slices import at
from jax_rnnt.xla.sharding import match_manual_axes

# The exponent of zero: below that of any product of probabilities, and twice it is still a finite float32.
_ZERO_EXPONENT = -1e38
_LARGEST_EXPONENT = 1e36  # of one arc: what lies beyond is cut, to stay far from the exponent of zero

Scaled = tuple[Array, Array]  # (m, e): the value m * 2**e


def _bits(dtype: np.dtype) -> tuple[type, int, int]:
    """The integer type of the same width, the bits of the mantissa, and the exponent's bias."""
    info = jnp.finfo(dtype)
    return (jnp.int64 if info.bits == 64 else jnp.int32), info.nmant, 1 - int(info.minexp)


def _pow2(exponent: Array, highest: int = 0) -> Array:
    """``2.0**exponent`` for integral floats, exactly; exponents are clamped into the normal range up to ``highest``."""
    integer, mantissa, bias = _bits(exponent.dtype)
    power = jnp.clip(exponent, 1 - bias, highest).astype(integer) + bias
    return lax.bitcast_convert_type(power << mantissa, exponent.dtype)


def _normalised(m: Array, e: Array) -> Scaled:
    """The same value with ``m`` in [1, 2), or (0, ``_ZERO_EXPONENT``)."""
    integer, mantissa, bias = _bits(m.dtype)
    power = (lax.bitcast_convert_type(lax.stop_gradient(m), integer) >> mantissa) - bias
    shift = power.astype(m.dtype)
    zero = m == 0
    return m * jnp.where(zero, 0, _pow2(-shift, 1)), jnp.where(zero, _ZERO_EXPONENT, e + shift)


def _sum(terms: Sequence[Scaled]) -> Scaled:
    top = terms[0][1]
    for _, e in terms[1:]:
        top = jnp.maximum(top, e)
    total = terms[0][0] * _pow2(terms[0][1] - top)
    for m, e in terms[1:]:
        total = total + m * _pow2(e - top)
    return _normalised(total, top)


def _exp(x: Array) -> Scaled:
    """``exp(x)`` as a scaled number with ``m`` near 1; -inf gives zero."""
    high = float(np.float32(0.693145751953125))  # 16 bits: times an exponent below 2**8 it is exact in float32
    low = 1.42860682030941723212e-6
    zero = x == -jnp.inf
    safe = jnp.where(zero, 0, x)
    e = jnp.round(lax.stop_gradient(safe) * 1.4426950408889634)
    e = jnp.clip(e, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    m = jnp.exp(jnp.clip((safe - e * high) - e * low, -1, 1))
    return jnp.where(zero, 0, m), jnp.where(zero, _ZERO_EXPONENT, e)


def _shear(x: Array) -> Array:
    """[..., T, U+1] -> [T+U+1, ..., U+1]: row ``n`` holds diagonal ``n``, y[n, ..., u] = x[..., n - u, u]."""
    *batch, t, u1 = x.shape
    x = jnp.pad(jnp.swapaxes(x, -1, -2), [(0, 0)] * (len(batch) + 1) + [(0, u1 + 1)])
    x = x.reshape(*batch, u1 * (t + u1 + 1))[..., : u1 * (t + u1)].reshape(*batch, u1, t + u1)
    return jnp.moveaxis(x, -1, 0)


def _unshear(y: Array, t: int) -> Array:
    """The inverse of :func:`_shear`: [T+U+1, ..., U+1] -> [..., T, U+1]."""
    n, *batch, u1 = y.shape
    y = jnp.moveaxis(y, 0, -1).reshape(*batch, u1 * n)
    y = jnp.pad(y, [(0, 0)] * len(batch) + [(0, u1)]).reshape(*batch, u1, n + 1)
    return jnp.swapaxes(y[..., :t], -1, -2)


def _shift(x: Array, by: int) -> Array:
    """y[..., u] = x[..., u - by], zeros from outside."""
    size = x.shape[-1]
    by = max(-size, min(by, size))
    pad = (max(by, 0), max(-by, 0))
    x = x[..., : size - by] if by >= 0 else x[..., -by:]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [pad])


def _shift_scaled(x: Scaled, by: int) -> Scaled:
    # The exponents that come in from outside are 0; with m = 0 there, only their size matters, so make them low.
    m = _shift(x[0], by)
    return m, jnp.where(m == 0, _ZERO_EXPONENT, _shift(x[1], by))


def lattice(arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves, posteriors: bool) -> list[Array]:
    """``cost [...]`` of ``arcs [..., T, U+1, K]``, and the arc posteriors if they are asked for."""
    *batch, t_max, u1, _ = arcs.shape
    steps = [dt + du for dt, du in moves]
    span = max(steps)
    expand = tuple(range(1, len(batch) + 1))
    n = jnp.expand_dims(jnp.arange(t_max + u1, dtype=jnp.int32), (*expand, len(batch) + 1))
    u = jnp.expand_dims(jnp.arange(u1, dtype=jnp.int32), (0, *expand))
    t = n - u
    t_b, u_b = logit_lengths[None, ..., None], target_lengths[None, ..., None]
    valid_lengths = (t_b >= 0) & (t_b <= t_max) & (u_b >= 0) & (u_b < u1)
    inside = valid_lengths & (t >= 0) & (t < t_b) & (u <= u_b)  # [N, ..., U+1]

    probabilities, poisoned = [], ~at(at(valid_lengths, 0, 0), 0)
    for k, (dt, du) in enumerate(moves):
        lands_inside = (t + dt < t_b) & (u + du <= u_b)
        lands_at_end = (t + dt == t_b) & (u + du == u_b)
        x = jnp.where(inside & (lands_inside | lands_at_end), _shear(at(arcs, k)), -jnp.inf)
        poison = ~(x < jnp.inf)
        poisoned = poisoned | jnp.any(poison, axis=(0, -1))
        probabilities.append(_exp(jnp.where(poison, -jnp.inf, x)))

    start = n == 0
    at_end = (n == t_b + u_b) & (u == u_b) & valid_lengths
    like = probabilities[0][0]  # constants take their sharding from the data, and their manual axes too
    one = at(like, 0, 0)
    constants = jnp.zeros_like(one), jnp.full_like(one, _ZERO_EXPONENT), jnp.zeros_like(at(one, 0))
    _, zero_m, zero_e, nothing = match_manual_axes([like, *constants])
    zero = (zero_m, zero_e)

    def incoming(p: Scaled, step: int, du: int) -> Scaled:
        """The arc into (n, u) where it is the arc out of (n - step, u - du)."""
        step = min(step, t_max + u1)
        m, e = (jnp.concatenate([jnp.zeros_like(a[:step]), a[: t_max + u1 - step]]) for a in p)
        return _shift_scaled((m, e), du)

    into = [incoming(p, s, du) for p, s, (_, du) in zip(probabilities, steps, moves, strict=True)]
    first = (start & (u == 0) & jnp.ones_like(at_end)).astype(like.dtype)

    def forward(carry, inputs):
        (m_end, e_end), recent = carry
        arcs_in, initial, end = inputs
        terms = [(initial, jnp.where(initial == 0, _ZERO_EXPONENT, 0).astype(initial.dtype))]
        for (m, e), s, (_, du) in zip(arcs_in, steps, moves, strict=True):
            a, b = _shift_scaled(recent[s - 1], du)
            terms.append((a * m, b + e))
        alpha = _sum(terms)
        m_end = m_end + jnp.sum(jnp.where(end, alpha[0], 0), axis=-1)
        e_end = e_end + jnp.sum(jnp.where(end, alpha[1], 0), axis=-1)
        return ((m_end, e_end), (alpha, *recent[:-1])), alpha if posteriors else None

    carry = ((nothing, nothing), (zero,) * span)
    ((m_end, e_end), _), alphas = lax.scan(forward, carry, (into, first, at_end))

    impossible = m_end == 0
    log_likelihood = jnp.log(jnp.where(impossible, 1, m_end)) + e_end * float(np.log(2.0))
    cost = jnp.where(poisoned, jnp.nan, jnp.where(impossible, jnp.inf, -log_likelihood))
    if not posteriors:
        return [cost]

    inverse = (jnp.where(impossible, 0, 1 / jnp.where(impossible, 1, m_end)))[..., None]

    def backward(recent, inputs):
        alpha, arcs_out, end = inputs
        final = end.astype(like.dtype)
        terms = [(final, jnp.where(end, 0, _ZERO_EXPONENT).astype(like.dtype))]
        for (m, e), s, (_, du) in zip(arcs_out, steps, moves, strict=True):
            a, b = _shift_scaled(recent[s - 1], -du)
            terms.append((a * m, b + e))
        through = [alpha[0] * inverse * m * _pow2(alpha[1] + e - e_end[..., None], 8) for m, e in terms[1:]]
        return (_sum(terms), *recent[:-1]), through

    _, through = lax.scan(backward, (zero,) * span, (alphas, probabilities, at_end), reverse=True)
    posterior = jnp.stack([_unshear(p, t_max) for p in through], axis=-1)
    in_example = lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 3) < at(t_b, 0, 0)[..., None, None]
    in_example &= lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 2) <= at(u_b, 0, 0)[..., None, None]
    in_example |= ~at(valid_lengths, 0, 0)[..., None, None]
    return [cost, jnp.where(poisoned[..., None, None, None] & in_example, jnp.nan, posterior)]
