"""Compares rows of logits of two models: how far their distributions are apart, and the gradients of the rows."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_rnnt.core.distributions import Distributions
from jax_rnnt.core.row_divergence import Pair, norms
from jax_rnnt.ops.labels import INVALID
from jax_rnnt.xla.primitive import Implementation

Two = tuple[Array, Array]
"""An array of the first model, and the same array of the second one."""


class Kept(NamedTuple):
    """What the backward pass reads of a row."""

    norms: list[Two]  # [N, 2] for each part of the rows
    distances: Two | None  # [N], the L1 norm of the gradient of each side, for a cotangent of 1


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The static part: which distributions are compared, and in which directions.

    The value is ``KL(second || first)``, or half the sum of both directions if ``symmetric``. In each direction the
    target is a constant, so in the first case the second side has no gradient.
    """

    distributions: Distributions
    classes: tuple[int, ...] | None  # with the label, the columns that are compared alone; the others count as one
    temperature: float
    symmetric: bool
    implementation: Implementation
    dtype: np.dtype  # in which it computes

    def of_no_node(self, nodes: int, *, measures: bool) -> tuple[Array, Kept]:
        """The results for that many nodes, before any has been compared."""
        each, norm = jnp.zeros(nodes, self.dtype), jnp.zeros((nodes, 2), self.dtype)
        return each, Kept([(norm, norm)] * self.distributions.number, (each, each) if measures else None)

    def forward(self, rows: Two, labels: Array, *, measures: bool) -> tuple[Array, Kept]:
        """The divergences ``[N]`` of ``rows [N, W]``. The rows of a label of :data:`INVALID` have NaN."""
        invalid = (labels <= INVALID)[:, None]
        first, second = (self._parts(x, labels) for x in rows)

        def norm(part: Array) -> Array:
            return jnp.where(invalid, jnp.nan, norms(part, self.implementation))

        parts = list(zip(first, second, strict=True))
        kept = [(norm(x), norm(y)) for x, y in parts]
        pairs = [Pair(*xy, *norms) for xy, norms in zip(parts, kept, strict=True)]
        total = jnp.zeros(labels.shape, self.dtype)
        for pair, weights in zip(pairs, self._weights(pairs), strict=True):
            total += pair.divergence(weights, symmetric=self.symmetric)
        return total * self.temperature**2, Kept(kept, self._distances(pairs) if measures else None)

    def backward(self, rows: Two, labels: Array, kept: Kept, cotangent: Array) -> list[Array]:
        """The gradients ``[N, W]`` of the rows of the sides that learn.

        They are 0 where the cotangent ``[N]`` is 0, and NaN where one of the two rows has NaN or +inf.
        """
        (first, pull_first), (second, pull_second) = (jax.vjp(lambda x: self._parts(x, labels), x) for x in rows)
        pairs = [Pair(x, y, *norms) for x, y, norms in zip(first, second, kept.norms, strict=True)]
        factor = cotangent * (self.temperature**2 / (2 if self.symmetric else 1))
        sides = [(factor, 1, pull_first), (-factor, 0, pull_second)][: 2 if self.symmetric else 1]
        bad = ~functools.reduce(jnp.logical_and, [pair.good for pair in pairs])
        constant = jnp.where(bad & (cotangent != 0), jnp.nan, 0).astype(self.dtype)[:, None]
        is_constant = (bad | (cotangent == 0))[:, None]
        results = []
        for signed, target, pull in sides:
            of_parts = [
                pair.gradient(signed if weights is None else signed * weights[target])
                for pair, weights in zip(pairs, self._weights(pairs), strict=True)
            ]
            (of_rows,) = pull(of_parts)
            results.append(jnp.where(is_constant, constant.astype(of_rows.dtype), of_rows))
        return results

    def _parts(self, rows: Array, labels: Array) -> list[Array]:
        """Rows whose softmaxes are the distributions, at this temperature."""
        x = rows.astype(self.dtype)
        if self.temperature != 1:
            x = x / jnp.asarray(self.temperature, self.dtype)
        return self.distributions.parts(x, labels, self.classes)

    def _weights(self, pairs: list[Pair]) -> list[Two | None]:
        """What the divergence of each pair counts, ``[N]``, if the first or the second side is the target; None is 1.

        By the chain rule, the divergence of the labels counts as much as the gate of the target lets through.
        """
        if self.distributions.gate is None:
            return [None] * len(pairs)
        p, q = pairs[0].probabilities
        return [None, *[(p[:, 1], q[:, 1])] * (len(pairs) - 1)]

    def _distances(self, pairs: list[Pair]) -> Two:
        first = second = jnp.zeros_like(pairs[0].distance())
        for pair, weights in zip(pairs, self._weights(pairs), strict=True):
            as_target, as_target_too = (1, 1) if weights is None else weights
            first, second = first + as_target_too * pair.distance(), second + as_target * pair.distance()
        return first, second
