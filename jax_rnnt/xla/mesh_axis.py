"""The mesh axis that divides a vocabulary or a batch, and functions that run once on each device along it."""

import math
from collections.abc import Callable

import jax
from jax import Array, lax


def is_bound(axis_name: str) -> bool:
    """Whether this code already runs once on each device along the axis, as inside ``shard_map`` and ``pmap``."""
    try:
        lax.axis_index(axis_name)
    except NameError:
        return False
    return True


def is_undivided(axis_name: str) -> bool:
    """Whether the current mesh has only one device along the axis. Partitioners mishandle manual axes of size 1."""
    return not is_bound(axis_name) and jax.sharding.get_abstract_mesh().shape.get(axis_name) == 1


def check_divides(letter: str, size: int, axes: tuple[str, ...]) -> None:
    """Requires that the devices along these axes, if the current mesh has them, get equal parts of ``size``."""
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(mesh.shape.get(axis, 1) for axis in axes)
    if isinstance(size, int) and size % devices != 0:
        names = ", ".join(map(repr, axes))
        raise ValueError(
            f"`logits` have {letter} = {size}, and the mesh has {devices} devices along {names}: {letter} must be a "
            f"multiple of {devices}. Pad it."
        )


def over_mesh(
    costs: Callable[..., Array], axes: tuple[str, ...], in_specs: tuple, out_specs, argument: str
) -> Callable:
    """``costs(source, targets, logit_lengths, target_lengths)`` with only ``axes`` manual, in the current mesh.

    ``argument`` is the name that errors give to the axes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    for axis in axes:
        if axis not in mesh.axis_names:
            raise ValueError(
                f"`{argument}` is {axis!r}, which is neither an axis of a shard_map or pmap around this call nor of "
                f"the current mesh, whose axes are {mesh.axis_names}. Call it inside jax.shard_map, or under "
                "`with jax.set_mesh(mesh):`."
            )
    return jax.shard_map(costs, in_specs=in_specs, out_specs=out_specs, axis_names=set(axes))
