"""From a source of logits to costs, and back to gradients, for every loss.

The source gives the entries of the arcs, the topology turns them into scores, the lattice sums over paths. If JAX can
differentiate each of these steps in every mode, the pipeline is their composition. It is a ``custom_vjp`` if the
gradient is clipped, or if the source supports reverse mode only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_rnnt.core.arc_scores import ArcScores, Scheduled
from jax_rnnt.core.node_labels import NodeLabels
from jax_rnnt.logits.source import Source
from jax_rnnt.ops import lattice
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import Moves
from jax_rnnt.ops.masking import scaled
from jax_rnnt.xla.primitive import Implementation
from jax_rnnt.xla.refusals import in_floats, no_forward_mode, no_second_order


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The static part: which arcs there are, how they are scored, and how the gradient is changed."""

    arcs: ArcParameters
    scores: ArcScores
    fastemit_lambda: float  # by how much the posteriors of label arcs grow; it changes the gradient only
    clamp: float
    implementation: Implementation

    @property
    def lattice(self) -> dict:
        return {"moves": self.scores.topology.moves, "implementation": self.implementation}


Run = Callable[[Source, NodeLabels, Pipeline, Scheduled], Any]
"""A function of lattices: :func:`costs` or :func:`lattices`."""


def costs(source: Source, nodes: NodeLabels, static: Pipeline, scheduled: Scheduled) -> Array:
    """``costs [B]`` of the lattices whose nodes have these labels."""
    cost = _rounded_costs(source, nodes, static, scheduled)
    if not static.scores.are_log_probs(static.arcs.window, scheduled):
        return cost
    # Rounding may make a probability larger than 1. A maximum would have no derivative there, and the cost has one.
    return cost + jax.lax.stop_gradient(jnp.where(cost < 0, -cost, 0))


