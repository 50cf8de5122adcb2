"""The devices of a run: rows of a batch are divided over the mesh axis "data", the joint's classes over "model".

Everything else is replicated, and XLA's partitioner divides the program accordingly. On one device there is no mesh.
"""

import contextlib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from speech_problems import UserError

DATA, MODEL = "data", "model"


def parse_mesh(text: str, devices: int | None) -> dict[str, int]:
    """Sizes of the axes. One that `text` leaves open gets the devices that the other one leaves; "model" gets 2."""
    sizes: dict[str, int | None] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in (DATA, MODEL) or name in sizes or (size and not (size.isdecimal() and int(size))):
            raise UserError(f"--mesh is {text}; it needs to be data, model, data=N or model=N, each once, with commas")
        sizes[name] = int(size) if size else None
    if len(sizes) == 2 and set(sizes.values()) == {None}:
        sizes[MODEL] = 2
    known = math.prod(size for size in sizes.values() if size is not None)
    count = known if devices is None else devices
    if count % known or (count != known and None not in sizes.values()):
        raise UserError(
            f"--mesh {text} needs {known} devices{' or a multiple of it' * (None in sizes.values())},"
            f" and --devices is {count}"
        )
    return {DATA: 1} | {name: count // known if size is None else size for name, size in sizes.items()}


def use_devices(sizes: dict[str, int]) -> contextlib.AbstractContextManager:
    """A context in which the mesh is set. On the CPU it makes the devices, if no backend has started yet."""
    count = math.prod(sizes.values())
    if count == 1:
        return contextlib.nullcontext()
    if not hasattr(jax, "set_mesh"):
        raise UserError(f"{count} devices need jax 0.7 or newer, and this is jax {jax.__version__}")
    with contextlib.suppress(RuntimeError):  # a backend that runs keeps its devices; their number is checked below
        jax.config.update("jax_num_cpu_devices", count)
    there = jax.device_count()
    if there < count:
        raise UserError(f"--devices is {count}, and there are {there} ({jax.default_backend()})")
    kinds = (AxisType.Auto,) * len(sizes)
    mesh = jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=jax.devices()[:count])
    return jax.set_mesh(mesh)


def _mesh() -> Mesh | None:
    """The mesh that is set, if any."""
    mesh = jax.sharding.get_mesh() if hasattr(jax.sharding, "get_mesh") else None
    return None if mesh is None or mesh.empty else mesh


def _parts(axis: str) -> int:
    """Devices along an axis of the mesh that is set, while tracing too."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def vocabulary_parts() -> int:
    return _parts(MODEL)


def axes_of_rows(count: int) -> tuple[str, ...]:
    """The mesh axes that divide `count` rows."""
    return () if _parts(DATA) == 1 or count % _parts(DATA) else (DATA,)


def by_rows(function: Callable, *arrays: jax.Array):
    """`function(*arrays)`, each device its own rows: XLA's partitioner would gather what goes into an FFT."""
    if not axes_of_rows(len(arrays[0])):
        return function(*arrays)
    rows = PartitionSpec(DATA)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, axis_names={DATA})(*arrays)


def rows_of(count: int) -> NamedSharding | None:
    """Where `count` rows go: divided if they can be, else whole to every device; None without a mesh."""
    mesh = _mesh()
    if mesh is None:
        return None
    return NamedSharding(mesh, PartitionSpec(DATA if count % mesh.shape[DATA] == 0 else None))


def replicate(*modules: nnx.Module) -> None:
    """Puts the arrays of modules on every device of the mesh."""
    mesh = _mesh()
    for module in modules if mesh is not None else ():
        nnx.update(module, jax.device_put(nnx.state(module), NamedSharding(mesh, PartitionSpec())))


def over_vocabulary(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """`layer(x)` with its classes divided over "model", where more classes of -inf make them divisible."""
    parts = vocabulary_parts()
    if parts == 1:
        return layer(x)
    more = -layer.out_features % parts
    kernel = jnp.pad(layer.kernel[...], ((0, 0), (0, more)))
    bias = jnp.pad(layer.bias[...], (0, more), constant_values=-jnp.inf)
    kernel = jax.lax.with_sharding_constraint(kernel, PartitionSpec(None, MODEL))
    bias = jax.lax.with_sharding_constraint(bias, PartitionSpec(MODEL))
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x @ kernel + bias, PartitionSpec(*free, MODEL))
