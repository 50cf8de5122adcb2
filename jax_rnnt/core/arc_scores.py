"""The terms that every topology adds to the scores of arcs: delay penalty, under-normalisation and wildcards."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.core.topology import Topology
from jax_rnnt.core.wildcards import with_wildcard
from jax_rnnt.ops.labels import Window

Scheduled = Mapping[str, Array]
"""Scalars that take the place of options of the same name. They may be traced."""


@dataclasses.dataclass(frozen=True)
class ArcScores:
    """Turns the entries of nodes into the scores of their arcs, by a topology and the regularisers."""

    topology: Topology
    delay_penalty: float = 0.0
    sigma: float = 0.0
    wildcard: str | None = None
    wildcard_weight: float = 0.0

    def are_log_probs(self, window: Window, scheduled: Scheduled) -> bool:
        """Whether no path has a score above 0, where the entries in the window are normalised.

        Of a scheduled number nothing is known.
        """
        first, stop = window
        normalised = first < stop and all(first <= c < stop for c in self.topology.columns)
        if self.topology.scores is not None:  # they normalise what is outside of the window
            normalised = first < stop
        known = not {"sigma", "delay_penalty", "wildcard_weight"} & scheduled.keys()
        return normalised and known and self.sigma >= 0 and self.delay_penalty == 0 and self.wildcard is None

    def __call__(
        self, entries: Array, t_b: Array, u_b: Array, nodes: Array | None = None, scheduled: Scheduled | None = None
    ) -> Array:
        """``[B, T, U+1, K]`` from ``entries [B, T, U+1, K']``; ``nodes`` as :meth:`Source._nodes` gives them."""
        arcs, number = entries, {} if scheduled is None else scheduled
        sigma, delay_penalty = number.get("sigma", self.sigma), number.get("delay_penalty", self.delay_penalty)
        differentiates = self.topology.scores is not None or self.wildcard is not None
        if differentiates:
            # The derivative at a NaN is NaN, and 0 times NaN is NaN. But an example whose cotangent is 0 must have a
            # gradient of 0. So these functions see finite numbers, and NaN is added afterwards.
            poison = jnp.where(jnp.all(entries < jnp.inf, axis=-1, keepdims=True), 0, jnp.nan).astype(entries.dtype)
            arcs = _finite(entries)
        if self.topology.scores is not None:
            arcs = self.topology.scores(arcs, t_b, u_b)
        if "sigma" in number or self.sigma != 0:
            arcs = arcs - jnp.asarray(sigma, arcs.dtype)  # before the wildcards: `sigma` does not lower them
        if self.wildcard is not None:
            weight = jnp.asarray(number.get("wildcard_weight", self.wildcard_weight), arcs.dtype)
            arcs = with_wildcard(arcs, self.topology, t_b, u_b, nodes, self.wildcard, weight)
        if differentiates:
            arcs = arcs + lax.stop_gradient(poison)
        if "delay_penalty" in number or self.delay_penalty != 0:
            t = lax.broadcasted_iota(arcs.dtype, arcs.shape, 1)
            early = ((t_b - 1).astype(arcs.dtype) / 2)[:, None, None, None] - t
            emits = jnp.array(self.topology.label_arcs())[None, None, None]
            arcs = arcs + jnp.where(emits, jnp.asarray(delay_penalty, arcs.dtype) * early, 0)
        return arcs


@functools.partial(jax.custom_jvp)
def _finite(x: Array) -> Array:
    """``x`` with 0 for NaN and +inf; its derivative is the identity."""
    return jnp.where(x < jnp.inf, x, 0)


@_finite.defjvp
def _finite_jvp(primals, tangents):
    return _finite(primals[0]), tangents[0]
