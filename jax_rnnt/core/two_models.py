"""From two models and a batch to how far apart they are: nodes, their weights, and the reduction."""

import dataclasses
import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core import debug
from jax_rnnt.core.batch import Logits, checked_batch, checked_source, checked_weights
from jax_rnnt.core.comparison import Comparison
from jax_rnnt.core.devices import both_on_devices
from jax_rnnt.core.divergence import Named, divergences
from jax_rnnt.core.loss import Loss, Reduction, checked_loss
from jax_rnnt.core.node_labels import node_labels
from jax_rnnt.core.reduction import reduced
from jax_rnnt.logits.source import Source
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import PADDING
from jax_rnnt.xla import mesh_axis, sharding

NodeReduction = Literal["mean", "sum"]


@dataclasses.dataclass(frozen=True)
class TwoModels:
    """The static part of a loss of two models."""

    name: str
    sides: tuple[str, str]  # the names of the arguments; the first one learns
    symmetric: bool
    loss: Loss
    temperature: float
    collapsed: bool
    node_reduction: NodeReduction
    reduction: Reduction

    def __post_init__(self) -> None:
        checked_loss(self.loss)
        dataclasses.replace(self.loss, reduction=self.reduction)  # says what is wrong with it
        checks.number("temperature", self.temperature)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"`temperature` must be above 0 and finite, got {self.temperature}.")
        checks.boolean("collapsed", self.collapsed)
        if self.node_reduction not in get_args(NodeReduction):
            raise ValueError(f"`node_reduction` must be one of {get_args(NodeReduction)}, got {self.node_reduction!r}.")

    def __call__(
        self,
        first: Logits,
        second: Logits,
        targets: ArrayLike,
        logit_lengths: ArrayLike,
        target_lengths: ArrayLike,
        node_weights: ArrayLike | None,
        weights: ArrayLike | None,
    ) -> Array:
        source, *batch = checked_batch(first, targets, logit_lengths, target_lengths, self.sides[0])
        other = checked_source(self.sides[1], second)
        checks.floating(self.sides[1], jax.ShapeDtypeStruct(other.shape, other.dtype))
        if other.shape != source.shape:
            raise ValueError(
                f"`{self.sides[0]}` and `{self.sides[1]}` must have the same shape [B, T, U+1, V], got {source.shape} "
                f"and {other.shape}."
            )
        if node_weights is not None:
            node_weights = checks.as_array("node_weights", node_weights)
            checks.shape("node_weights", node_weights, source.shape[:3], "[B, T, U+1]")
            node_weights = sharding.follow_batch(lax.stop_gradient(node_weights), source._batched())
        axis = self.loss.vocab_axis_name
        for model in (source, other):  # a source without whole rows says so
            (model if axis is None or mesh_axis.is_undivided(axis) else model._divided(axis))._rows()
        each = both_on_devices(self._on_part, source, other, *batch, node_weights)
        return reduced(
            each, batch[2], checked_weights(weights, source, each.dtype), self.reduction, zero_infinity=False
        )

    def _on_part(
        self, first: Source, second: Source, targets: Array, t_b: Array, u_b: Array, node_weights: Array | None
    ) -> Array:
        """``[B]``: the reduced divergence of the nodes of each utterance."""
        topology = self.loss.topology(first.shape[-1])
        debug.check_batch(self.loss, first.shape, targets, t_b, u_b)
        labels, t_b, _ = node_labels(targets, t_b, u_b, (*first.shape[:3], topology.vocabulary), topology.blanks)
        dtype = np.promote_types(compute_dtype(first.dtype), compute_dtype(second.dtype))
        counts = functools.reduce(
            jnp.logical_and, [nodes for s in (first, second) if (nodes := s._nodes()) is not None], labels != PADDING
        )
        weight = jnp.where(counts, 1 if node_weights is None else node_weights.astype(dtype), 0).astype(dtype)
        comparison = Comparison(
            self.loss.distributions(first.shape[-1]),
            topology.columns if self.collapsed else None,
            float(self.temperature),
            self.symmetric,
            self.loss.implementation,
            dtype,
        )
        labels = jnp.where(weight == 0, PADDING, labels)
        # Inside shard_map all arrays vary over the same axes from here on. So JAX sums the gradients of those that did
        # not vary before.
        first, second, labels = sharding.vary_alike((first, second, labels), weight)
        values = divergences(Named(comparison, self.name), first, second, labels)
        total = jnp.sum(jnp.where(weight == 0, 0, weight * values), axis=(1, 2))
        if self.node_reduction == "mean":
            volume = jnp.sum(weight, axis=(1, 2))
            total = jnp.where(volume == 0, 0, total / jnp.where(volume == 0, 1, volume))
        return total + jnp.where(t_b < 0, jnp.nan, 0).astype(dtype)
