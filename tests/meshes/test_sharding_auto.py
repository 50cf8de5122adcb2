"""Automatic mesh axes: XLA's partitioner divides the program. It must not gather the logits or replicate the work."""

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from jax.sharding import NamedSharding
from meshes import B, P, T, U

import jax_rnnt

PARTITIONERS = ("shardy", "gspmd")
OPTIONS = {"plain": {}, "clamp": {"clamp": 0.1}, "log_probs": {"fused_log_softmax": False}}


@pytest.fixture(params=PARTITIONERS)
def partitioner(request: pytest.FixtureRequest):
    with meshes.partitioner(request.param):
        yield request.param


@pytest.mark.full(implementation="lax", partitioner="gspmd")
@pytest.mark.full(implementation="lax", options="log_probs")
@pytest.mark.full(partitioner="gspmd", options=["clamp", "log_probs"])
@pytest.mark.parametrize("options", OPTIONS)
def test_step_with_divided_batch(options: str, partitioner: str, implementation: str) -> None:
    """One scalar crosses the mesh.

    Each kernel sees the examples of its device. The gradient is divided as the logits are.
    """
    mesh = meshes.make_mesh(data=8)
    logits, *rest = meshes.batch()
    chosen = OPTIONS[options]
    step, program = meshes.compiled(
        jax.value_and_grad(meshes.total(implementation, **chosen)), meshes.put(mesh, logits, "data"), *rest
    )
    assert program.collectives() == [("all-reduce", ())]
    meshes.assert_rows_are_local(program, implementation, (B // 8, T, U + 1))
    if implementation == "native":
        assert program.operands("jax_rnnt_lattice_posteriors") == [(B // 8, T, U + 1, 2), (B // 8,), (B // 8,)]
    value, gradient = step(meshes.put(mesh, logits, "data"), *rest)
    cost, wanted = meshes.expected(clamp=chosen.get("clamp", -1.0), fused=chosen.get("fused_log_softmax", True))
    meshes.assert_close(value, cost.sum())
    meshes.assert_close(gradient, wanted)
    assert meshes.is_sharded_as(gradient, mesh, "data")


@pytest.mark.full(partitioner="gspmd", lengths=[()])
@pytest.mark.parametrize("lengths", [(), ("data",)], ids=["replicated", "divided"])
def test_loss_alone_needs_no_exchange(lengths: tuple, partitioner: str) -> None:
    mesh = meshes.make_mesh(data=8)
    logits, *rest = meshes.batch()
    arrays = meshes.put(mesh, logits, "data"), *(meshes.put(mesh, a, *lengths) for a in rest)
    loss, program = meshes.compiled(meshes.costs(losses.QUICK), *arrays)
    assert program.collectives() == []
    if losses.QUICK == "native":
        assert program.operands("jax_rnnt_lattice_cost")[0] == (B // 8, T, U + 1, 2)
    result = loss(*arrays)
    meshes.assert_close(result, meshes.expected()[0])
    assert meshes.is_sharded_as(result, mesh, "data")


@pytest.mark.full(partitioner="gspmd", size=3)
@pytest.mark.parametrize("size", [13, 3], ids=lambda b: f"{b}_examples")
def test_uneven_batch(size: int, partitioner: str) -> None:
    """XLA pads the parts of the last devices with anything. So kernels get lengths and labels that mean nothing."""
    mesh = meshes.make_mesh(data=8)
    divided = NamedSharding(mesh, P("data"))
    arrays = meshes.batch(size)

    def step(scale, logits, *rest):
        logits, *rest = (jax.lax.with_sharding_constraint(a, divided) for a in (logits, *rest))
        return jax.value_and_grad(lambda x: meshes.total(losses.QUICK)(x * scale, *rest))(logits)

    replicated = [meshes.put(mesh, a) for a in (np.ones(()), *arrays)]
    run, program = meshes.compiled(step, *replicated)
    meshes.assert_rows_are_local(program, losses.QUICK, (-(-size // 8), T, U + 1))
    value, gradient = run(*replicated)
    cost, wanted = meshes.expected(size)
    meshes.assert_close(value, cost.sum())
    meshes.assert_close(gradient, wanted)


@pytest.mark.parametrize("dimension", [1, 2], ids=["time", "labels"])
def test_divided_lattice(dimension: int, partitioner: str) -> None:
    """Operation (1) reads each row on the row's device. Arrays of arcs cross the mesh; logits and gradient do not."""
    parts = 2 if dimension == 1 else 4
    mesh = meshes.make_mesh(rows=parts, rest=8 // parts)
    spec = (*(None,) * dimension, "rows")
    logits, *rest = meshes.batch()
    sharded = meshes.put(mesh, logits, *spec)
    step, program = meshes.compiled(jax.value_and_grad(meshes.total(losses.QUICK)), sharded, *rest)
    arcs = B * (T + U + 1) * (U + 1) * 2  # the lax form keeps them by anti-diagonals; there are T + U
    assert 0 < program.largest_exchange() <= arcs < logits.size // parts
    rows = [B, T, U + 1]
    rows[dimension] //= parts
    meshes.assert_rows_are_local(program, losses.QUICK, rows)
    value, gradient = step(sharded, *rest)
    meshes.assert_close(value, meshes.expected()[0].sum())
    meshes.assert_close(gradient, meshes.expected()[1])
    assert meshes.is_sharded_as(gradient, mesh, *spec)


def test_divided_vocabulary_without_its_name_is_still_right() -> None:
    """Without `vocab_axis_name` XLA brings whole rows together. This is slower, and never wrong."""
    mesh = meshes.make_mesh(data=2, model=4)
    logits, *rest = meshes.batch()
    step = jax.jit(jax.value_and_grad(meshes.total(losses.QUICK)))
    value, gradient = step(meshes.put(mesh, logits, "data", None, None, "model"), *rest)
    meshes.assert_close(value, meshes.expected()[0].sum())
    meshes.assert_close(gradient, meshes.expected()[1])


def test_operations_alone(implementation: str) -> None:
    """Runs both public operations, with their batch dimensions divided."""
    mesh = meshes.make_mesh(data=8)
    logits, targets, t_b, u_b = meshes.batch()
    labels = np.concatenate([targets, np.full((B, 1), -1, np.int32)], 1)[:, None] + np.zeros((1, T, 1), np.int32)

    def step(x, labels):
        arcs = jax_rnnt.arc_log_probs(x, labels, implementation=implementation)
        cost, posteriors = jax_rnnt.lattice_posteriors(arcs, t_b, u_b, implementation=implementation)
        return cost, posteriors, jnp.exp(arcs)

    sharded = meshes.put(mesh, logits, "data"), meshes.put(mesh, labels, "data")
    run, program = meshes.compiled(step, *sharded)
    assert program.collectives() == []
    results = run(*sharded)
    meshes.assert_close(results[0], meshes.expected()[0])
    for result in results:
        assert meshes.is_sharded_as(result, mesh, "data")
