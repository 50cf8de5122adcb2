"""The memory of a step, as XLA plans it: an eighth on each of eight devices, and little beyond the logits."""

import jax
import jax.numpy as jnp
import losses
import meshes
import pytest

from jax_rnnt.xla import native

pytestmark = [pytest.mark.once, pytest.mark.host]

B, T, U, V = 32, 60, 15, 32
NODES = B * T * (U + 1)


def _abstract(size: int, dtype: str, sharding=None) -> list[jax.ShapeDtypeStruct]:
    shapes = [((size, T, U + 1, V), dtype), ((size, U), "int32"), ((size,), "int32"), ((size,), "int32")]
    return [jax.ShapeDtypeStruct(shape, jnp.dtype(kind), sharding=sharding) for shape, kind in shapes]


def _analysis(function, arguments):
    return jax.jit(function).lower(*arguments).compile().memory_analysis()


def _bytes(analysis) -> dict[str, int]:
    """Bytes of one device: what the step holds in all, and what it needs beside its operands and results."""
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return {"held": held, "temporary": analysis.temp_size_in_bytes}


def test_a_divided_step_holds_an_eighth() -> None:
    """Each of eight devices holds what one device holds for an eighth of the batch, within 5 percent."""
    mesh = meshes.make_mesh(data=8)
    divided = jax.sharding.NamedSharding(mesh, meshes.P("data"))
    step = jax.value_and_grad(meshes.total(losses.QUICK))
    on_mesh = _bytes(_analysis(step, _abstract(B, "float32", divided)))
    alone = _bytes(_analysis(step, _abstract(B // 8, "float32")))
    print(f"{on_mesh} on each of 8 devices, {alone} on one with an eighth of the batch")
    for name, size in on_mesh.items():
        assert size <= 1.05 * alone[name], name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"clamp": 0.1}], ids=["plain", "clamp"])
def test_bytes_beyond_logits_and_gradient(options: dict, dtype: str) -> None:
    """Loss and gradient need at most 40 bytes per node, and the loss alone 24.

    So no second array has the logits' size.
    """
    if not native.native_available():
        pytest.skip("the compiled module is not usable")
    total = meshes.total("native", **options)
    step = _analysis(jax.value_and_grad(total), _abstract(B, dtype)).temp_size_in_bytes / NODES
    loss = _analysis(total, _abstract(B, dtype)).temp_size_in_bytes / NODES
    print(f"{dtype} {options}: {step:.1f} bytes per node for loss and gradient, {loss:.1f} for the loss alone")
    assert step <= 40
    assert loss <= 24
    assert V * jnp.dtype(dtype).itemsize > 40, "else the limit would not notice a copy of the logits"
