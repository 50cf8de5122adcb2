"""JointLogits under the transformations of JAX: vmap, remat, scan, meshes, modules of Flax."""

import functools
import math

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from jax.sharding import AxisType
from meshes import P, T, U, V

import jax_rnnt

D = 4


def _joint(params, e, p):
    return jnp.tanh(e + p) @ params


@functools.cache
def _operands(size: int = 8) -> tuple[np.ndarray, ...]:
    """The joint's matrix, the encoder's output [B, T, D] and the predictor's output [B, U+1, D]."""
    rng = np.random.default_rng(size)
    return rng.normal(size=(D, V)), rng.normal(size=(size, T, D)), rng.normal(size=(size, U + 1, D))


def _total(kernel, encoded, predicted, *rest, **source):
    logits = jax_rnnt.JointLogits(_joint, kernel, encoded, predicted, tile_rows=16, **source)
    return jax_rnnt.rnnt_loss(logits, *rest, reduction="sum")


def _dense_total(kernel, encoded, predicted, *rest):
    return jax_rnnt.rnnt_loss(_joint(kernel, encoded[:, :, None], predicted[:, None]), *rest, reduction="sum")


def _step(total, **source):
    return jax.value_and_grad(functools.partial(total, **source), (0, 1, 2))


@functools.cache
def _expected(size: int = 8):
    return losses.jit(_step(_dense_total))(*_operands(size), *meshes.batch(size)[1:])


def _assert_expected(result, size: int = 8) -> None:
    for actual, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(_expected(size)), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-11)


def _split(x):
    return x.reshape(2, -1, *x.shape[1:])


def test_vmap() -> None:
    """Tests the gradients of each element and of their sum, and gradients with mapped parameters."""
    kernel, *rest = *_operands(), *meshes.batch(8)[1:]
    halves = [_split(x) for x in rest]
    step = _step(_total)
    value, (of_kernel, *others) = losses.jit(jax.vmap(step, (None, *[0] * 5)))(kernel, *halves)
    _assert_expected((value.sum(), (of_kernel.sum(0), *(x.reshape(-1, *x.shape[2:]) for x in others))))

    kernels = jnp.stack([kernel, 2 * kernel])
    value, (each, *_) = losses.jit(jax.vmap(step))(kernels, *halves)
    for i in range(2):
        wanted = losses.jit(_step(_dense_total))(kernels[i], *(x[i] for x in halves))
        np.testing.assert_allclose(value[i], wanted[0], rtol=1e-10)
        np.testing.assert_allclose(each[i], wanted[1][0], rtol=1e-9, atol=1e-11)

    def total(*operands):
        return jnp.sum(jax.vmap(_total, (None, *[0] * 5))(*operands))

    value, (of_kernel, *others) = losses.jit(jax.value_and_grad(total, (0, 1, 2)))(kernel, *halves)
    _assert_expected((value, (of_kernel, *(x.reshape(-1, *x.shape[2:]) for x in others))))


def test_remat_and_scan() -> None:
    kernel, *rest = *_operands(), *meshes.batch(8)[1:]

    def total(kernel, encoded, predicted, *rest):
        def add(carry, x):
            return carry + jax.checkpoint(_total)(kernel, *x), None

        return jax.lax.scan(add, jnp.zeros(()), tuple(_split(x) for x in (encoded, predicted, *rest)))[0]

    _assert_expected(losses.jit(jax.value_and_grad(total, (0, 1, 2)))(kernel, *rest))


def _assert_divided(program: meshes.Program) -> None:
    """Every device runs its own tiles. Only the loss and the gradient of the joint's matrix cross the mesh."""
    assert {kind for kind, _ in program.collectives()} == {"all-reduce"}
    assert program.largest_exchange() <= D * V


def test_shard_map() -> None:
    mesh = meshes.make_mesh(data=4)
    divided = P("data")

    def total(kernel, *rest):
        return jax.lax.psum(_total(kernel, *rest), "data")

    specs = (P(), *[divided] * 5), (P(), (P(), divided, divided))
    step = jax.value_and_grad(total, (0, 1, 2))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs[0], out_specs=specs[1])
    run, program = meshes.compiled(mapped, *_operands(), *meshes.batch(8)[1:])
    _assert_divided(program)
    _assert_expected(run(*_operands(), *meshes.batch(8)[1:]))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_a_divided_batch_stays_where_it_is(kind: AxisType) -> None:
    """The mesh has two axes. The source names automatic axes; explicit axes are in the types of the arrays."""
    mesh = meshes.make_mesh(kind, data=4, model=2)
    kernel, *rest = *_operands(), *meshes.batch(8)[1:]
    source = {"batch_axis_names": ("data",)} if kind == AxisType.Auto else {}
    with jax.set_mesh(mesh):
        arrays = [meshes.put(mesh, kernel), *(meshes.put(mesh, x, "data") for x in rest)]
        run, program = meshes.compiled(_step(_total, **source), *arrays)
        result = run(*arrays)
    _assert_divided(program)
    _assert_expected(result)
    assert meshes.is_sharded_as(result[1][1], mesh, "data")


