"""The pure ``lax`` form of operation 2: the fallback on every platform without kernels, and its derivative.

The lattice is a scan over anti-diagonals ``n = t + u`` of *scaled numbers* ``m * 2**e`` (``m`` in [1, 2), ``e`` an
integer stored as a float). So sums of products of probabilities never underflow or overflow. The rounding error of a
step does not depend on how small the probabilities are; in float32 a recursion in the log domain cannot do that. The
compiled kernels use the same arithmetic. Derivatives treat the exponents as constants.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.ops.labels import Moves
from jax_rnnt.xla.sharding import match_manual_axes

# An exponent is a pair of floats whose sum is an integer below _EXPONENT_RANGE. One float32 cannot count that far, and
# paths through masks of -1e9 must keep the digits that distinguish them.
_CARRY = 2.0**22  # the first float is a multiple of this, the second at most half of it
_ZERO_EXPONENT = -(2.0**44)  # the exponent of zero: below that of any product, and a multiple of _CARRY
_EXPONENT_RANGE = 2.0**40  # as kExponentRange in cpp/lattice_rules.h

_LN2 = float(np.log(2.0))
_LOG2E = float(np.log2(np.e))

Scaled = tuple[Array, Array, Array]  # (m, high, low): the value m * 2**(high + low)


def _bits(dtype: np.dtype) -> tuple[type, int, int]:
    """The integer type of the same width, the bits of the mantissa, and the exponent's bias."""
    info = jnp.finfo(dtype)
    return (jnp.int64 if info.bits == 64 else jnp.int32), info.nmant, 1 - int(info.minexp)


def _pow2(exponent: Array, highest: int = 0) -> Array:
    """``2.0**exponent`` for integral floats, exactly; exponents are clamped into the normal range up to ``highest``."""
    integer, mantissa, bias = _bits(exponent.dtype)
    power = jnp.clip(exponent, 1 - bias, highest).astype(integer) + bias
    return lax.bitcast_convert_type(power << mantissa, exponent.dtype)


def _normalised(m: Array, high: Array, low: Array) -> Scaled:
    """The same value with ``m`` in [1, 2) and ``low`` at most ``_CARRY / 2``, or (0, ``_ZERO_EXPONENT``, 0)."""
    integer, mantissa, bias = _bits(m.dtype)
    power = (lax.bitcast_convert_type(lax.stop_gradient(m), integer) >> mantissa) - bias
    shift = power.astype(m.dtype)
    zero = m == 0
    low = low + shift
    carry = jnp.round(low / _CARRY) * _CARRY
    return (
        m * jnp.where(zero, 0, _pow2(-shift, 1)),
        jnp.where(zero, _ZERO_EXPONENT, high + carry),
        jnp.where(zero, 0, low - carry),
    )


def _sum(terms: Scaled) -> tuple[Scaled, Array]:
    """The sum over the first axis, and by how much the exponent of each term is below the largest one."""
    m, high, low = terms
    carry = jnp.round(low / _CARRY) * _CARRY
    high, low = high + carry, low - carry
    top_high = jnp.max(high, axis=0)
    top_low = jnp.max(jnp.where(high == top_high[None], low, -_CARRY), axis=0)
    below = (high - top_high[None]) + (low - top_low[None])
    return _normalised(jnp.sum(m * _pow2(below), axis=0), top_high, top_low), below


def _times(a: Scaled, b: Scaled) -> Scaled:
    m = a[0] * b[0]
    zero = m == 0
    return m, jnp.where(zero, _ZERO_EXPONENT, a[1] + b[1]), jnp.where(zero, 0, a[2] + b[2])


