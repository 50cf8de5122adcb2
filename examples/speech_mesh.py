"""The devices of a run: rows of a batch are divided over the mesh axis "data", the joint's classes over "model".

All else is replicated, and XLA's partitioner divides the program accordingly. On one device there is no mesh.
"""

import contextlib
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from speech_problems import UserError

DATA, MODEL = "data", "model"


def parse_mesh(text: str, devices: int | None) -> dict[str, int]:
    """Sizes of the axes. Without a number of its own "data" gets the devices that "model" leaves."""
    if not re.fullmatch(r"(data|model)=[1-9]\d*(,(?!\1)(data|model)=[1-9]\d*)?", text):
        raise UserError(f"--mesh is {text}; it needs to be data=N, model=N, or both with a comma")
    given = {name: int(size) for name, size in (axis.split("=") for axis in text.split(","))}
    model = given.get(MODEL, 1)
    sizes = {DATA: max(1, (devices or 1) // model), MODEL: model} | given
    if devices and math.prod(sizes.values()) != devices:
        raise UserError(f"--mesh {text} can't divide over as many devices as --devices, {devices}")
    return sizes


def use_devices(sizes: dict[str, int]) -> contextlib.AbstractContextManager:
    """A context in which the mesh is set. On the CPU it makes the devices, if no backend has started yet."""
    count = math.prod(sizes.values())
    if count == 1:
        return contextlib.nullcontext()
    with contextlib.suppress(RuntimeError):  # a backend that runs keeps its devices; their number is checked below
        jax.config.update("jax_num_cpu_devices", count)
    there = jax.devices()
    if len(there) < count:
        raise UserError(f"the mesh needs {count} devices, and there are {len(there)} ({jax.default_backend()})")
    kinds = (AxisType.Auto,) * len(sizes)
    return jax.set_mesh(jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=there[:count]))


def sharding(*axes: str) -> NamedSharding | None:
    """The sharding of an array whose leading dimensions are divided over these axes; None without a mesh."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else NamedSharding(mesh, PartitionSpec(*axes))


def parts(axis: str) -> int:
    """The number of devices along an axis of the current mesh, while tracing too."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def by_rows(function: Callable, *arrays: jax.Array):
    """`function(*arrays)`, each device its own rows: XLA's partitioner would gather what goes into an FFT."""
    if parts(DATA) == 1:
        return function(*arrays)
    rows = PartitionSpec(DATA)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, axis_names={DATA})(*arrays)


def over_vocabulary(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """`layer(x)` with its classes divided over "model". Added classes of -inf make their number divisible."""
    if parts(MODEL) == 1:
        return layer(x)
    more = -layer.out_features % parts(MODEL)
    kernel = jnp.pad(layer.kernel[...], ((0, 0), (0, more)))
    bias = jnp.pad(layer.bias[...], (0, more), constant_values=-jnp.inf)
    kernel = jax.lax.with_sharding_constraint(kernel, PartitionSpec(None, MODEL))
    bias = jax.lax.with_sharding_constraint(bias, PartitionSpec(MODEL))
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x @ kernel + bias, PartitionSpec(*free, MODEL))