ONE_AXIS, TWO_AXES = {"data": 8}, {"data": 4, "model": 2}


@pytest.mark.parametrize(
    ("axes", "of_kernel", "of_encoded"),
    [
        (ONE_AXIS, P(None, "data"), P("data")),
        (TWO_AXES, P(("data", "model"), None), P(("data", "model"))),
        (TWO_AXES, P(None, "model"), P(None, None, "model")),
    ],
    ids=str,
)
def test_divided_parameters_on_an_explicit_mesh(axes: dict, of_kernel: P, of_encoded: P) -> None:
    """They are gathered for the loss, and their gradient is divided as they are (FSDP, tensor parallelism)."""
    mesh = meshes.make_mesh(AxisType.Explicit, **axes)
    kernel, encoded, predicted, *rest = *_operands(), *meshes.batch(8)[1:]
    kernel, encoded = np.tile(kernel, (2, 1)), np.tile(encoded, 2)  # so that eight devices divide them
    predicted = np.tile(predicted, 2)
    step = _step(_total)
    with jax.set_mesh(mesh):
        batch = [meshes.put(mesh, x, of_encoded[0]) for x in (predicted, *rest)]
        result = jax.jit(step)(meshes.put(mesh, kernel, *of_kernel), meshes.put(mesh, encoded, *of_encoded), *batch)
    for actual, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(_of_tiled()), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-11)
    assert meshes.is_sharded_as(result[1][0], mesh, *of_kernel)
    assert meshes.is_sharded_as(result[1][1], mesh, *of_encoded)


@functools.cache
def _of_tiled():
    kernel, encoded, predicted = _operands()
    operands = np.tile(kernel, (2, 1)), np.tile(encoded, 2), np.tile(predicted, 2)
    return losses.jit(_step(_dense_total))(*operands, *meshes.batch(8)[1:])


def test_divided_parameters_on_an_automatic_mesh() -> None:
    mesh = meshes.make_mesh(data=4, model=2)
    kernel, *rest = *_operands(), *meshes.batch(8)[1:]
    with jax.set_mesh(mesh):
        arrays = [meshes.put(mesh, kernel, "data", "model"), *(meshes.put(mesh, x, "data") for x in rest)]
        _assert_expected(jax.jit(_step(_total, batch_axis_names=("data",)))(*arrays))


def test_a_batch_that_does_not_divide_is_said() -> None:
    kernel, *rest = *_operands(6), *meshes.batch(6)[1:]
    with (
        jax.set_mesh(meshes.make_mesh(data=4)),
        pytest.raises(ValueError, match="`logits` have B = 6, and the mesh has 4 devices along 'data'"),
    ):
        jax.eval_shape(functools.partial(_total, batch_axis_names=("data",)), kernel, *rest)


def test_automatic_sharding_without_names_is_right_and_warns() -> None:
    mesh = meshes.make_mesh(data=4)
    kernel, *rest = *_operands(), *meshes.batch(8)[1:]
    with pytest.warns(UserWarning, match=r"no `batch_axis_names`.* \{'data': 4\}.* batch_axis_names=\('data',\)"):
        _assert_expected(jax.jit(_step(_total))(kernel, *(meshes.put(mesh, x, "data") for x in rest)))
    # One device along the axis has nothing to divide. With a name and another automatic axis nothing is to be said.
    one, two = meshes.make_mesh(data=1), meshes.make_mesh(data=2, model=2)
    jax.eval_shape(_total, kernel, *(meshes.put(one, x, "data") for x in rest))
    with jax.set_mesh(two):
        jax.eval_shape(functools.partial(_total, batch_axis_names=("data",)), kernel, *rest)


def test_dropout_differs_from_device_to_device() -> None:
    """The masks of two devices differ, though their nodes have the same numbers."""

    def joint(params, e, p, keys):
        return jax.vmap(lambda key: jax.random.normal(key, (V,), e.dtype))(keys) + 0 * (e + p) @ params

    mesh = meshes.make_mesh(data=2)
    kernel, encoded, predicted = (np.zeros_like(x) for x in _operands(2))
    targets, lengths = np.ones((2, U), np.int32), (np.full(2, T, np.int32), np.full(2, U, np.int32))

    def costs(key):
        logits = jax_rnnt.JointLogits(
            joint, kernel, encoded, predicted, dropout_key=key, batch_axis_names=("data",), tile_rows=16
        )
        return jax_rnnt.rnnt_loss(logits, targets, *lengths, reduction="none")

    with jax.set_mesh(mesh):
        first, second = jax.jit(costs)(jax.random.key(0))
    assert abs(first - second) > 1e-3


