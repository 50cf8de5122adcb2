"""Runs a function on each device's part of a batch, or of a vocabulary that is divided over a mesh axis."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import PartitionSpec

from jax_rnnt.logits.source import Source
from jax_rnnt.xla import mesh_axis, sharding

OnPart = Callable[[Source, Array, Array, Array, Any], Any]
"""From a source, targets, T_b, U_b and a pytree of scalars to arrays ``[B, ...]``."""


def on_devices(
    run: OnPart, source: Source, targets: Array, t_b: Array, u_b: Array, scalars: Any, *, vocab_axis_name: str | None
) -> Any:
    part = functools.partial(on_devices, run, vocab_axis_name=vocab_axis_name)
    source = source._laid_out()
    axes = tuple(axis for axis in source._batch_axes() if not mesh_axis.is_bound(axis))
    if axes:
        mesh_axis.check_divides("B", source.shape[0], axes)

        def on_device(source: Source, *rest: Array) -> Any:
            return part(source._on_device(axes), *rest)

        batch, whole = PartitionSpec(axes), PartitionSpec()
        specs = (source._partition_specs(axes), batch, batch, batch, whole)
        return mesh_axis.over_mesh(on_device, axes, specs, batch, "batch_axis_names")(
            source, targets, t_b, u_b, scalars
        )
    axis = vocab_axis_name
    if axis is None or mesh_axis.is_undivided(axis):
        return run(source, targets, t_b, u_b, scalars)
    divided = source._divided(axis)
    if mesh_axis.is_bound(axis):
        return run(divided, targets, t_b, u_b, scalars)
    mesh_axis.check_divides("V", source.shape[-1], (axis,))
    # Explicit axes that divide the batch become manual too: before jax 0.9 the gradient fails in a mesh of both kinds.
    axes = sharding.explicit_batch_axes(source._batched())
    batch, rows = PartitionSpec(axes or None), PartitionSpec(axes or None, None, None, axis)
    specs = (rows, batch, batch, batch, PartitionSpec())
    source = jax.tree.map(lambda x: sharding.laid_out(x, rows), source)
    over_mesh = mesh_axis.over_mesh(part, (axis, *axes), specs, batch, "vocab_axis_name")
    return over_mesh(source, targets, t_b, u_b, scalars)
