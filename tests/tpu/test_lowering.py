"""The forms that programs for TPUs, and for GPUs without kernels, are lowered to. libtpu is not needed."""

import re

import jax
import jax.numpy as jnp
import pytest

import jax_rnnt

TYPES = [((2, 5, 4, 8), jnp.bfloat16), ((2, 3), jnp.int32), ((2,), jnp.int32), ((2,), jnp.int32)]


def gradient(logits, *batch):
    return jax.grad(lambda x: jax_rnnt.rnnt_loss(x, *batch, blank=0))(logits)


def lowered(platform: str, function=gradient, dtype=jnp.bfloat16) -> str:
    types = [jax.ShapeDtypeStruct(TYPES[0][0], dtype), *(jax.ShapeDtypeStruct(*t) for t in TYPES[1:])]
    return jax.jit(function).trace(*types).lower(lowering_platforms=(platform,)).as_text()


def gathers_of_logits(text: str) -> list[str]:
    return re.findall(r"stablehlo\.gather.*\(tensor<(?:\d+x)*4x8x", text)  # U+1 = 4, V = 8


@pytest.mark.parametrize("function", [gradient, jax.vmap(lambda *one: gradient(*(x[None] for x in one)))])
def test_tpus_have_their_own_forms(function) -> None:
    text = lowered("tpu", function)
    assert text.count("stablehlo.while") == 1
    assert not gathers_of_logits(text)
    assert "@LayoutConstraint" in text


@pytest.mark.parametrize(("loss", "loops"), [(jax_rnnt.rnnt_loss, 1), (jax_rnnt.monotonic_rnnt_loss, 2)])
def test_gpus_have_one_loop_if_moves_are_short(loss, loops: int) -> None:
    text = lowered("rocm", lambda logits, *batch: jax.grad(lambda x: loss(x, *batch, blank=0))(logits))
    assert text.count("stablehlo.while") == loops
    assert gathers_of_logits(text)
    assert "@LayoutConstraint" not in text


def test_layouts_of_float64_are_not_constrained() -> None:
    """XLA can't compile one for a TPU."""
    text = lowered("tpu", dtype=jnp.float64)
    assert text.count("stablehlo.while") == 1
    constraints = re.findall(r"@LayoutConstraint.*", text)
    assert constraints
    assert not any("f64" in line for line in constraints)


def test_few_positions_and_symbolic_frames() -> None:
    """Moves may be longer than the lattice has positions."""
    b, t = jax.export.symbolic_shape("b, t")
    types = [((b, t, 1, 3), jnp.float32), ((b,), jnp.int32), ((b,), jnp.int32)]
    lattice = jax.jit(lambda *arrays: jax_rnnt.lattice_posteriors(*arrays, ((1, 0), (2, 0), (0, 1))))
    jax.export.export(lattice, platforms=("tpu",))(*(jax.ShapeDtypeStruct(*x) for x in types))


def test_an_exported_program_has_no_constraint_of_layouts() -> None:
    """JAX would refuse to export one."""
    types = [jax.ShapeDtypeStruct(*t) for t in TYPES]
    exported = jax.export.export(jax.jit(gradient), platforms=("tpu",))(*types)
    text = exported.mlir_module()
    assert text.count("stablehlo.while") == 1
    assert "@LayoutConstraint" not in text
