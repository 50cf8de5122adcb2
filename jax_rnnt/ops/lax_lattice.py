"""The pure ``lax`` form of operation 2: the fallback on every platform without kernels, and its derivative.

The lattice is a scan over anti-diagonals ``n = t + u`` of *scaled numbers* ``m * 2**e`` (``m`` in [1, 2), ``e`` an
integer stored as a float). So sums of products of probabilities never underflow or overflow. The rounding error of a
step does not depend on how small the probabilities are; in float32 a recursion in the log domain cannot do that. The
compiled kernels use the same arithmetic. Derivatives treat the exponents as constants.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.ops.dtypes import at
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


def _sum(terms: Sequence[Scaled], excesses: Sequence[Array]) -> tuple[Scaled, Array]:
    """The sum of the terms, and the largest excess among those of the largest exponent."""
    _, high, low = terms[0]
    for _, other_high, other_low in terms[1:]:
        larger = (other_high - high) + (other_low - low) > 0
        high, low = jnp.where(larger, other_high, high), jnp.where(larger, other_low, low)
    below = [(other_high - high) + (other_low - low) for _, other_high, other_low in terms]
    total = terms[0][0] * _pow2(below[0])
    for (m, _, _), d in zip(terms[1:], below[1:], strict=True):
        total = total + m * _pow2(d)
    excess = jnp.full_like(total, jnp.finfo(total.dtype).min)
    for x, d in zip(excesses, below, strict=True):
        excess = jnp.maximum(excess, jnp.where(d == 0, x, excess))
    return _normalised(total, high, low), excess


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
    """``x`` as a sum of three numbers, the first two of which have half the digits of ``dtype``."""
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


def _shift_scaled(x: Scaled, by: int) -> Scaled:
    # From outside, `shift` brings in zeros, for m and for the exponents. A zero needs the exponent of zero.
    m = shift(x[0], by)
    return m, jnp.where(m == 0, _ZERO_EXPONENT, shift(x[1], by)), jnp.where(m == 0, 0, shift(x[2], by))


class Diagonals(NamedTuple):
    """A batch of lattices, sheared: ``[N, ..., U+1]`` with N = T + U + 1."""

    n: Array  # [N, ..., 1]
    u: Array  # [1, ..., U+1]
    arcs: list[Array]  # one for each move; -inf where the arc leaves the lattice, and where it is NaN or +inf
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
    opened, poisoned = [], ~at(at(valid_lengths, 0, 0), 0)
    for k, (dt, du) in enumerate(moves):
        lands_inside = (t + dt < t_b) & (u + du <= u_b)
        lands_at_end = (t + dt == t_b) & (u + du == u_b)
        x = jnp.where(inside & (lands_inside | lands_at_end), shear(at(arcs, k)), -jnp.inf)
        poison = ~(x < jnp.inf)
        poisoned = poisoned | jnp.any(poison, axis=(0, -1))
        opened.append(jnp.where(poison, -jnp.inf, x))
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
    arcs_at_most = jnp.maximum(at(at(t_b + u_b, 0, 0), 0), 0)[None, ..., None].astype(arcs.dtype) + 1
    largest = jnp.floor(_EXPONENT_RANGE / arcs_at_most) * _LN2
    probabilities, excesses = [], []
    for x in opened:
        closed = x == -jnp.inf
        score = jnp.where(closed, 0, x)
        cut = jnp.clip(score, -largest, largest)
        excesses.append(lax.stop_gradient(score - cut))
        probabilities.append(_exp(cut, closed))

    start = n == 0
    like = probabilities[0][0]  # constants take their sharding and their manual axes from the data
    one = at(like, 0, 0)
    constants = jnp.zeros_like(one), jnp.full_like(one, _ZERO_EXPONENT), jnp.zeros_like(at(one, 0))
    _, nil, lowest, nothing = match_manual_axes([like, *constants])
    zero = (nil, lowest, nil)

    def delayed(x: Array, step: int) -> Array:
        step = min(step, t_max + u1)
        return jnp.concatenate([jnp.zeros_like(x[:step]), x[: t_max + u1 - step]])

    def incoming(p: Scaled, step: int, du: int) -> Scaled:
        """For each node (n, u), the arc that comes from (n - step, u - du)."""
        m, high, low = (delayed(a, step) for a in p)
        return _shift_scaled((m, high, low), du)

    into = [incoming(p, s, du) for p, s, (_, du) in zip(probabilities, steps, moves, strict=True)]
    more = [shift(delayed(x, s), du) for x, s, (_, du) in zip(excesses, steps, moves, strict=True)]
    first = (start & (u == 0) & jnp.ones_like(at_end)).astype(like.dtype)
    most = jnp.finfo(like.dtype).max

    def unit(here: Array, exists: Array) -> Scaled:
        return here, jnp.where(exists, 0, _ZERO_EXPONENT).astype(here.dtype), jnp.zeros_like(here)

    def times(a: Scaled, b: Scaled) -> Scaled:
        return a[0] * b[0], a[1] + b[1], a[2] + b[2]

    def forward(carry, inputs):
        at_the_end, recent = carry
        arcs_in, more_in, initial, end = inputs
        terms, beyond = [unit(initial, initial != 0)], [jnp.zeros_like(initial)]
        for p, x, s, (_, du) in zip(arcs_in, more_in, steps, moves, strict=True):
            alpha, excess = recent[s - 1]
            terms.append(times(_shift_scaled(alpha, du), p))
            beyond.append(jnp.clip(shift(excess, du) + x, -most, most))
        now = _sum(terms, beyond)
        picked = (jnp.sum(jnp.where(end, x, 0), axis=-1) for x in (*now[0], now[1]))
        at_the_end = tuple(x + y for x, y in zip(at_the_end, picked, strict=True))
        return (at_the_end, (now, *recent[:-1])), now[0] if posteriors else None

    carry = ((nothing,) * 4, ((zero, nil),) * span)
    ((m_end, high_end, low_end, excess_end), _), alphas = lax.scan(forward, carry, (into, more, first, at_end))

    impossible = m_end == 0
    log_likelihood = jnp.log(jnp.where(impossible, 1, m_end)) + low_end * _LN2 + high_end * _LN2
    finite = jnp.clip(0 - log_likelihood - excess_end, -most, most)
    cost = jnp.where(poisoned, jnp.nan, jnp.where(impossible, jnp.inf, finite))
    if not posteriors:
        return [cost]

    inverse = (jnp.where(impossible, 0, 1 / jnp.where(impossible, 1, m_end)))[..., None]

    def backward(recent, inputs):
        alpha, arcs_out, end = inputs
        terms = [unit(end.astype(like.dtype), end)]
        for p, s, (_, du) in zip(arcs_out, steps, moves, strict=True):
            terms.append(times(_shift_scaled(recent[s - 1], -du), p))
        through = []
        for product in terms[1:]:
            m, high, low = times(alpha, product)
            p = m * inverse * _pow2((high - high_end[..., None]) + (low - low_end[..., None]), 8)
            through.append(p - lax.stop_gradient(jnp.maximum(p - 1, 0)))  # rounding may give more than 1
        return (_sum(terms, [jnp.zeros_like(m) for m, _, _ in terms])[0], *recent[:-1]), through

    _, through = lax.scan(backward, (zero,) * span, (alphas, probabilities, at_end), reverse=True)
    posterior = jnp.stack([unshear(p, t_max) for p in through], axis=-1)
    in_example = lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 3) < at(t_b, 0, 0)[..., None, None]
    in_example &= lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 2) <= at(u_b, 0, 0)[..., None, None]
    in_example |= ~at(valid_lengths, 0, 0)[..., None, None]
    return [cost, jnp.where(poisoned[..., None, None, None] & in_example, jnp.nan, posterior)]
