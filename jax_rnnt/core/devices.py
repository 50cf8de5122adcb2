"""Runs a function of one source or of two on each device's part of a batch, or of a vocabulary."""

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


def both_on_devices(run: Callable[..., Array], first: Source, second: Source, *arrays: Array | None) -> Array:
    """``run(first, second, *arrays) [B, ...]`` on each device's part of the batch. All ``arrays`` are ``[B, ...]``."""
    axes = tuple(axis for axis in _axes_of_both(first, second) if not mesh_axis.is_bound(axis))
    if not axes:
        return run(first, second, *arrays)
    mesh_axis.check_divides("B", first.shape[0], axes)
    batch = PartitionSpec(axes)
    operands = first, second, arrays
    specs = first._partition_specs(axes), second._partition_specs(axes), jax.tree.map(lambda _: batch, arrays)

    def lay_out(spec: PartitionSpec, tree: Any) -> Any:
        return jax.tree.map(lambda x: sharding.laid_out(x, spec), tree)

    def on_device(first: Source, second: Source, arrays: tuple) -> Array:
        return run(first._on_device(axes), second._on_device(axes), *arrays)

    operands = jax.tree.map(lay_out, specs, operands, is_leaf=lambda x: isinstance(x, PartitionSpec))
    return mesh_axis.over_mesh(on_device, axes, specs, batch, "batch_axis_names")(*operands)


def _axes_of_both(first: Source, second: Source) -> tuple[str, ...]:
    """The mesh axes that divide the batch of one source or of both."""
    each = [source._named_axes() for source in (first, second)]
    if not any(each):
        return first._batch_axes() or second._batch_axes()  # they warn if the whole batch runs on every device
    if all(each) and each[0] != each[1]:
        raise ValueError(
            f"The batch of both models must be divided over the same mesh axes, got {each[0]} and {each[1]}."
        )
    return each[0] or each[1]
