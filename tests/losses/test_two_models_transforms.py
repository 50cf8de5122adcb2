"""Losses of two models under the transformations of JAX: vmap, meshes, export, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import reference_two_models as reference
from jax.sharding import AxisType
from meshes import P, T, U, V

import jax_rnnt

D = 4
LOSS = jax_rnnt.RNNTLoss()


def _joint(params, e, p):
    return jnp.tanh(e + p) @ params


@functools.cache
def _operands(size: int = 8) -> tuple[np.ndarray, ...]:
    """The joint's matrix and inputs of the student, the teacher's logits, targets, lengths and weights of nodes."""
    rng = np.random.default_rng(size)
    models = rng.normal(size=(D, V)), rng.normal(size=(size, T, D)), rng.normal(size=(size, U + 1, D))
    teacher, *batch = meshes.batch(size)
    weights = rng.uniform(0.5, 1, teacher.shape[:3]) * (rng.random(teacher.shape[:3]) > 0.3)
    return *models, 2 * teacher, *batch, weights


def _total(call, kernel, encoded, predicted, teacher, targets, t_b, u_b, weights, **source):
    student = jax_rnnt.JointLogits(_joint, kernel, encoded, predicted, tile_rows=16, **source)
    return call(LOSS, student, teacher, targets, t_b, u_b, node_weights=weights, reduction="sum")


CALLS = {"distillation": jax_rnnt.distillation_loss, "consistency": jax_rnnt.consistency_loss}
BY = (0, 1, 2, 3)


def _step(call, **source):
    return jax.value_and_grad(functools.partial(_total, call, **source), BY)


@functools.cache
def _expected(name: str, size: int = 8):
    kernel, encoded, predicted, teacher, *batch, weights = _operands(size)
    logits, pull = jax.vjp(lambda k, e, p: _joint(k, e[:, :, None], p[:, None]), kernel, encoded, predicted)
    if name == "consistency":
        value, of_student, of_teacher = reference.consistency(losses.RNNT.oracle, logits, teacher, batch, weights)
    else:
        value, of_student = reference.distillation(losses.RNNT.oracle, logits, teacher, batch, weights)
        of_teacher = np.zeros(teacher.shape)
    return value.sum(), (*pull(jnp.asarray(of_student)), of_teacher)


def _assert_expected(name: str, result, size: int = 8) -> None:
    for actual, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(_expected(name, size)), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-11)


def _split(x):
    return x.reshape(2, -1, *x.shape[1:])


def test_vmap() -> None:
    kernel, *rest = _operands()
    step = jax.vmap(_step(CALLS["consistency"]), (None, *[0] * 7))
    value, (of_kernel, *others) = losses.jit(step)(kernel, *map(_split, rest))
    _assert_expected("consistency", (value.sum(), (of_kernel.sum(0), *(x.reshape(-1, *x.shape[2:]) for x in others))))


def test_export_of_symbolic_shapes() -> None:
    """One program serves batches of any size and any number of frames, with dense logits on both sides."""
    export = pytest.importorskip("jax.export", reason="jax.export serialises with flatbuffers")
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in jax_rnnt.ffi_targets()]
    b, t = export.symbolic_shape("b, t")
    x, (*batch, weights) = np.random.default_rng(1).normal(size=(8, T, U + 1, V)), _operands()[4:]
    y = _operands()[3]

    def shape(x):
        return jax.ShapeDtypeStruct((b, t, *x.shape[2:]) if x.shape[1:2] == (T,) else (b, *x.shape[1:]), x.dtype)

    def step(x, y, targets, t_b, u_b, weights):
        def call(x):
            return jax_rnnt.distillation_loss(LOSS, x, y, targets, t_b, u_b, node_weights=weights, reduction="sum")

        return jax.value_and_grad(call)(x)

    arrays = x, y, *batch, weights
    program = export.export(jax.jit(step), disabled_checks=checks)(*map(shape, arrays))
    value, gradient = losses.jit(program.call)(*arrays)
    wanted, wanted_gradient = reference.distillation(losses.RNNT.oracle, x, y, batch, weights)
    np.testing.assert_allclose(value, wanted.sum(), rtol=1e-11)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-9, atol=1e-12)


# --- meshes -----------------------------------------------------------------------------------------------------------


def _assert_divided(program: meshes.Program) -> None:
    """Every device runs its own tiles. Only the loss and the gradient of the joint's matrix cross the mesh."""
    assert {kind for kind, _ in program.collectives()} == {"all-reduce"}
    assert program.largest_exchange() <= D * V


