"""Steps whose vocabulary is divided, as users write them: output layers, gradients inside, reductions."""

import functools

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from jax.sharding import AxisType
from meshes import B, P

import jax_rnnt

SPEC = P("data", None, None, "model")
MODES = pytest.mark.parametrize("mode", ["checked", "auto"])


def _mesh(kind: AxisType = AxisType.Auto):
    return meshes.make_mesh(kind, data=2, model=4)


@pytest.fixture(autouse=True)
def shardy():
    """Selects Shardy. GSPMD gathers the operands of any partly manual shard_map."""
    with meshes.partitioner("shardy"):
        yield


@MODES
def test_tensor_parallel_output_layer(mode: str) -> None:
    """The joint's last matrix is divided by columns, as in practice. All weights have the gradients of one device."""
    mesh = _mesh()
    encoder, predictor, weight = meshes.model_of(np.random.default_rng(4))
    rest = meshes.batch()[1:]

    def local(encoder, predictor, weight, *rest):
        logits = meshes.joint(encoder, predictor, weight)
        total = meshes.total(losses.QUICK)(logits, *rest, vocab_axis_name="model")
        return total if mode == "auto" else jax.lax.psum(total, "data")

    def alone(encoder, predictor, weight):
        return meshes.total("lax")(meshes.joint(encoder, predictor, weight), *rest)

    wanted = jax.jit(jax.value_and_grad(alone, argnums=(0, 1, 2)))(encoder, predictor, weight)
    specs = (P("data"), P(), P(None, "model"), *(P("data"),) * 3)
    loss = local
    if mode != "auto":
        loss = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=mode == "checked")
    with jax.set_mesh(mesh):
        arrays = [meshes.put(mesh, a, *s) for a, s in zip((encoder, predictor, weight, *rest), specs, strict=True)]
        result = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True):
        meshes.assert_close(a, b)


@pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])
def test_gradient_taken_inside(check_vma: bool) -> None:
    """Each device takes the gradient with respect to its own logits. All devices hold the same loss."""
    total = functools.partial(meshes.total(losses.QUICK), vocab_axis_name="model")
    grad = jax.grad(lambda x, *rest: total(x, *rest) / (1 if check_vma else 4))
    specs = (SPEC, *(P("data"),) * 3)
    mapped = jax.shard_map(grad, mesh=_mesh(), in_specs=specs, out_specs=SPEC, check_vma=check_vma)
    meshes.assert_close(jax.jit(mapped)(*meshes.batch()), meshes.expected()[1])


@pytest.mark.parametrize(("reduction", "kind"), [("mean", AxisType.Auto), ("none", AxisType.Explicit)], ids=str)
def test_reductions_in_a_mesh_that_is_set(reduction: str, kind: AxisType) -> None:
    mesh = _mesh(kind)
    logits, *rest = meshes.batch()
    cost, wanted = meshes.expected()

    def loss(x, *rest):
        value = jax_rnnt.rnnt_loss(x, *rest, reduction=reduction, implementation=losses.QUICK, vocab_axis_name="model")
        return value.sum(), value

    with jax.set_mesh(mesh):
        arrays = meshes.put(mesh, logits, *SPEC), *(meshes.put(mesh, a, "data") for a in rest)
        gradient, value = jax.jit(jax.grad(loss, has_aux=True))(*arrays)
    meshes.assert_close(value, {"mean": cost.mean(), "none": cost}[reduction])
    meshes.assert_close(gradient, wanted / (B if reduction == "mean" else 1))


@pytest.mark.once
@pytest.mark.parametrize("loss", losses.PLAIN[2:], ids=lambda loss: loss.name)
@pytest.mark.parametrize("spec", [SPEC, ("data",), (None, None, None, "model")], ids=["both", "batch", "vocabulary"])
def test_gradients_in_an_explicit_mesh(spec: tuple, loss: losses.LossUnderTest) -> None:
    """The gradient is divided as the logits are."""
    mesh = meshes.make_mesh(AxisType.Explicit, data=2, model=2)
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 4, 3, loss.width)), rng.integers(1, 5, (2, 2)).astype(np.int32)
    batch = targets, np.array([4, 3], np.int32), np.array([2, 1], np.int32)
    _, wanted = loss.expected(logits, *batch)

    def total(x, *rest):
        return loss.costs(x, *rest, implementation=losses.QUICK, vocab_axis_name="model").sum()

    with jax.set_mesh(mesh):
        arrays = meshes.put(mesh, logits, *spec), *(meshes.put(mesh, a, spec[0]) for a in batch)
        gradient = losses.jit(jax.grad(total))(*arrays)
    meshes.assert_close(gradient, wanted)
    assert meshes.is_sharded_as(gradient, mesh, *spec)


def test_transformations() -> None:
    """Puts vmap, remat and scan around the divided loss."""
    mesh = _mesh()
    arrays = meshes.batch()
    stacked = tuple(np.stack([a, np.roll(a, 2, 0)]) for a in arrays)
    wanted = np.stack([meshes.expected()[1], np.roll(meshes.expected()[1], 2, 0)])
    costs = functools.partial(meshes.costs(losses.QUICK), vocab_axis_name="model")
    costs = jax.shard_map(costs, mesh=mesh, in_specs=(SPEC, *(P("data"),) * 3), out_specs=P("data"))
    grad = jax.grad(jax.checkpoint(lambda *a: costs(*a).sum()))
    with jax.set_mesh(mesh):
        meshes.assert_close(jax.jit(jax.vmap(grad))(*stacked), wanted)
        total = jax.jit(lambda s: jax.lax.scan(lambda c, a: (c + grad(*a), None), jnp.zeros_like(s[0][0]), s)[0])
        meshes.assert_close(total(stacked), wanted.sum(0))


def test_one_device_along_the_axis() -> None:
    mesh = meshes.make_mesh(data=8, model=1)
    with jax.set_mesh(mesh):
        grad = jax.jit(jax.grad(functools.partial(meshes.total(losses.QUICK), vocab_axis_name="model")))
        meshes.assert_close(grad(*(meshes.put(mesh, a, "data") for a in meshes.batch())), meshes.expected()[1])
