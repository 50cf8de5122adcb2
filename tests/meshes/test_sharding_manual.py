"""Code that runs once on each device (shard_map, pmap), and transformations of arrays that are divided over devices.

The gradient can be silently wrong here: right on each device, but not summed over the devices.
"""

import functools

import jax
import losses
import meshes
import numpy as np
import pytest
from meshes import B, P

CHECKED = pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])


def _shard_map(function, mesh, in_specs, out_specs, **options):
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, **options)


@functools.cache
def _model() -> tuple[tuple, tuple]:
    """The weights (the predictor's output, a matrix) and the data (the encoder's output, targets, lengths)."""
    encoder, predictor, weight = meshes.model_of(np.random.default_rng(3))
    return (predictor, weight), (encoder, *meshes.batch()[1:])


def _model_loss(implementation: str):
    def loss(weights, encoder, *rest):
        return meshes.total(implementation)(meshes.joint(encoder, *weights), *rest)

    return loss


@functools.cache
def _model_expected():
    """The loss, and the gradients of the weights and of the data, on one device, by the lax form."""
    weights, (encoder, *rest) = _model()
    return jax.jit(jax.value_and_grad(_model_loss("lax"), argnums=(0, 1)))(weights, encoder, *rest)


def _assert_trees(actual, wanted) -> None:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        meshes.assert_close(a, b)


@pytest.mark.full(implementation="lax", options=[{"clamp": 0.1}])
@pytest.mark.full(implementation="lax", check_vma=False)
@CHECKED
@pytest.mark.parametrize("options", [{}, {"clamp": 0.1}], ids=["plain", "clamp"])
def test_gradient_inside_and_outside(options: dict, check_vma: bool, implementation: str) -> None:
    mesh = meshes.make_mesh(data=8)
    arrays = meshes.batch()
    total = meshes.total(implementation, **options)
    mapped = functools.partial(_shard_map, mesh=mesh, in_specs=(P("data"),) * 4, check_vma=check_vma)

    def both(*arrays):
        inside = mapped(jax.grad(total), out_specs=P("data"))(*arrays)
        summed = mapped(lambda *a: jax.lax.psum(total(*a), "data"), out_specs=P())
        value, outside = jax.value_and_grad(summed)(*arrays)
        return value, inside, outside

    step, program = meshes.compiled(both, *arrays)
    value, inside, outside = step(*arrays)
    cost, wanted = meshes.expected(clamp=options.get("clamp", -1.0))
    meshes.assert_close(value, cost.sum())
    meshes.assert_close(inside, wanted)
    meshes.assert_close(outside, wanted)
    assert set(program.collectives()) == {("all-reduce", ())}


@CHECKED
def test_gradients_of_replicated_weights(check_vma: bool) -> None:
    """With check_vma JAX itself sums the gradient of replicated weights over devices. Without it the user does."""
    mesh = meshes.make_mesh(data=8)
    weights, data = _model()
    loss = _model_loss(losses.QUICK)
    in_specs = (P(), *(P("data"),) * 4)

    def inside(weights, *data):
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(weights, *data)
        if not check_vma:
            gradients = jax.lax.psum(gradients[0], "data"), gradients[1]
        return jax.lax.psum(value, "data"), gradients

    out_specs = P(), (P(), P("data"))
    result = jax.jit(_shard_map(inside, mesh, in_specs, out_specs, check_vma=check_vma))(weights, *data)
    _assert_trees(result, _model_expected())

    def summed(*arguments):
        return jax.lax.psum(loss(*arguments), "data")

    outside = jax.value_and_grad(_shard_map(summed, mesh, in_specs, P(), check_vma=check_vma), argnums=(0, 1))
    _assert_trees(jax.jit(outside)(weights, *data), _model_expected())


