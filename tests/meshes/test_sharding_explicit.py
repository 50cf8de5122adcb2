"""Explicit mesh axes: the type of an array contains its sharding.

So a result has its sharding at trace time, or there is a TypeError.
"""

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from jax.sharding import AxisType
from meshes import B, P, T, U

import jax_rnnt


def _mesh(**axes: int):
    return meshes.make_mesh(AxisType.Explicit, **axes)


def _spec(x) -> tuple:
    """The sharding in the type of `x`, without None at its end."""
    spec = list(jax.typeof(x).sharding.spec)
    while spec and spec[-1] is None:
        spec.pop()
    return tuple(spec)


# These say which of targets, logit_lengths and target_lengths are divided as the logits are. The others are replicated.
INTEGERS = {"all": (True, True, True), "none": (False, False, False), "lengths": (False, True, True)}


@pytest.mark.parametrize("divided", INTEGERS)
def test_shardings_propagate(divided: str) -> None:
    """Shardings are in the types while JAX traces, and in the results. Still only a scalar crosses the mesh."""
    mesh = _mesh(data=8)
    logits, *rest = meshes.batch()
    traced = {}

    def step(x, *rest):
        loss = meshes.costs(losses.QUICK)(x, *rest)
        value, gradient = jax.value_and_grad(meshes.total(losses.QUICK))(x, *rest)
        traced.update(loss=_spec(loss), value=_spec(value), gradient=_spec(gradient))
        return loss, value, gradient

    with jax.set_mesh(mesh):
        specs = [["data"] * chosen for chosen in INTEGERS[divided]]
        integers = (meshes.put(mesh, a, *spec) for a, spec in zip(rest, specs, strict=True))
        arrays = meshes.put(mesh, logits, "data"), *integers
        executable = jax.jit(step).lower(*arrays).compile()
        loss, value, gradient = executable(*arrays)
    assert traced == {"loss": ("data",), "value": (), "gradient": ("data",)}
    assert meshes.Program(executable.as_text()).collectives() == [("all-reduce", ())]
    meshes.assert_close(loss, meshes.expected()[0])
    meshes.assert_close(value, meshes.expected()[0].sum())
    meshes.assert_close(gradient, meshes.expected()[1])
    assert meshes.is_sharded_as(loss, mesh, "data")
    assert meshes.is_sharded_as(gradient, mesh, "data")


def test_clamp_and_two_axes() -> None:
    mesh = _mesh(data=2, model=4)
    logits, *rest = meshes.batch()
    with jax.set_mesh(mesh):
        arrays = tuple(meshes.put(mesh, a, ("data", "model")) for a in (logits, *rest))
        gradient = jax.jit(jax.grad(meshes.total(losses.QUICK, clamp=0.1)))(*arrays)
        loss = jax.jit(meshes.costs(losses.QUICK, clamp=0.1))(*arrays)
    assert _spec(gradient) == (("data", "model"),)
    assert _spec(loss) == (("data", "model"),)
    meshes.assert_close(loss, meshes.expected(clamp=0.1)[0])
    meshes.assert_close(gradient, meshes.expected(clamp=0.1)[1])


def test_eager_calls() -> None:
    """Outside jit the types are the same."""
    mesh = _mesh(data=8)
    with jax.set_mesh(mesh):
        arrays = tuple(meshes.put(mesh, a, "data") for a in meshes.batch())
        loss = meshes.costs(losses.QUICK)(*arrays)
    assert _spec(loss) == ("data",)
    meshes.assert_close(loss, meshes.expected()[0])


def test_vmap_of_grad() -> None:
    mesh = _mesh(data=8)
    arrays = meshes.batch()
    with jax.set_mesh(mesh):
        stacked = tuple(meshes.put(mesh, np.stack([a, np.roll(a, 1, 0)]), None, "data") for a in arrays)
        gradient = jax.jit(jax.vmap(jax.grad(meshes.total(losses.QUICK))))(*stacked)
    wanted = meshes.expected()[1]
    meshes.assert_close(gradient, np.stack([wanted, np.roll(wanted, 1, 0)]))
    assert meshes.is_sharded_as(gradient, mesh, None, "data")


