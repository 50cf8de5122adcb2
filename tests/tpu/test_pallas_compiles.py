"""The Pallas kernels compile for TPUs that are not there: Mosaic takes them, and their blocks fit fast memory."""

import functools

import jax
import jax.numpy as jnp
import pytest
import reference
import tpu_programs
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jax_rnnt
from jax_rnnt.ops import pallas_lattice, pallas_recursion

pytestmark = [tpu_programs.needs_libtpu, pytest.mark.once, pytest.mark.host]

CHIPS = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")
MOVES = {"rnnt": reference.RNNT, "tdt": tuple((d, 0) for d in range(1, 5)) + tuple((d, 1) for d in range(5))}
KERNELS = 3  # the skew, the recursions, and the posteriors


def types(batch: int, t: int, u: int, k: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    length = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return jax.ShapeDtypeStruct((batch, t, u + 1, k), jnp.float32), length, length


def kernels(arcs, t_b, u_b, *, moves: reference.Moves) -> list[jax.Array]:
    """The branch with the kernels alone, because the other branch takes longer to compile."""
    opened = jnp.where(jnp.abs(arcs) < 1e4, arcs, -jnp.inf)
    return pallas_lattice.by_kernels(opened, t_b >= 0, t_b, u_b, moves, True, False)


@pytest.mark.full(chip=["v4:2x2x1", "v5p:2x2x1"], name=["tdt"])
@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("chip", CHIPS)
def test_every_chip(chip: str, name: str) -> None:
    moves = MOVES[name]
    run = functools.partial(kernels, moves=moves)
    program = tpu_programs.compile_for(chip, run, *types(16, 200, 50, len(moves)))
    assert program.text.count('custom_call_target="tpu_custom_call"') == KERNELS


@pytest.mark.full(name="rnnt")
@pytest.mark.parametrize(("name", "depth"), [("rnnt", 16), ("rnnt", 8), ("tdt", 8)])
def test_the_widest_lattice(name: str, depth: int) -> None:
    """The most columns that chunks of this depth are chosen for, on the chip with the least fast memory."""
    moves = MOVES[name]
    u1 = max(c for c in range(128, 4096, 128) if pallas_recursion.chunk_depth(c, moves) == depth)
    run = functools.partial(kernels, moves=moves)
    program = tpu_programs.compile_for("v4:2x2x1", run, *types(8, 20, u1 - 1, len(moves)))
    assert program.text.count('custom_call_target="tpu_custom_call"') == KERNELS


@pytest.mark.full(check_vma=False)
@pytest.mark.parametrize("check_vma", [True, False])
def test_the_gradient_in_shard_map(check_vma: bool) -> None:
    devices = tpu_programs.devices("v5e:2x2", 4)
    mesh = jax.sharding.Mesh(devices, ("data",))
    loss = functools.partial(jax_rnnt.rnnt_loss, implementation="pallas", reduction="sum")

    def step(*arrays):
        cost, gradient = jax.value_and_grad(loss)(*arrays)
        return jax.lax.psum(cost, "data"), gradient

    run = jax.shard_map(step, mesh=mesh, in_specs=P("data"), out_specs=(P(), P("data")), check_vma=check_vma)
    place = NamedSharding(mesh, P("data"))
    shapes = ((8, 60, 21, 128), jnp.bfloat16), ((8, 20), jnp.int32), ((8,), jnp.int32), ((8,), jnp.int32)
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape, dtype in shapes]
    program = tpu_programs.compiled(run, *arrays)
    assert program.text.count('custom_call_target="tpu_custom_call"') == KERNELS
    assert program.collectives == 0


def test_several_devices_under_jit_take_the_lax_form() -> None:
    run = functools.partial(jax_rnnt.lattice_cost, implementation="pallas")
    with pytest.warns(RuntimeWarning, match=r"for 4 devices.*inside jax\.shard_map with all axes manual"):
        program = tpu_programs.compile_for("v5e:2x2", run, *types(8, 20, 10, 2), chips=4)
    assert "tpu_custom_call" not in program.text


def test_without_the_option_no_kernel() -> None:
    program = tpu_programs.compile_for("v5e:2x2", jax_rnnt.lattice_cost, *types(8, 20, 10, 2))
    assert "tpu_custom_call" not in program.text
