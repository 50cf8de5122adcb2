r"""The Kullback-Leibler divergence of the distributions of two rows, and its gradient.

Because probabilities sum to 1,

.. math:: KL(q \| p) = \sum_v q_v d_v = \sum_v q_v (e^{-d_v} - 1 + d_v), \qquad d_v = \log q_v - \log p_v

No term of the second sum is negative. The terms of the first one are as large as d and nearly cancel where the rows are
alike; those of the second one are as large as d squared. An error of a log-norm is the same in every d_v, and its first
order drops out of the sum. So KL has an error relative to itself, however near the two rows are.
"""

import math

import jax.numpy as jnp
from jax import Array

from jax_rnnt.ops import arcs
from jax_rnnt.ops.labels import NO_LABEL
from jax_rnnt.xla.primitive import Implementation

_NEAR = 0.5
"""Up to this size of d a series gives e^-d - 1 + d. Beyond it no term of the direct formula is 5 times as large."""


def norms(part: Array, implementation: Implementation) -> Array:
    """``[N, 2]``: the maximum, and the log of the sum relative to it."""
    labels = jnp.full(part.shape[:1], NO_LABEL, jnp.int32)
    parameters = {"columns": (), "vocabulary": part.shape[1], "window": (0, part.shape[1])}
    return arcs.forward(part, labels, **parameters, implementation=implementation)[1]


class Pair:
    """The same part of two rows: ``x [N, n]`` of the first and ``y [N, n]`` of the second, with their norms."""

    def __init__(self, x: Array, y: Array, norm_x: Array, norm_y: Array):
        self._x, self._y, self._norm_x, self._norm_y = x, y, norm_x, norm_y
        self._empty = (norm_x[:, 0] == -jnp.inf, norm_y[:, 0] == -jnp.inf)
        # Of NaN or +inf in a row, the norm is not less than inf.
        self.good = (jnp.sum(norm_x, axis=1) < jnp.inf) & (jnp.sum(norm_y, axis=1) < jnp.inf)
        self.probabilities = (_softmax(x, norm_x), _softmax(y, norm_y))

    def divergence(self, weights: tuple[Array, Array] | None, *, symmetric: bool) -> Array:
        """``KL(second || first) [N]``, or half the sum of both directions, each times the weight of its target."""
        p, q = self.probabilities
        tops = _finite(self._norm_y[:, 0]) - _finite(self._norm_x[:, 0])
        both = (self._x == -jnp.inf) & (self._y == -jnp.inf)
        d = (jnp.where(both, 0, self._y - self._x) - tops[:, None]) - (self._norm_y - self._norm_x)[:, 1:]
        d = jnp.where(both, 0, d)
        weight_p, weight_q = (None, None) if weights is None else weights
        empty_p, empty_q = self._empty
        terms, without_mass = _terms(q, p, d, weight_q), _infinite(empty_p & ~empty_q, weight_q, d.dtype)
        if symmetric:
            terms = 0.5 * (terms + _terms(p, q, -d, weight_p))
            without_mass += _infinite(empty_q & ~empty_p, weight_p, d.dtype)
        return jnp.where(self.good, jnp.where(empty_p | empty_q, without_mass, jnp.sum(terms, axis=1)), jnp.nan)

    def gradient(self, factor: Array) -> Array:
        """``factor [N]`` times the gradient of ``KL(second || first)`` with respect to the first row.

        Minus this is the gradient of ``KL(first || second)`` with respect to the second row.
        """
        p, q = self.probabilities
        empty = self._empty[0] | self._empty[1]
        return jnp.where(empty[:, None], 0, factor[:, None] * (p - q))

    def distance(self) -> Array:
        """``[N]``, the L1 norm of that gradient for a factor of 1."""
        p, q = self.probabilities
        return jnp.where(self._empty[0] | self._empty[1], 0, jnp.sum(jnp.abs(p - q), axis=1))


def _softmax(x: Array, norm: Array) -> Array:
    return jnp.exp((x - _finite(norm[:, :1])) - norm[:, 1:])


def _finite(top: Array) -> Array:
    return jnp.where(top == -jnp.inf, 0, top)


def _infinite(where: Array, weight: Array | None, dtype) -> Array:
    """The divergence ``[N]`` of a target from a row without mass; 0 elsewhere."""
    return jnp.where(where if weight is None else where & (weight > 0), jnp.inf, 0).astype(dtype)


def _terms(q: Array, p: Array, d: Array, weight: Array | None) -> Array:
    """``weight q (e^-d - 1 + d)``. A q of 0 counts for nothing, even where d is infinite."""
    far = p - q
    if weight is not None:
        q, far = q * weight[:, None], far * weight[:, None]
    near = jnp.abs(d) < _NEAR
    return jnp.where(near, q * _excess(jnp.where(near, d, 0)), jnp.where(q == 0, 0, q * d) + far)


def _excess(d: Array) -> Array:
    """``e^-d - 1 + d`` by its series, where d is at most ``_NEAR`` in size."""
    last = 16 if d.dtype == jnp.float64 else 9
    total = jnp.full_like(d, 1 / math.factorial(last))
    for k in range(last - 1, 1, -1):
        total = 1 / math.factorial(k) - d * total
    return d * d * total