@CHECKED
def test_replicated_labels_and_lengths(check_vma: bool) -> None:
    """The devices hold an ensemble: each has a member, and all have the same batch.

    So logits differ between devices, and labels and lengths do not.
    """
    mesh = meshes.make_mesh(data=8)
    logits, *rest = (a[:4] for a in meshes.batch())
    members = np.stack([np.roll(logits, i, -1) for i in range(8)])

    def one(x, *rest):
        value, gradient = jax.value_and_grad(meshes.total(losses.QUICK))(x[0], *rest)
        return value[None], gradient[None]

    specs = (P("data"), *(P(),) * 3)
    values, gradients = jax.jit(_shard_map(one, mesh, specs, P("data"), check_vma=check_vma))(members, *rest)
    alone = jax.jit(jax.vmap(jax.value_and_grad(meshes.total("lax")), in_axes=(0, None, None, None)))(members, *rest)
    _assert_trees((values, gradients), alone)


@CHECKED
@pytest.mark.parametrize("spec", [("data", "model"), (("data", "model"),)], ids=["time_is_auto", "batch_is_auto"])
def test_partly_manual(spec: tuple, check_vma: bool) -> None:
    """One axis is manual. For the other axis the partitioner divides frames or batch over it.

    The partitioner is Shardy. GSPMD gathers the operands of any partly manual shard_map, even one of jnp.tanh.
    """
    mesh = meshes.make_mesh(data=4, model=2)
    logits, *rest = meshes.batch()
    mapped = functools.partial(
        _shard_map, mesh=mesh, in_specs=(P("data"),) * 4, axis_names={"data"}, check_vma=check_vma
    )
    inside = mapped(jax.grad(meshes.total(losses.QUICK)), out_specs=P("data"))
    arrays = meshes.put(mesh, logits, *spec), *(meshes.put(mesh, a, "data") for a in rest)
    with meshes.partitioner("shardy"):
        step, program = meshes.compiled(inside, *arrays)
    meshes.assert_close(step(*arrays), meshes.expected()[1])
    assert program.largest_exchange() < logits.size // 8