def test_shard_map() -> None:
    def total(*operands):
        return jax.lax.psum(_total(CALLS["distillation"], *operands), "data")

    data = P("data")
    specs = (P(), *[data] * 7), (P(), (P(), data, data, data))
    mesh = meshes.make_mesh(data=4)
    mapped = jax.shard_map(jax.value_and_grad(total, BY), mesh=mesh, in_specs=specs[0], out_specs=specs[1])
    run, program = meshes.compiled(mapped, *_operands())
    _assert_divided(program)
    _assert_expected("distillation", run(*_operands()))


def test_a_divided_batch_stays_where_it_is() -> None:
    """One source names the axes. The other source follows."""
    mesh = meshes.make_mesh(data=4, model=2)
    kernel, *rest = _operands()
    with jax.set_mesh(mesh):
        arrays = [meshes.put(mesh, kernel), *(meshes.put(mesh, x, "data") for x in rest)]
        run, program = meshes.compiled(_step(CALLS["consistency"], batch_axis_names=("data",)), *arrays)
        result = run(*arrays)
    _assert_divided(program)
    _assert_expected("consistency", result)
    assert all(meshes.is_sharded_as(x, mesh, "data") for x in result[1][1:])


def test_one_divided_model_on_an_explicit_mesh() -> None:
    """The other model is whole on each device, and each device takes the part that it needs."""
    mesh = meshes.make_mesh(AxisType.Explicit, data=4)
    x, y = np.random.default_rng(1).normal(size=(8, T, U + 1, V)), _operands()[3]
    *batch, weights = _operands()[4:]
    with jax.set_mesh(mesh):
        models = meshes.put(mesh, x, "data"), meshes.put(mesh, y)
        arrays = [meshes.put(mesh, z) for z in (*batch, weights)]

        def call(x, y):
            return jax_rnnt.distillation_loss(LOSS, x, y, *arrays[:3], node_weights=arrays[3], reduction="sum")

        value, gradient = jax.jit(jax.value_and_grad(call))(*models)
    wanted, wanted_gradient = reference.distillation(losses.RNNT.oracle, x, y, batch, weights)
    np.testing.assert_allclose(value, wanted.sum(), rtol=1e-11)
    np.testing.assert_allclose(gradient, wanted_gradient, rtol=1e-9, atol=1e-12)


def test_what_a_mesh_cannot_divide() -> None:
    kernel, encoded, predicted, _, *batch, _ = _operands()
    student = jax_rnnt.JointLogits(_joint, kernel, encoded, predicted, batch_axis_names=("data",))
    rows = jnp.zeros((8 * T * (U + 1), V))
    packed = jax_rnnt.PackedLogits(rows, *(jnp.asarray(x) for x in batch[1:]), num_frames=T, num_labels=U)
    other = jax_rnnt.JointLogits(_joint, kernel, encoded, predicted, batch_axis_names=("model",))
    with jax.set_mesh(meshes.make_mesh(data=2, model=2)):
        with pytest.raises(TypeError, match="Packed rows belong to no particular device"):
            jax.eval_shape(lambda: jax_rnnt.distillation_loss(LOSS, student, packed, *batch))
        with pytest.raises(ValueError, match=r"over the same mesh axes, got \('data',\) and \('model',\)"):
            jax.eval_shape(lambda: jax_rnnt.consistency_loss(LOSS, student, other, *batch))
    mesh = meshes.make_mesh(AxisType.Explicit, data=2, model=2)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="are divided over 'model' along the vocabulary"):
        x = meshes.put(mesh, _operands()[3], "data", None, None, "model")
        jax.eval_shape(lambda x: jax_rnnt.distillation_loss(LOSS, x, x, *batch), x)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_refused_derivatives() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 8, T, U + 1, V))
    batch = meshes.batch(8)[1:]

    def distill(x, y):
        return jax_rnnt.distillation_loss(LOSS, x, y, *batch)

    def agree(x, y):
        return jax_rnnt.consistency_loss(LOSS, x, y, *batch)

    with pytest.raises(TypeError, match="With `distillation_loss` the loss has no forward mode"):
        jax.jit(lambda x: jax.jvp(lambda x: distill(x, y), (x,), (x,))).lower(x)
    with pytest.raises(TypeError, match="With `consistency_loss` the loss has no forward mode"):
        jax.jit(lambda y: jax.jvp(lambda y: agree(x, y), (y,), (y,))).lower(y)
    with pytest.raises(TypeError, match="With `distillation_loss` the loss has no second derivatives"):
        jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(distill)(x, y)))).lower(x)
    with pytest.raises(TypeError, match="With `consistency_loss` the loss has no second derivatives"):
        jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(agree, 1)(x, y)))).lower(x)
    _, tangent = jax.jit(lambda y: jax.jvp(lambda y: distill(x, y), (y,), (y,)))(y)
    assert tangent == 0  # the teacher is a constant in every mode