def _rounded_costs(source: Source, nodes: NodeLabels, static: Pipeline, scheduled: Scheduled) -> Array:
    lengths = nodes[1:]
    if static.clamp <= 0 and source._composes:
        entries, _ = source._forward(nodes.labels, static.arcs)
        arcs = static.scores(entries, *lengths, source._nodes(), scheduled)
        if static.fastemit_lambda == 0 and "fastemit_lambda" not in scheduled:
            return lattice.costs(arcs, *lengths, **static.lattice)
        return _weighted_costs(arcs, *lengths, scheduled, static)
    return _costs(
        in_floats(no_forward_mode, source._prepared(nodes.labels), source._refused_as), *nodes, scheduled, static
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lattice:
    """The lattices of a batch; what :func:`loss_lattice` returns.

    It unpacks to the arguments of :func:`lattice_cost`, :func:`lattice_posteriors` and :func:`lattice_best_path`.
    """

    arcs: Array  #: ``[B, T, U+1, K]``, scores
    logit_lengths: Array  #: ``[B]``, T_b, and -1 where the example is invalid
    target_lengths: Array  #: ``[B]``, U_b
    moves: Moves = dataclasses.field(metadata={"static": True})  #: the move of each arc

    def __iter__(self) -> Iterator[Any]:
        return iter((self.arcs, self.logit_lengths, self.target_lengths, self.moves))


def lattices(source: Source, nodes: NodeLabels, static: Pipeline, scheduled: Scheduled) -> Lattice:
    """The lattices whose nodes have these labels. Their arcs can be differentiated as the source can be."""
    if source._composes:
        entries, _ = source._forward(nodes.labels, static.arcs)
    else:
        entries = _entries(
            in_floats(no_forward_mode, source._prepared(nodes.labels), source._refused_as), nodes.labels, static.arcs
        )
    arcs = static.scores(entries, *nodes[1:], source._nodes(), scheduled)
    return Lattice(arcs, *nodes[1:], static.scores.topology.moves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _entries(source: Source, labels: Array, parameters: ArcParameters) -> Array:
    return _entries_forward(source, labels, parameters)[0]


def _entries_forward(source: Source, labels: Array, parameters: ArcParameters):
    source = in_floats(no_second_order, source, source._refused_as)
    entries, kept = source._forward(labels, parameters)
    return entries, (source, labels, kept)


def _entries_backward(parameters: ArcParameters, residuals, cotangent: Array):
    source, labels, kept = residuals
    cotangent = no_second_order(cotangent, source._refused_as)
    whole = source._cotangent_of_costs(cotangent)  # as for the costs, a device may hold only a share of it
    return source._backward(labels, kept, whole, None, parameters), None


_entries.defvjp(_entries_forward, _entries_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _weighted_costs(arcs: Array, t_b: Array, u_b: Array, scheduled: Scheduled, static: Pipeline) -> Array:
    return lattice.costs(arcs, t_b, u_b, **static.lattice)


@_weighted_costs.defjvp
def _weighted_costs_jvp(static: Pipeline, primals, tangents):
    *arrays, scheduled = primals
    cost, posterior = lattice.posteriors(*arrays, **static.lattice)
    return cost, lattice.cost_tangents(tangents[0], _weighted(posterior, scheduled, static))


def _weighted(posterior: Array, scheduled: Scheduled, static: Pipeline) -> Array:
    if static.fastemit_lambda == 0 and "fastemit_lambda" not in scheduled:
        return posterior
    more = jnp.asarray(scheduled.get("fastemit_lambda", static.fastemit_lambda), posterior.dtype)
    emits = jnp.array(static.scores.topology.label_arcs(), posterior.dtype)
    return posterior * (1 + more * emits)[None, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _costs(source: Source, labels: Array, t_b: Array, u_b: Array, scheduled: Scheduled, static: Pipeline) -> Array:
    if not source._composes:
        source = in_floats(no_second_order, source, source._refused_as)
    entries, _ = source._forward(labels, static.arcs)
    arcs = static.scores(entries, t_b, u_b, source._nodes(), scheduled)
    return lattice.costs(arcs, t_b, u_b, **static.lattice)


def _forward(source: Source, labels: Array, t_b: Array, u_b: Array, scheduled: Scheduled, static: Pipeline):
    if not source._composes:
        source = in_floats(no_second_order, source, source._refused_as)
    entries, kept = source._forward(labels, static.arcs)
    arcs, pull = jax.vjp(lambda x: static.scores(x, t_b, u_b, source._nodes(), scheduled), entries)
    cost, posterior = lattice.posteriors(arcs, t_b, u_b, **static.lattice)
    return cost, (source, labels, kept, _weighted(posterior, scheduled, static), pull)


def _backward(static: Pipeline, residuals, cotangent: Array):
    source, *_ = residuals
    if source._composes:
        return _gradient(static, residuals, cotangent), None, None, None, None
    cotangent = source._cotangent_of_costs(no_second_order(cotangent, source._refused_as))
    return _scaled_gradient(static, residuals, cotangent), None, None, None, None


def _scaled_gradient(static: Pipeline, residuals, cotangent: Array) -> Source:
    source, labels, kept, posterior, pull = residuals
    (grad_entries,) = pull(scaled(-posterior, by=cotangent[:, None, None, None]))
    bound = None
    if static.clamp > 0:
        # To clip the unit gradient to clamp and then scale it by ct, clip the scaled gradient to clamp * |ct|.
        bound = jnp.broadcast_to(static.clamp * jnp.abs(cotangent)[:, None, None], labels.shape)
    return source._backward(labels, kept, grad_entries, bound, static.arcs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _gradient(static: Pipeline, residuals, cotangent: Array) -> Source:
    return _scaled_gradient(static, residuals, cotangent)


@_gradient.defjvp
def _gradient_jvp(static: Pipeline, primals, tangents):
    residuals, cotangent = primals
    gradient, tangent_residuals = jax.jvp(
        lambda residuals: _scaled_gradient(static, residuals, cotangent), primals[:1], tangents[:1]
    )
    # The gradient is linear in the cotangent, so its derivative is the same at every cotangent. At 0 that of the clip,
    # whose bound is 0 there, is wrong; at 1 it is right. But a bad example with a cotangent of 0 has a derivative of 0.
    posterior = residuals[3]
    counts = (cotangent != 0) | jnp.all(jnp.isfinite(posterior), axis=(1, 2, 3))
    _, tangent_cotangent = jax.jvp(
        lambda cotangent: _scaled_gradient(static, residuals, cotangent),
        (counts.astype(cotangent.dtype),),
        (jnp.where(counts, tangents[1], 0),),
    )
    return gradient, jax.tree.map(jnp.add, tangent_residuals, tangent_cotangent)


_costs.defvjp(_forward, _backward)