@pytest.mark.parametrize("operation", ["arcs", "lattice", "loss"])
def test_what_cannot_be_divided_is_said(operation: str) -> None:
    """The operation has no type for a divided vocabulary or a divided lattice. The message says what to do."""
    mesh = _mesh(model=8) if operation != "lattice" else _mesh(model=2)
    logits, *rest = meshes.batch()
    labels = np.zeros((B, T, U + 1), np.int32)
    with jax.set_mesh(mesh):
        if operation == "arcs":
            x = meshes.put(mesh, logits, None, None, None, "model")
            call = lambda: jax_rnnt.arc_log_probs(x, labels, implementation=losses.QUICK)  # noqa: E731
        elif operation == "lattice":
            arcs = meshes.put(mesh, logits[..., :2], None, "model")
            call = lambda: jax_rnnt.lattice_cost(arcs, *rest[1:], implementation=losses.QUICK)  # noqa: E731
        else:
            x = meshes.put(mesh, logits, None, None, None, "model")
            call = lambda: jax.grad(meshes.total(losses.QUICK))(x, *rest)  # noqa: E731
        with pytest.raises(TypeError) as error:
            call()
    message = str(error.value)
    assert "lattice_cost" in message if operation == "lattice" else "arcs_forward" in message
    assert "may be sharded" in message
    assert "model" in message, "which sharding it got"
    assert "jax.sharding.reshard" in message, "and what to do"


def test_divided_time_by_the_two_operations() -> None:
    """Rows are read on their devices. Then the small arrays of arcs are gathered. The test writes out both steps."""
    mesh = _mesh(time=2, data=4)
    logits, targets, t_b, u_b = meshes.batch()
    labels = np.concatenate([targets, np.full((B, 1), -1, np.int32)], 1)[:, None] + np.zeros((1, T, 1), np.int32)

    def loss(x, labels, t_b, u_b):
        arcs = jax_rnnt.arc_log_probs(x, labels, implementation=losses.QUICK)
        assert _spec(arcs) == ("data", "time")
        return jnp.sum(
            jax_rnnt.lattice_cost(jax.sharding.reshard(arcs, P("data")), t_b, u_b, implementation=losses.QUICK)
        )

    with jax.set_mesh(mesh):
        arrays = (
            *(meshes.put(mesh, a, "data", "time") for a in (logits, labels)),
            *(meshes.put(mesh, a, "data") for a in (t_b, u_b)),
        )
        executable = jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
        value, gradient = executable(*arrays)
    program = meshes.Program(executable.as_text())
    meshes.assert_rows_are_local(program, losses.QUICK, (B // 4, T // 2, U + 1))
    assert program.largest_exchange() <= (B // 4) * (T + U + 1) * (U + 1) * 2
    meshes.assert_close(value, meshes.expected()[0].sum())
    meshes.assert_close(gradient, meshes.expected()[1])
    assert _spec(gradient) == ("data", "time")


def test_scan_and_remat() -> None:
    mesh = _mesh(data=8)
    arrays = meshes.batch()
    with jax.set_mesh(mesh):
        stacked = tuple(meshes.put(mesh, np.stack([a, a]), None, "data") for a in arrays)
        total = jax.checkpoint(meshes.total(losses.QUICK))

        @jax.jit
        def accumulate(stacked):
            zero = jnp.zeros_like(stacked[0][0])
            return jax.lax.scan(lambda c, micro: (c + jax.grad(total)(*micro), None), zero, stacked)[0]

        gradient = accumulate(stacked)
    meshes.assert_close(gradient, 2 * meshes.expected()[1])
    assert meshes.is_sharded_as(gradient, mesh, "data")
