"""The pure ``lax`` form of operation 2: the fallback on every platform without kernels, and its derivative.

The lattice is a scan over anti-diagonals ``n = t + u`` of *scaled numbers* ``m * 2**e``. So sums of products of
probabilities never underflow or overflow. The rounding error of a step does not depend on how small the probabilities
are; in float32 a recursion in the log domain cannot do that. The compiled kernels use the same arithmetic.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.ops.labels import Moves
from jax_rnnt.ops.scaled_numbers import EXPONENT_RANGE, LN2, ZERO_EXPONENT, Scaled, exp, pow2, times, total
from jax_rnnt.xla.sharding import match_manual_axes


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


def by_diagonal(
    arcs: Array,
    logit_lengths: Array,
    target_lengths: Array,
    moves: Moves,
    shear: Callable[[Array], Array] = shear,
) -> Diagonals:
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


def scaled_arcs(arcs: Array, logit_lengths: Array, target_lengths: Array) -> tuple[Array, Array, Array, Array]:
    """The probabilities of ``arcs [N, K, ..., U+1]`` as scaled numbers, and by how much each arc was cut."""
    # The size to which arcs are cut, as LargestExponent in cpp/lattice_rules.h computes it.
    arcs_at_most = jnp.maximum(logit_lengths + target_lengths, 0)[None, None, ..., None].astype(arcs.dtype) + 1
    largest = jnp.floor(EXPONENT_RANGE / arcs_at_most) * LN2
    closed = arcs == -jnp.inf
    score = jnp.where(closed, 0, arcs)
    cut = jnp.clip(score, -largest, largest)
    return *exp(cut, closed), lax.stop_gradient(score - cut)


def cost_of(total: Scaled, excess: Array, poisoned: Array) -> Array:
    """The cost ``[...]`` from the sum over all paths and from what the cuts of their arcs have left out."""
    m, high, low = total
    most = jnp.finfo(m.dtype).max
    impossible = m == 0
    log_likelihood = jnp.log(jnp.where(impossible, 1, m)) + low * LN2 + high * LN2
    finite = jnp.clip(0 - log_likelihood - excess, -most, most)
    return jnp.where(poisoned, jnp.nan, jnp.where(impossible, jnp.inf, finite))


def posteriors_of(
    through: Array, logit_lengths: Array, target_lengths: Array, diagonals: Diagonals, unsheared: Callable
) -> Array:
    """The posteriors ``[..., T, U+1, K]`` from those by diagonal ``[N, K, ..., U+1]``; NaN in poisoned lattices."""
    posterior = jnp.moveaxis(unsheared(through), 0, -1)
    t_b, u_b = logit_lengths[..., None, None, None], target_lengths[..., None, None, None]
    in_example = lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 3) < t_b
    in_example &= lax.broadcasted_iota(jnp.int32, posterior.shape, posterior.ndim - 2) <= u_b
    in_example |= ~diagonals.valid_lengths[0][..., None, None]
    return jnp.where(diagonals.poisoned[..., None, None, None] & in_example, jnp.nan, posterior)


def lattice(arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves, posteriors: bool) -> list[Array]:
    """``cost [...]`` of ``arcs [..., T, U+1, K]``, and the arc posteriors if they are asked for."""
    *_, t_max, u1, _ = arcs.shape
    steps = [dt + du for dt, du in moves]
    span = max(steps)
    n, u, opened, at_end, _, poisoned = diagonals = by_diagonal(arcs, logit_lengths, target_lengths, moves)
    m, high, low, excess = scaled_arcs(opened, logit_lengths, target_lengths)
    # Numbers with a derivative and numbers without one stand in two arrays, so that the derivative skips the latter.
    exponents = jnp.stack([high, low, excess], axis=2)

    start = n == 0
    like = m[0][0]  # constants take their sharding and their manual axes from the data
    one = like[..., 0]
    none = [jnp.zeros_like(like), jnp.full_like(like, ZERO_EXPONENT), jnp.zeros_like(one)]
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
        unit = here.astype(like.dtype), jnp.where(here, 0, ZERO_EXPONENT).astype(like.dtype), jnp.zeros_like(like)
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
        now, below = total(with_unit(times(alpha, arc), initial))
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
    cost = cost_of((m_end, high_end, low_end), excess_end, poisoned)
    if not posteriors:
        return [cost]

    impossible = m_end == 0
    inverse = (jnp.where(impossible, 0, 1 / jnp.where(impossible, 1, m_end)))[None, ..., None]

    def backward(carry, inputs):
        recent, recent_exponents = carry
        alpha, m_out, exponents_out, end = inputs
        after = across(recent_exponents, -1)
        beta = across(recent, -1), after[:, 0], after[:, 1]
        products = times(beta, (m_out, exponents_out[:, 0], exponents_out[:, 1]))
        through, high, low = times((alpha[0][None], alpha[1][None], alpha[2][None]), products)
        p = through * inverse * pow2((high - high_end[None, ..., None]) + (low - low_end[None, ..., None]), 8)
        p = p - lax.stop_gradient(jnp.maximum(p - 1, 0))  # rounding may give more than 1
        now, _ = total(with_unit(products, end))
        return (pushed(recent, now[0]), pushed(recent_exponents, jnp.stack([now[1], now[2]]))), p

    outputs = alphas, m, exponents, at_end
    _, through = lax.scan(backward, (no_value, no_exponents[:, :2]), outputs, reverse=True)
    return [cost, posteriors_of(through, logit_lengths, target_lengths, diagonals, lambda x: unshear(x, t_max))]