def test_pmap() -> None:
    meshes.need_devices(8)
    arrays = meshes.batch()
    divided = tuple(a.reshape(8, B // 8, *a.shape[1:]) for a in arrays)

    def step(*arrays):
        value, gradient = jax.value_and_grad(meshes.total(losses.QUICK))(*arrays)
        return jax.lax.psum(value, "devices"), gradient

    value, gradient = jax.pmap(step, axis_name="devices")(*divided)
    meshes.assert_close(value, np.full(8, meshes.expected()[0].sum()))
    meshes.assert_close(gradient, meshes.expected()[1].reshape(divided[0].shape))


def _stacked() -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Batches [N, B, ...], and the gradients of their sums."""
    wanted = meshes.expected()[1]
    return tuple(np.stack([a, np.roll(a, 5, 0)]) for a in meshes.batch()), np.stack([wanted, np.roll(wanted, 5, 0)])


@pytest.mark.parametrize("axis", [0, 1], ids=["mapped_axis", "batch_axis"])
def test_vmap_of_divided_arrays(axis: int) -> None:
    """The mapped axis or the batch is divided. In both cases only the loss crosses the mesh."""
    mesh = meshes.make_mesh(data=2 if axis == 0 else 8, rest=4 if axis == 0 else 1)
    stacked, wanted = _stacked()
    spec = (*(None,) * axis, "data")
    arrays = tuple(meshes.put(mesh, a, *spec) for a in stacked)
    mapped = jax.vmap(meshes.total(losses.QUICK))

    def step(x, *rest):
        each = jax.vmap(jax.grad(meshes.total(losses.QUICK)))(x, *rest)
        return jax.value_and_grad(lambda x: mapped(x, *rest).sum())(x), each

    run, program = meshes.compiled(step, *arrays)
    assert {kind for kind, _ in program.collectives()} == {"all-reduce"}
    assert program.largest_exchange() <= len(stacked[0])
    (value, gradient), each = run(*arrays)
    meshes.assert_close(value, 2 * meshes.expected()[0].sum())
    meshes.assert_close(gradient, wanted)
    meshes.assert_close(each, wanted)
    assert meshes.is_sharded_as(gradient, mesh, *spec)
    assert meshes.is_sharded_as(each, mesh, *spec)


def test_vmap_with_spmd_axis_name() -> None:
    mesh = meshes.make_mesh(data=2, rest=4)
    stacked, wanted = _stacked()
    arrays = tuple(meshes.put(mesh, a, "data") for a in stacked)
    run, program = meshes.compiled(jax.vmap(jax.grad(meshes.total(losses.QUICK)), spmd_axis_name="data"), *arrays)
    assert program.collectives() == []
    meshes.assert_close(run(*arrays), wanted)


def test_remat() -> None:
    """Joint and loss are checkpointed.

    Divided data and replicated weights have right gradients. No logits are gathered.
    """
    mesh = meshes.make_mesh(data=8)
    weights, (encoder, *rest) = _model()
    loss = jax.checkpoint(_model_loss(losses.QUICK))
    arrays = tuple(meshes.put(mesh, a, "data") for a in (encoder, *rest))
    run, program = meshes.compiled(jax.value_and_grad(loss, argnums=(0, 1)), weights, *arrays)
    assert {kind for kind, _ in program.collectives()} == {"all-reduce"}
    assert program.largest_exchange() <= max(a.size for a in weights)
    _assert_trees(run(weights, *arrays), _model_expected())


@pytest.mark.parametrize("manual", [False, True], ids=["auto", "manual"])
def test_accumulation_in_a_scan(manual: bool) -> None:
    mesh = meshes.make_mesh(data=8)
    stacked, wanted = _stacked()
    grad = jax.grad(meshes.total(losses.QUICK))

    def accumulate(*stacked):
        # This zero varies over the devices as its summands do. In some versions of JAX zeros_like does not.
        zero = 0 * stacked[0][0]
        return jax.lax.scan(lambda c, micro: (c + grad(*micro), None), zero, stacked)[0]

    spec = P(None, "data")
    arrays = tuple(meshes.put(mesh, a, *spec) for a in stacked)
    function = _shard_map(accumulate, mesh, (spec,) * 4, P("data")) if manual else accumulate
    run, program = meshes.compiled(function, *arrays)
    assert program.collectives() == []
    result = run(*arrays)
    meshes.assert_close(result, wanted.sum(0))
    assert meshes.is_sharded_as(result, mesh, "data")


def test_donated_logits() -> None:
    mesh = meshes.make_mesh(data=8)
    logits, *rest = meshes.batch()
    grad = _shard_map(jax.grad(meshes.total(losses.QUICK)), mesh, (P("data"),) * 4, P("data"))
    donated = meshes.put(mesh, logits, "data")
    gradient = jax.jit(grad, donate_argnums=0)(donated, *rest)
    meshes.assert_close(gradient, meshes.expected()[1])
    assert donated.is_deleted()


def test_forward_mode_and_hessian_vector_products() -> None:
    """The second derivatives of a divided batch are those of the whole batch."""
    mesh = meshes.make_mesh(data=8)
    logits, *rest = meshes.batch()
    direction = np.random.default_rng(5).normal(size=logits.shape)

    def step(x, v, *rest):
        def total(x):
            return meshes.total(losses.QUICK)(x, *rest)

        slope = jax.jvp(total, (x,), (v,))[1]
        product = jax.jvp(jax.grad(total), (x,), (v,))[1]
        return slope, product

    alone = jax.jit(step)(logits, direction, *rest)
    divided = tuple(meshes.put(mesh, a, "data") for a in (logits, direction, *rest))
    run, program = meshes.compiled(step, *divided)
    assert set(program.collectives()) <= {("all-reduce", ())}
    result = run(*divided)
    _assert_trees(result, alone)
    meshes.assert_close(result[0], np.vdot(meshes.expected()[1], direction))
