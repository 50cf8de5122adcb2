"""Scaled numbers ``m * 2**e``: ``m`` in [1, 2), ``e`` an integer stored as a pair of floats. Sums of products of
probabilities never underflow or overflow in them. Derivatives treat the exponents as constants."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# An exponent is a pair of floats whose sum is an integer below EXPONENT_RANGE. One float32 cannot count that far, and
# paths through masks of -1e9 must keep the digits that distinguish them.
CARRY = 2.0**22  # the first float is a multiple of this, the second at most half of it
ZERO_EXPONENT = -(2.0**44)  # the exponent of zero: below that of any product, and a multiple of CARRY
EXPONENT_RANGE = 2.0**40  # as kExponentRange in cpp/lattice_rules.h

LN2 = float(np.log(2.0))
_LOG2E = float(np.log2(np.e))

Scaled = tuple[Array, Array, Array]  # (m, high, low): the value m * 2**(high + low)


def _bits(dtype: np.dtype) -> tuple[type, int, int]:
    """The integer type of the same width, the bits of the mantissa, and the exponent's bias."""
    info = jnp.finfo(dtype)
    return (jnp.int64 if info.bits == 64 else jnp.int32), info.nmant, 1 - int(info.minexp)


def pow2(exponent: Array, highest: int = 0) -> Array:
    """``2.0**exponent`` for integral floats, exactly; exponents are clamped into the normal range up to ``highest``."""
    integer, mantissa, bias = _bits(exponent.dtype)
    power = jnp.clip(exponent, 1 - bias, highest).astype(integer) + bias
    return lax.bitcast_convert_type(power << mantissa, exponent.dtype)


def _normalised(m: Array, high: Array, low: Array) -> Scaled:
    """The same value with ``m`` in [1, 2) and ``low`` at most ``CARRY / 2``, or (0, ``ZERO_EXPONENT``, 0)."""
    integer, mantissa, bias = _bits(m.dtype)
    power = (lax.bitcast_convert_type(lax.stop_gradient(m), integer) >> mantissa) - bias
    shift = power.astype(m.dtype)
    zero = m == 0
    low = low + shift
    carry = jnp.round(low / CARRY) * CARRY
    return (
        m * jnp.where(zero, 0, pow2(-shift, 1)),
        jnp.where(zero, ZERO_EXPONENT, high + carry),
        jnp.where(zero, 0, low - carry),
    )


def total(terms: Scaled) -> tuple[Scaled, Array]:
    """The sum over the first axis, and by how much the exponent of each term is below the largest one."""
    m, high, low = terms
    carry = jnp.round(low / CARRY) * CARRY
    high, low = high + carry, low - carry
    top_high = jnp.max(high, axis=0)
    top_low = jnp.max(jnp.where(high == top_high[None], low, -CARRY), axis=0)
    below = (high - top_high[None]) + (low - top_low[None])
    return _normalised(jnp.sum(m * pow2(below), axis=0), top_high, top_low), below


def sum_of(terms: Sequence[Scaled]) -> tuple[Scaled, list[Array]]:
    """As :func:`total`, of separate terms: operation by operation, so that XLA fuses it with what the terms are."""
    carry = [jnp.round(low / CARRY) * CARRY for _, _, low in terms]
    high = [x + c for (_, x, _), c in zip(terms, carry, strict=True)]
    low = [x - c for (_, _, x), c in zip(terms, carry, strict=True)]
    top_high = functools.reduce(jnp.maximum, high)
    each = [jnp.where(h == top_high, x, -CARRY) for h, x in zip(high, low, strict=True)]
    top_low = functools.reduce(jnp.maximum, each)
    below = [(h - top_high) + (x - top_low) for h, x in zip(high, low, strict=True)]
    scaled = [m * pow2(b) for (m, _, _), b in zip(terms, below, strict=True)]
    return _normalised(functools.reduce(jnp.add, scaled), top_high, top_low), below


def times(a: Sequence[Array], b: Sequence[Array]) -> Scaled:
    m = a[0] * b[0]
    zero = m == 0
    return m, jnp.where(zero, ZERO_EXPONENT, a[1] + b[1]), jnp.where(zero, 0, a[2] + b[2])


def exp(x: Array, zero: Array) -> Scaled:
    """``exp(x)`` as a scaled number with ``m`` near 1; or zero."""
    whole = jnp.round(lax.stop_gradient(x) * _LOG2E)
    # Products of two numbers of half the digits are exact, so x - whole * ln 2 loses none.
    integer, mantissa, _ = _bits(x.dtype)
    digits = lax.bitcast_convert_type(whole, integer) >> (mantissa // 2 + 1)
    coarse = lax.bitcast_convert_type(digits << (mantissa // 2 + 1), x.dtype)
    rest = x
    for part in _halves(LN2, x.dtype):
        rest = (rest - coarse * part) - (whole - coarse) * part
    # Beyond 2**24 float32 has only some of the integers, so more than one power of two may be left of x.
    step = jnp.round(lax.stop_gradient(rest) * _LOG2E)
    m = jnp.exp(jnp.clip((rest - step * 0.693145751953125) - step * 1.42860682030941723212e-6, -1, 1))
    high = jnp.round(whole / CARRY) * CARRY
    return jnp.where(zero, 0, m), jnp.where(zero, ZERO_EXPONENT, high), jnp.where(zero, 0, (whole - high) + step)


def _halves(x: float, dtype: np.dtype) -> list[float]:
    """``x`` as a sum of three numbers. The first two have half the digits of ``dtype``."""
    parts = []
    digits = (int(jnp.finfo(dtype).nmant) + 1) // 2
    for _ in range(2):
        unit = 2.0 ** (np.floor(np.log2(abs(x))) + 1 - digits)
        parts.append(float(np.trunc(x / unit) * unit))
        x -= parts[-1]
    return [*parts, float(x)]
