"""Costs of logits whose vocabulary is divided over a mesh axis: each device reads its own part, and only arrays of the
size of the lattice cross the mesh."""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec

from jax_rnnt.ops import arcs, lattice, lax_arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import RNNT_MOVES
from jax_rnnt.ops.slices import at
from jax_rnnt.xla.refusals import no_forward_mode, no_second_order
from jax_rnnt.xla.sharding import varying_axes


def is_bound(axis_name: str) -> bool:
    """Whether code runs once a device along the axis, as inside ``shard_map`` and ``pmap``."""
    try:
        lax.axis_index(axis_name)
    except NameError:
        return False
    return True


def is_undivided(axis_name: str) -> bool:
    """Whether the current mesh has but one device along the axis; partitioners lose what is manual over such a one."""
    return not is_bound(axis_name) and jax.sharding.get_abstract_mesh().shape.get(axis_name) == 1


def over_mesh(loss, axis_name: str):
    """``loss(logits, targets, logit_lengths, target_lengths)`` with only ``axis_name`` manual, in the current mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if axis_name not in mesh.axis_names:
        raise ValueError(
            f"`vocab_axis_name` is {axis_name!r}, which is neither an axis of a shard_map or pmap around this call nor "
            f"of the current mesh, whose axes are {mesh.axis_names}. Call it inside jax.shard_map, or under "
            "`with jax.set_mesh(mesh):`."
        )
    if jax.__version_info__ < (0, 7) and AxisType.Explicit in mesh.axis_types:
        raise TypeError(
            f"`vocab_axis_name` in a mesh with explicit axes needs jax 0.7 or newer, and this is {jax.__version__}: "
            f"operations on arrays that are divided over explicit and manual axes at once fail there. The axes are "
            f"{dict(zip(mesh.axis_names, mesh.axis_types, strict=True))}; AxisType.Auto will do."
        )
    logits = PartitionSpec(None, None, None, axis_name)
    replicated = PartitionSpec()
    return jax.shard_map(
        loss,
        in_specs=(logits, replicated, replicated, replicated),
        out_specs=replicated,
        axis_names={axis_name},
    )


def _divided_arcs(logits: Array, labels: Array, parameters: ArcParameters, axis: str) -> tuple[Array, Array, Array]:
    """``log_probs [..., K]`` and ``log_norm [...]`` of the whole vocabulary, and the ``offsets [...]`` of this part."""
    offsets = jnp.zeros_like(labels) + lax.axis_index(axis).astype(jnp.int32) * logits.shape[-1]
    # Not normalised, the first call reads no more than the entries that it picks.
    static = parameters.asdict()
    picks, _ = arcs.forward(logits, labels, offsets, **(static | {"normalize": False}))
    places = jnp.stack(lax_arcs.places_of_arcs(labels, parameters.columns, offsets), axis=-1)
    owned = jnp.where((places >= 0) & (places < logits.shape[-1]), picks, 0)
    if parameters.normalize:
        _, part = arcs.forward(logits, labels, offsets, **(static | {"columns": ()}))
        top = lax.pmax(part, axis)
        shift = jnp.where(top == -jnp.inf, 0, top)
        total = lax.psum(jnp.concatenate([owned, jnp.exp(part - shift)[..., None]], axis=-1), axis)
        owned, log_norm = total[..., :-1], shift + jnp.log(total[..., -1])
    else:
        owned = lax.psum(owned, axis)
        log_norm = jnp.zeros_like(at(owned, 0))
    each = [at(owned, k) for k in range(owned.shape[-1])]
    return lax_arcs.assemble(each, labels, log_norm, parameters.columns, parameters.vocabulary), log_norm, offsets


def divided_costs(
    logits: Array, labels: Array, t_b: Array, u_b: Array, parameters: ArcParameters, clamp: float, axis: str
) -> Array:
    """``costs [B]`` of this device's ``logits [B, T, U+1, V / devices]``, the same on every device along ``axis``."""
    logits = no_forward_mode(logits, "vocab_axis_name")
    return _divided_costs(logits, labels, t_b, u_b, parameters, clamp, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _divided_costs(logits, labels, t_b, u_b, parameters: ArcParameters, clamp: float, axis: str):
    log_probs, _, _ = _divided_arcs(logits, labels, parameters, axis)
    return lattice.costs(log_probs, t_b, u_b, moves=RNNT_MOVES, implementation=parameters.implementation)


def _forward(logits, labels, t_b, u_b, parameters: ArcParameters, clamp: float, axis: str):
    logits = no_second_order(logits, "vocab_axis_name")
    log_probs, log_norm, offsets = _divided_arcs(logits, labels, parameters, axis)
    costs, posterior = lattice.posteriors(
        log_probs, t_b, u_b, moves=RNNT_MOVES, implementation=parameters.implementation
    )
    return costs, (logits, labels, log_norm, posterior, offsets)


def _backward(parameters: ArcParameters, clamp: float, axis: str, residuals, cotangent):
    logits, labels, log_norm, posterior, offsets = residuals
    if axis not in varying_axes(logits):
        # Without check_vma a sum over devices is its own transpose: every device brings its share of the cotangent.
        cotangent = lax.psum(cotangent, axis)
    arc_cotangent = jnp.where(cotangent[:, None, None, None] == 0, 0, -posterior * cotangent[:, None, None, None])
    bound = (jnp.broadcast_to(clamp * jnp.abs(cotangent)[:, None, None], log_norm.shape),) if clamp > 0 else ()
    optional = (*bound, offsets)
    (grad,) = arcs.backward(
        logits, labels, log_norm, arc_cotangent, *optional, clipped=clamp > 0, **parameters.asdict()
    )
    return grad, None, None, None


_divided_costs.defvjp(_forward, _backward)
