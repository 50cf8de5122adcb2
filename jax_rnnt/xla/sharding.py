"""How an operation divides over a mesh: its leading (batch) dimensions may be sharded, every other one may not.

Three descriptions of that one fact are needed: a rule for the Shardy partitioner, the count of batch dimensions for
GSPMD, and result types with the right sharding and manual axes for meshes whose axes are explicit or manual.
"""

import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxlib.mlir import ir


def varying_axes(x: Array) -> frozenset[str]:
    """The manual mesh axes along which ``x`` may differ from device to device, according to its type."""
    aval = jax.typeof(x)
    manual = getattr(aval, "manual_axis_type", None)
    return frozenset(manual.varying if manual is not None else getattr(aval, "vma", ()))


def _varying(x: Array, axes: frozenset[str]) -> Array:
    missing = axes - varying_axes(x)
    if not missing:
        return x
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(x, tuple(sorted(missing)), to="varying")
    pvary = getattr(jax.lax, "pvary")  # noqa: B009  (its name until jax 0.10)
    return pvary(x, tuple(sorted(missing)))


def match_manual_axes(args: Sequence[Array]) -> list[Array]:
    """Inside ``shard_map`` all operands of a primitive must vary over the same mesh axes."""
    union = frozenset[str]().union(*map(varying_axes, args))
    return [_varying(x, union) for x in args]


def vary_alike(tree: Any, *others: Any) -> Any:
    """``tree`` with arrays that vary over all manual axes that one of its arrays, or of ``others``, varies over.

    Inside ``shard_map`` a loop must hand on arrays that vary as those that it began with.
    """
    axes = frozenset[str]().union(*map(varying_axes, jax.tree.leaves((tree, others))))
    return jax.tree.map(lambda x: _varying(x, axes), tree)


def _explicit_sharding(x: Array | np.ndarray) -> NamedSharding | None:
    """The sharding of an array in a mesh with explicit axes; None elsewhere."""
    place = getattr(jax.typeof(x), "sharding", None)
    return None if place is None or place.mesh.empty or AxisType.Explicit not in place.mesh.axis_types else place


def explicit_axes(x: Array | np.ndarray) -> tuple[Any, ...]:
    """What each dimension of ``x`` is divided over, in a mesh whose axes are explicit; () elsewhere."""
    place = _explicit_sharding(x)
    return () if place is None else (*place.spec, *(None,) * (x.ndim - len(place.spec)))


def explicit_batch_axes(x: Array) -> tuple[str, ...]:
    """The mesh axes that the first dimension of ``x`` is divided over, in a mesh whose axes are explicit."""
    axes = next(iter(explicit_axes(x)), None)
    return () if axes is None else axes if isinstance(axes, tuple) else (axes,)


def automatic_axes(x: Array) -> dict[str, int]:
    """The names and sizes of the mesh axes that may divide ``x``, where it is XLA that decides; {} in other meshes."""
    place = getattr(jax.typeof(x), "sharding", None)
    if place is None or any(kind != AxisType.Auto for kind in place.mesh.axis_types):
        return {}
    return {name: size for name, size in place.mesh.shape.items() if size > 1}


def with_automatic_axes(function: Callable[..., Any], spec: PartitionSpec, *arguments: Any) -> Any:
    """``function(*arguments)``, in a mesh whose axes are automatic inside even if they are explicit outside.

    Then the partitioner divides what happens inside, and ``spec`` says how all the results are divided.
    """
    place = next((place for x in jax.tree.leaves(arguments) if (place := _explicit_sharding(x)) is not None), None)
    if place is None:
        return function(*arguments)
    kinds = zip(place.mesh.axis_names, place.mesh.axis_types, strict=True)
    axes = tuple(name for name, kind in kinds if kind == AxisType.Explicit)
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=place.update(spec=spec))(*arguments)


