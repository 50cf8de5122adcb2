"""The steps that all losses share: check the arguments, label the nodes, run the pipeline, reduce the costs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from jax_rnnt.core import pipeline
from jax_rnnt.core.arc_scores import ArcScores
from jax_rnnt.core.node_labels import NodeLabels, node_labels
from jax_rnnt.core.options import Options
from jax_rnnt.core.reduction import reduced
from jax_rnnt.core.topology import Topology
from jax_rnnt.logits.dense import DenseLogits
from jax_rnnt.logits.source import Source
from jax_rnnt.ops import checks
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.xla import mesh_axis, sharding

MakeTopology = Callable[[int], Topology]
"""From W, the width of a whole row of logits."""


Logits = ArrayLike | Source
"""What a loss takes: a dense array ``[B, T, U+1, W]``, or another source of logits."""


def checked_batch(
    logits: Logits, targets: ArrayLike, logit_lengths: ArrayLike, target_lengths: ArrayLike
) -> tuple[Source, Array, Array, Array]:
    """The source, and targets and lengths ``[B, U], [B], [B]``, divided over the batch as the logits are."""
    source = logits if isinstance(logits, Source) else DenseLogits(checks.as_array("logits", logits))
    source.check()
    labels = checks.as_integers("targets", targets)
    t_b = checks.as_integers("logit_lengths", logit_lengths)
    u_b = checks.as_integers("target_lengths", target_lengths)
    checks.loss_arguments(jax.ShapeDtypeStruct(source.shape, source.dtype), labels, t_b, u_b)
    like = source.batched()
    return (
        source,
        sharding.follow_batch(labels, like),
        sharding.follow_batch(t_b, like),
        sharding.follow_batch(u_b, like),
    )


def checked_weights(weights: ArrayLike | None, source: Source, dtype) -> Array | None:
    if weights is None:
        return None
    x = checks.as_array("weights", weights)
    checks.shape("weights", x, (source.shape[0],), "[B]")
    return sharding.follow_batch(x, source.batched()).astype(dtype)


def transducer_loss(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    options: Options,
    weights: ArrayLike | None = None,
) -> Array:
    batch = checked_batch(logits, targets, logit_lengths, target_lengths)
    costs = example_costs(*batch, options, options.topology)
    return reduced(costs, batch[3], checked_weights(weights, batch[0], costs.dtype), options)


def example_costs(
    source: Source, targets: Array, t_b: Array, u_b: Array, options: Options, topology: MakeTopology
) -> Array:
    """``costs [B]``."""
    return on_devices(source, targets, t_b, u_b, options, topology, pipeline.costs)


def example_lattices(source: Source, targets: Array, t_b: Array, u_b: Array, options: Options) -> pipeline.Lattice:
    """What the costs are sums over."""
    return on_devices(source, targets, t_b, u_b, options, options.topology, pipeline.lattices)


def on_devices(
    source: Source,
    targets: Array,
    t_b: Array,
    u_b: Array,
    options: Options,
    topology: MakeTopology,
    run: Callable[[Source, NodeLabels, pipeline.Pipeline], Any],
) -> Any:
    """``run`` on what each device has of the batch or of the vocabulary; arrays ``[B, ...]``."""
    part = functools.partial(on_devices, options=options, topology=topology, run=run)
    source = source.laid_out()
    axes = tuple(axis for axis in source.batch_axes() if not mesh_axis.is_bound(axis))
    if axes:
        mesh_axis.check_divides("B", source.shape[0], axes)

        def of_device(source: Source, *rest: Array) -> Array:
            return part(source.on_device(axes), *rest)

        batch = PartitionSpec(axes)
        specs = (source.partition_specs(axes), batch, batch, batch)
        return mesh_axis.over_mesh(of_device, axes, specs, batch, "batch_axis_names")(source, targets, t_b, u_b)
    axis = options.vocab_axis_name
    if axis is not None and mesh_axis.is_undivided(axis):
        axis = None
    part_of_device = source if axis is None else source.divided(axis)
    if axis is not None and not mesh_axis.is_bound(axis):
        mesh_axis.check_divides("V", source.shape[-1], (axis,))
        # Explicit axes that divide the batch become manual too: until jax 0.8 a gradient fails if the mesh has both.
        axes = sharding.explicit_batch_axes(source.batched())
        batch = PartitionSpec(axes or None)
        specs = (PartitionSpec(axes or None, None, None, axis), batch, batch, batch)
        laid_out = jax.tree.map(lambda x: sharding.laid_out(x, specs[0]), source)
        return mesh_axis.over_mesh(part, (axis, *axes), specs, batch, "vocab_axis_name")(laid_out, targets, t_b, u_b)
    width = source.shape[-1] * (1 if axis is None else jax.lax.psum(1, axis))
    arcs = topology(width)
    nodes = node_labels(targets, t_b, u_b, (*source.shape[:-1], arcs.vocabulary), arcs.blanks)
    static = pipeline.Pipeline(
        ArcParameters(arcs.columns, width, arcs.window, options.implementation),
        ArcScores(arcs, options.delay_penalty, options.sigma, options.wildcard, options.wildcard_weight),
        _arc_weights(arcs, options.fastemit_lambda),
        float(options.clamp),
        options.implementation,
    )
    return run(part_of_device, nodes, static)


def _arc_weights(topology: Topology, fastemit_lambda: float) -> tuple[float, ...] | None:
    if fastemit_lambda == 0:
        return None
    return tuple(1.0 + fastemit_lambda if emits else 1.0 for emits in topology.label_arcs())