# --- modules of Flax --------------------------------------------------------------------------------------------------


def test_linen(default_jax_settings) -> None:
    nn = pytest.importorskip("flax.linen")

    class Joint(nn.Module):
        @nn.compact
        def __call__(self, e, p, deterministic=True):
            return nn.Dense(V)(nn.Dropout(0.5)(jnp.tanh(e + p), deterministic=deterministic))

    _, *rest = *_operands(), *meshes.batch(8)[1:]
    encoded, predicted, *rest = (jnp.asarray(x) for x in rest)
    params = Joint().init(jax.random.key(0), encoded[:, :1], predicted[:, :1])["params"]

    def fused(params, **source):
        arguments = {"deterministic": False} if source else {}
        logits = jax_rnnt.JointLogits.from_linen(Joint(), params, encoded, predicted, arguments=arguments, **source)
        return jax_rnnt.rnnt_loss(logits, *rest)

    def dense(params):
        return jax_rnnt.rnnt_loss(Joint().apply({"params": params}, encoded[:, :, None], predicted[:, None]), *rest)

    actual, wanted = (losses.jit(jax.value_and_grad(f))(params) for f in (fused, dense))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), actual, wanted)
    some, other = (losses.jit(functools.partial(fused, dropout_key=jax.random.key(k)))(params) for k in (0, 1))
    assert some != other
    assert some != wanted[0]
    one, other = (jax_rnnt.JointLogits.from_linen(Joint(), params, encoded, predicted).joint for _ in range(2))
    assert one == other
    drawing = jax_rnnt.JointLogits.from_linen(Joint(), params, encoded, predicted, arguments={"deterministic": False})
    with pytest.raises(ValueError, match=r"`module` draws random numbers.*`dropout_key`, got None.*'deterministic'"):
        jax_rnnt.rnnt_loss(drawing, *rest)


def test_dropout_of_nnx(default_jax_settings) -> None:
    """The mask of a row is that of the module whose streams begin with the row's key."""
    nnx = pytest.importorskip("flax.nnx")

    class Joint(nnx.Module):
        def __init__(self, rngs):
            self.output = nnx.Linear(D, V, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, e, p):
            return self.output(self.dropout(jnp.tanh(e + p)))

    encoded, predicted, *rest = (jnp.asarray(x) for x in (*_operands()[1:], *meshes.batch(8)[1:]))
    module, key = Joint(nnx.Rngs(0)), jax.random.key(7)
    leaves = jax.tree.leaves(nnx.state(module, nnx.RngState))
    which = next(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))

    def fused(module, encoded, predicted, **options):
        logits = jax_rnnt.JointLogits.from_nnx(module, encoded, predicted, **options)
        return jax_rnnt.rnnt_loss(logits, *rest)

    def dense(module, encoded, predicted):
        shape = (*encoded.shape[:2], predicted.shape[1])
        nodes = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(math.prod(shape)))
        streams = jax.vmap(lambda node: jax.random.split(jax.random.fold_in(node, which), ()))(nodes)
        keep = jax.vmap(lambda stream: jax.random.bernoulli(jax.random.fold_in(stream, 0), 0.5, (D,)))(streams)
        hidden = jnp.tanh(encoded[:, :, None] + predicted[:, None])
        return jax_rnnt.rnnt_loss(module.output(jnp.where(keep.reshape(hidden.shape), hidden / 0.5, 0)), *rest)

    argnums = (nnx.DiffState(0, nnx.Param), 1, 2)
    with_key = functools.partial(fused, dropout_key=key, tile_rows=16)
    actual, wanted = (
        jax.tree.leaves(nnx.jit(nnx.value_and_grad(f, argnums=argnums))(module, encoded, predicted))
        for f in (with_key, dense)
    )
    for a, w in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(a, w, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"`module` draws random numbers.*`dropout_key`, got None.*module.eval\(\)"):
        nnx.jit(fused)(module, encoded, predicted)
    module.eval()
    quiet = nnx.jit(fused)(module, encoded, predicted)
    logits = module(encoded[:, :, None], predicted[:, None])
    np.testing.assert_allclose(quiet, jax_rnnt.rnnt_loss(logits, *rest), rtol=1e-5)