def _exp(x: Array, zero: Array) -> Scaled:
    """``exp(x)`` as a scaled number with ``m`` near 1; or zero."""
    whole = jnp.round(lax.stop_gradient(x) * _LOG2E)
    # Products of two numbers of half the digits are exact, so x - whole * ln 2 loses none.
    integer, mantissa, _ = _bits(x.dtype)
    digits = lax.bitcast_convert_type(whole, integer) >> (mantissa // 2 + 1)
    coarse = lax.bitcast_convert_type(digits << (mantissa // 2 + 1), x.dtype)
    rest = x
    for part in _halves(_LN2, x.dtype):
        rest = (rest - coarse * part) - (whole - coarse) * part
    # Beyond 2**24 float32 has only some of the integers, so more than one power of two may be left of x.
    step = jnp.round(lax.stop_gradient(rest) * _LOG2E)
    m = jnp.exp(jnp.clip((rest - step * 0.693145751953125) - step * 1.42860682030941723212e-6, -1, 1))
    high = jnp.round(whole / _CARRY) * _CARRY
    return jnp.where(zero, 0, m), jnp.where(zero, _ZERO_EXPONENT, high), jnp.where(zero, 0, (whole - high) + step)


def _halves(x: float, dtype: np.dtype) -> list[float]:
    """``x`` as a sum of three numbers. The first two have half the digits of ``dtype``."""
    parts = []
    digits = (int(jnp.finfo(dtype).nmant) + 1) // 2
    for _ in range(2):
        unit = 2.0 ** (np.floor(np.log2(abs(x))) + 1 - digits)
        parts.append(float(np.trunc(x / unit) * unit))
        x -= parts[-1]
    return [*parts, float(x)]


def shear(x: Array) -> Array:
    """[..., T, U+1] -> [T+U+1, ..., U+1]: row ``n`` holds diagonal ``n``, y[n, ..., u] = x[..., n - u, u]."""
    *batch, t, u1 = x.shape
    x = jnp.pad(jnp.swapaxes(x, -1, -2), [(0, 0)] * (len(batch) + 1) + [(0, u1 + 1)])
    x = x.reshape(*batch, u1 * (t + u1 + 1))[..., : u1 * (t + u1)].reshape(*batch, u1, t + u1)
    return jnp.moveaxis(x, -1, 0)


def unshear(y: Array, t: int) -> Array:
    """The inverse of :func:`shear`: [T+U+1, ..., U+1] -> [..., T, U+1]."""
    n, *batch, u1 = y.shape
    y = jnp.moveaxis(y, 0, -1).reshape(*batch, u1 * n)
    y = jnp.pad(y, [(0, 0)] * len(batch) + [(0, u1)]).reshape(*batch, u1, n + 1)
    return jnp.swapaxes(y[..., :t], -1, -2)


def shift(x: Array, by: int, outside: float = 0) -> Array:
    """y[..., u] = x[..., u - by]; places without a source get ``outside``."""
    size = x.shape[-1]
    by = max(-size, min(by, size))
    pad = (max(by, 0), max(-by, 0))
    x = x[..., : size - by] if by >= 0 else x[..., -by:]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [pad], constant_values=outside)


class Diagonals(NamedTuple):
    """A batch of lattices, sheared: ``[N, ..., U+1]`` with N = T + U + 1, and arcs ``[N, K, ..., U+1]``.

    All arcs of a node stand in one array, so that the program is hardly larger for many moves than for two.
    """

    n: Array  # [N, ..., 1]
    u: Array  # [1, ..., U+1]
    arcs: Array  # [N, K, ..., U+1]; -inf where the arc leaves the lattice, and where it is NaN or +inf
    at_end: Array  # whether this is the node (T_b, U_b)
    valid_lengths: Array  # [1, ..., 1]
    poisoned: Array  # [...]: the result is NaN


def by_diagonal(arcs: Array, logit_lengths: Array, target_lengths: Array, moves: Moves) -> Diagonals:
    *batch, t_max, u1, _ = arcs.shape
    expand = tuple(range(1, len(batch) + 1))
    n = jnp.expand_dims(jnp.arange(t_max + u1, dtype=jnp.int32), (*expand, len(batch) + 1))
    u = jnp.expand_dims(jnp.arange(u1, dtype=jnp.int32), (0, *expand))
    t = n - u
    t_b, u_b = logit_lengths[None, ..., None], target_lengths[None, ..., None]
    valid_lengths = (t_b >= 0) & (t_b <= t_max) & (u_b >= 0) & (u_b < u1)
    inside = valid_lengths & (t >= 0) & (t < t_b) & (u <= u_b)  # [N, ..., U+1]
    ends = []
    for dt, du in moves:
        lands_inside = (t + dt < t_b) & (u + du <= u_b)
        lands_at_end = (t + dt == t_b) & (u + du == u_b)
        ends.append(inside & (lands_inside | lands_at_end))
    x = jnp.where(jnp.stack(ends, axis=1), shear(jnp.moveaxis(arcs, -1, 0)), -jnp.inf)
    poison = ~(x < jnp.inf)
    poisoned = ~valid_lengths[0][..., 0] | jnp.any(poison, axis=(0, 1, -1))
    opened = jnp.where(poison, -jnp.inf, x)
    at_end = (n == t_b + u_b) & (u == u_b) & valid_lengths
    return Diagonals(n, u, opened, at_end, valid_lengths, poisoned)


def lattice(arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves, posteriors: bool) -> list[Array]:
    """``cost [...]`` of ``arcs [..., T, U+1, K]``, and the arc posteriors if they are asked for."""
    *_, t_max, u1, _ = arcs.shape
    steps = [dt + du for dt, du in moves]
    span = max(steps)
    n, u, opened, at_end, valid_lengths, poisoned = by_diagonal(arcs, logit_lengths, target_lengths, moves)
    t_b, u_b = logit_lengths[None, ..., None], target_lengths[None, ..., None]

    # The size to which arcs are cut, as LargestExponent in cpp/lattice_rules.h computes it.
    arcs_at_most = jnp.maximum(logit_lengths + target_lengths, 0)[None, None, ..., None].astype(arcs.dtype) + 1
    largest = jnp.floor(_EXPONENT_RANGE / arcs_at_most) * _LN2
    closed = opened == -jnp.inf
    score = jnp.where(closed, 0, opened)
    cut = jnp.clip(score, -largest, largest)
    excess = lax.stop_gradient(score - cut)
    m, high, low = _exp(cut, closed)
    # Numbers with a derivative and numbers without one stand in two arrays, so that the derivative skips the latter.
    exponents = jnp.stack([high, low, excess], axis=2)

    start = n == 0
    like = m[0][0]  # constants take their sharding and their manual axes from the data
    one = like[..., 0]
    none = [jnp.zeros_like(like), jnp.full_like(like, _ZERO_EXPONENT), jnp.zeros_like(one)]
    _, nil, lowest, nothing = match_manual_axes([like, *none])

    def delayed(x: Array, step: int) -> Array:
        step = min(step, t_max + u1)
        return jnp.concatenate([jnp.zeros_like(x[:step]), x[: t_max + u1 - step]])

    def incoming(x: Array) -> Array:
        """For each node (n, u), the arcs that come from (n - step, u - du)."""
        each = zip(range(len(moves)), steps, moves, strict=True)
        return jnp.stack([shift(delayed(x[:, k], step), du) for k, step, (_, du) in each], axis=1)

    def across(recent: Array, direction: int) -> Array:
        """From the values of the last diagonals ``[span, ..., U+1]``, those at the other ends of the arcs."""
        each = zip(steps, moves, strict=True)
        return jnp.stack([shift(recent[step - 1], direction * du) for step, (_, du) in each])

    def pushed(recent: Array, now: Array) -> Array:
        return jnp.concatenate([now[None], recent[:-1]])

    def with_unit(terms: Scaled, here: Array) -> Scaled:
        """The terms, and a 1 where ``here`` is True."""
        unit = here.astype(like.dtype), jnp.where(here, 0, _ZERO_EXPONENT).astype(like.dtype), jnp.zeros_like(like)
        m, high, low = (jnp.concatenate([x[None], y]) for x, y in zip(unit, terms, strict=True))
        return m, high, low

    first = start & (u == 0) & jnp.ones_like(at_end)
    most = jnp.finfo(like.dtype).max

    def forward(carry, inputs):
        (m_end, exponents_end), recent, recent_exponents = carry
        m_in, exponents_in, initial, end = inputs
        before = across(recent_exponents, 1)
        alpha = across(recent, 1), before[:, 0], before[:, 1]
        arc = m_in, exponents_in[:, 0], exponents_in[:, 1]
        now, below = _sum(with_unit(_times(alpha, arc), initial))
        beyond = jnp.clip(before[:, 2] + exponents_in[:, 2], -most, most)
        beyond = jnp.concatenate([jnp.zeros_like(beyond[:1]), beyond])
        excess = jnp.max(jnp.where(below == 0, beyond, -most), axis=0)  # of the terms of the largest exponent
        exponents_now = jnp.stack([now[1], now[2], excess])
        m_end = m_end + jnp.sum(jnp.where(end, now[0], 0), axis=-1)
        exponents_end = exponents_end + jnp.sum(jnp.where(end[None], exponents_now, 0), axis=-1)
        carry = (m_end, exponents_end), pushed(recent, now[0]), pushed(recent_exponents, exponents_now)
        return carry, now if posteriors else None

    no_value, no_exponents = jnp.stack([nil] * span), jnp.stack([jnp.stack([lowest, nil, nil])] * span)
    carry = (nothing, jnp.stack([nothing] * 3)), no_value, no_exponents
    inputs = incoming(m), incoming(exponents), first, at_end
    ((m_end, exponents_end), *_), alphas = lax.scan(forward, carry, inputs)

    high_end, low_end, excess_end = (exponents_end[i] for i in range(3))
    impossible = m_end == 0
    log_likelihood = jnp.log(jnp.where(impossible, 1, m_end)) + low_end * _LN2 + high_end * _LN2
    finite = jnp.clip(0 - log_likelihood - excess_end, -most, most)
    cost = jnp.where(poisoned, jnp.nan, jnp.where(impossible, jnp.inf, finite))
    if not posteriors:
        return [cost]

    inverse = (jnp.where(impossible, 0, 1 / jnp.where(impossible, 1, m_end)))[None, ..., None]

    def backward(carry, inputs):
        recent, recent_exponents = carry
        alpha, m_out, exponents_out, end = inputs
        after = across(recent_exponents, -1)
        beta = across(recent, -1), after[:, 0], after[:, 1]
        products = _times(beta, (m_out, exponents_out[:, 0], exponents_out[:, 1]))
        through, high, low = _times((alpha[0][None], alpha[1][None], alpha[2][None]), products)
        p = through * inverse * _pow2((high - high_end[None, ..., None]) + (low - low_end[None, ..., None]), 8)
        p = p - lax.stop_gradient(jnp.maximum(p - 1, 0))  # rounding may give more than 1
        now, _ = _sum(with_unit(products, end))
        return (pushed(recent, now[0]), pushed(recent_exponents, jnp.stack([now[1], now[2]]))), p

    outputs = alphas, m, exponents, at_end
    _, through = lax.scan(backward, (no_value, no_exponents[:, :2]), outputs, reverse=True)
    posterior = jnp.moveaxis(unshear(through, t_max), 0, -1)
    in_example = lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 3) < t_b[0][..., None, None]
    in_example &= lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 2) <= u_b[0][..., None, None]
    in_example |= ~valid_lengths[0][..., None, None]
    return [cost, jnp.where(poisoned[..., None, None, None] & in_example, jnp.nan, posterior)]
