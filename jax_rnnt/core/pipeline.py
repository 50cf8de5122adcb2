"""From a source of logits to costs, and back to gradients, for every loss.

The source gives the entries of the arcs, the topology turns them into scores, the lattice sums over paths. If JAX can
differentiate each of these steps in every mode, the pipeline is their composition. It is a ``custom_vjp`` if the
gradient is clipped, or if the source supports reverse mode only.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_rnnt.core.arc_scores import ArcScores
from jax_rnnt.core.node_labels import NodeLabels
from jax_rnnt.logits.source import Source
from jax_rnnt.ops import lattice
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import Moves
from jax_rnnt.xla.primitive import Implementation
from jax_rnnt.xla.refusals import no_forward_mode, no_second_order


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The static part: which arcs there are, how they are scored, and how the gradient is changed."""

    arcs: ArcParameters
    scores: ArcScores
    arc_weights: tuple[float, ...] | None  # factors of the posteriors; they change the gradient only
    clamp: float
    implementation: Implementation

    @property
    def lattice(self) -> dict:
        return {"moves": self.scores.topology.moves, "implementation": self.implementation}


def costs(source: Source, nodes: NodeLabels, static: Pipeline) -> Array:
    """``costs [B]`` of the lattices whose nodes have these labels."""
    cost = _rounded_costs(source, nodes, static)
    if not static.scores.are_log_probs(static.arcs.window):
        return cost
    # Rounding may make a probability larger than 1. A maximum would have no derivative there, and the cost has one.
    return cost + jax.lax.stop_gradient(jnp.where(cost < 0, -cost, 0))


def _rounded_costs(source: Source, nodes: NodeLabels, static: Pipeline) -> Array:
    if static.clamp <= 0 and source.composes:
        entries, _ = source.forward(nodes.labels, static.arcs)
        arcs = static.scores(entries, *nodes[1:])
        if static.arc_weights is None:
            return lattice.costs(arcs, *nodes[1:], **static.lattice)
        return _weighted_costs(arcs, *nodes[1:], static)
    return _costs(_floats(no_forward_mode, source.prepared(nodes.labels)), *nodes, static)


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


def lattices(source: Source, nodes: NodeLabels, static: Pipeline) -> Lattice:
    """The lattices whose nodes have these labels. Their arcs can be differentiated as the source can be."""
    if source.composes:
        entries, _ = source.forward(nodes.labels, static.arcs)
    else:
        entries = _entries(_floats(no_forward_mode, source.prepared(nodes.labels)), nodes.labels, static.arcs)
    return Lattice(static.scores(entries, *nodes[1:]), *nodes[1:], static.scores.topology.moves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _entries(source: Source, labels: Array, parameters: ArcParameters) -> Array:
    return _entries_forward(source, labels, parameters)[0]


def _entries_forward(source: Source, labels: Array, parameters: ArcParameters):
    source = _floats(no_second_order, source)
    entries, kept = source.forward(labels, parameters)
    return entries, (source, labels, kept)


def _entries_backward(parameters: ArcParameters, residuals, cotangent: Array):
    source, labels, kept = residuals
    whole = source.cotangent_of_costs(cotangent)  # as for the costs, a device may hold only a share of it
    return source.backward(labels, kept, whole, None, parameters), None


_entries.defvjp(_entries_forward, _entries_backward)


def _floats(refuse: Callable[[Array, str], Array], source: Source) -> Source:
    """The source, with ``refuse`` applied to its floating-point arrays."""

    def one(x: Array) -> Array:
        return refuse(x, source.refused_as) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(one, source)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _weighted_costs(arcs: Array, t_b: Array, u_b: Array, static: Pipeline) -> Array:
    return lattice.costs(arcs, t_b, u_b, **static.lattice)


@_weighted_costs.defjvp
def _weighted_costs_jvp(static: Pipeline, primals, tangents):
    cost, posterior = lattice.posteriors(*primals, **static.lattice)
    return cost, lattice.cost_tangents(tangents[0], _weighted(posterior, static))


def _weighted(posterior: Array, static: Pipeline) -> Array:
    if static.arc_weights is None:
        return posterior
    return posterior * jnp.array(static.arc_weights, posterior.dtype)[None, None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _costs(source: Source, labels: Array, t_b: Array, u_b: Array, static: Pipeline) -> Array:
    if not source.composes:
        source = _floats(no_second_order, source)
    entries, _ = source.forward(labels, static.arcs)
    return lattice.costs(static.scores(entries, t_b, u_b), t_b, u_b, **static.lattice)


def _forward(source: Source, labels: Array, t_b: Array, u_b: Array, static: Pipeline):
    if not source.composes:
        source = _floats(no_second_order, source)
    entries, kept = source.forward(labels, static.arcs)
    arcs, pull = jax.vjp(lambda x: static.scores(x, t_b, u_b), entries)
    cost, posterior = lattice.posteriors(arcs, t_b, u_b, **static.lattice)
    return cost, (source, labels, kept, posterior, pull)


def _backward(static: Pipeline, residuals, cotangent: Array):
    source, labels, kept, posterior, pull = residuals
    cotangent = source.cotangent_of_costs(cotangent)
    ct = cotangent[:, None, None, None]
    (of_entries,) = pull(jnp.where(ct == 0, 0, -_weighted(posterior, static) * ct))
    bound = None
    if static.clamp > 0:
        # To clip the unit gradient to clamp and then scale it by ct, clip the scaled gradient to clamp * |ct|.
        bound = jnp.broadcast_to(static.clamp * jnp.abs(cotangent)[:, None, None], labels.shape)
    return source.backward(labels, kept, of_entries, bound, static.arcs), None, None, None


_costs.defvjp(_forward, _backward)