def follow_batch(x: Array, logits: Array) -> Array:
    """``x [B, ...]`` divided over the batch as ``logits [B, ...]`` are, in a mesh whose axes are explicit.

    Arrays that meet in one operation must be divided in the same way there. Labels and lengths are small, so they move.
    """
    place = _explicit_sharding(logits)
    return x if place is None else _moved(x, PartitionSpec(place.spec[0] if place.spec else None))


def laid_out(x: Array, spec: PartitionSpec) -> Array:
    """``x`` divided as ``spec`` says and in no other way, in a mesh whose axes are explicit; elsewhere ``x``."""
    place = _explicit_sharding(x)
    return x if place is None or _dimensions(place.spec) == _dimensions(spec) else _moved(x, spec)


def _dimensions(spec: PartitionSpec) -> list:
    """The axes of each dimension, without the ends that are not divided."""
    each = [s if s is None or isinstance(s, tuple) else (s,) for s in spec]
    while each and not each[-1]:
        each.pop()
    return each


def _moved(x: Array, spec: PartitionSpec) -> Array:
    return jax.sharding.reshard(x, spec)


def result_aval(name: str, like, batch_ndim: int, shape: Sequence[int], dtype):
    """The type of a result whose batch dimensions are those of the operand type ``like``."""
    changes = {}
    sharding = getattr(like, "sharding", None)
    if sharding is not None and not sharding.mesh.empty:
        spec = (*sharding.spec, *(None,) * (like.ndim - len(sharding.spec)))
        if any(s is not None for s in spec[batch_ndim:]):
            raise TypeError(
                f"{name}: only the first {batch_ndim} dimensions of the operand of shape {like.shape} may be sharded, "
                f"got {sharding.spec}. Use jax.sharding.reshard (or with_sharding_constraint) on the operand first."
            )
        replicated = (None,) * (len(shape) - batch_ndim)
        changes["sharding"] = sharding.update(spec=PartitionSpec(*spec[:batch_ndim], *replicated))
    return like.update(shape=tuple(shape), dtype=jax.numpy.dtype(dtype), weak_type=False, **changes)


def ffi_attributes(avals_in: Sequence, avals_out: Sequence, batch_ndim: int) -> dict[str, ir.Attribute]:
    """Attributes of a custom call that let both partitioners run it on each device's part of the batch."""
    if not all(isinstance(d, int) for aval in (*avals_in, *avals_out) for d in aval.shape):
        return {}  # neither notation can express symbolic shapes
    count = ir.DictAttr.get({"num_batch_dims": ir.StringAttr.get(str(batch_ndim))})
    attributes: dict[str, ir.Attribute] = {"mhlo.frontend_attributes": count}
    if getattr(jax.config, "jax_use_shardy_partitioner", True):
        attributes["sdy.sharding_rule"] = ir.Attribute.parse(_shardy_rule(avals_in, avals_out, batch_ndim))
    return attributes


def _shardy_rule(avals_in: Sequence, avals_out: Sequence, batch_ndim: int) -> str:
    sizes = list(
        avals_in[0].shape[:batch_ndim]
    )  # the sizes of the factors: first the shared ones, then one for each further dimension

    def dimensions(aval) -> str:
        private = range(len(sizes), len(sizes) + len(aval.shape) - batch_ndim)
        sizes.extend(aval.shape[batch_ndim:])
        return "[" + ", ".join(_factor(i) for i in (*range(batch_ndim), *private)) + "]"

    operands = ", ".join(map(dimensions, avals_in))
    results = ", ".join(map(dimensions, avals_out))
    factors = ", ".join(f"{_factor(i)}={size}" for i, size in enumerate(sizes))
    private = ", ".join(map(_factor, range(batch_ndim, len(sizes))))
    replicate = f" need_replication={{{private}}}" if private else ""
    return f"#sdy.op_sharding_rule<({operands})->({results}) {{{factors}}}{replicate}, custom>"


def _factor(i: int) -> str:
    """Shardy's names of factors: i, j, ..., z, z_1, z_2, ..."""
    letters = string.ascii_lowercase[string.ascii_lowercase.index("i") :]
    return letters[i] if i < len(letters) else f"z_{i - len(letters) + 1}"
