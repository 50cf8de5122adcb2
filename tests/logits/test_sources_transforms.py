"""Every source under the transformations of JAX, and its refusals. Here a dense array of logits makes each source."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import tolerances
from dense_sources import SOURCES, additive, packed, pruned, tiled
from jax import export
from jax.experimental import serialize_executable
from jax.sharding import AxisType
from losses import RNNT, LossUnderTest, T, U
from meshes import P
from sources import KEPT, ranges

import jax_rnnt

LENGTHS = np.array([5, 3, 4, 0], np.int32), np.array([3, 2, 1, 0], np.int32)
WEIGHTS = np.array([1.0, -2.0, 0.5, 1.0])
FIRST = ranges(4)


def _each(name: str, rows):
    return pytest.mark.parametrize(name, rows, ids=lambda row: getattr(row, "name", None) or row.__name__)


def _costs(source: Callable, loss: LossUnderTest, x, first, targets, t_b, u_b, **options):
    return loss.costs(source(x, first, t_b, u_b), targets, t_b, u_b, implementation=losses.QUICK, **options)


@functools.cache
def _arrays(width: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(width)
    x, targets = rng.normal(size=(4, T, U + 1, width)), rng.integers(*losses.LABELS, (4, U)).astype(np.int32)
    return x, FIRST, targets, *LENGTHS


def _expected(source: Callable, loss: LossUnderTest, x) -> tuple[np.ndarray, np.ndarray]:
    """Costs, and the gradient of their weighted sum with respect to x."""
    _, _, *rest = _arrays(loss.width)
    if source is additive:
        cost, gradient = loss.expected(x[:, :, 1, None] + x[:, :1], *rest)
        of_x = np.zeros(x.shape)
        of_x[:, :, 1] += gradient.sum(axis=2)
        of_x[:, 0] += gradient.sum(axis=1)
        return cost, of_x * WEIGHTS[:, None, None, None]
    if source is pruned:
        u = np.arange(U + 1)[None, None]
        x = np.where(((u >= FIRST[..., None]) & (u < FIRST[..., None] + KEPT))[..., None], x, -np.inf)
    cost, gradient = loss.expected(x, *rest)
    return cost, gradient * WEIGHTS[:, None, None, None]


def _step(costs: Callable) -> Callable:
    def step(x, *rest):
        cost, pull = jax.vjp(lambda x: costs(x, *rest), x)
        return cost, pull(jnp.asarray(WEIGHTS, cost.dtype))[0]

    return step


def _assert_expected(source, loss, result) -> None:
    for actual, wanted in zip(result, _expected(source, loss, _arrays(loss.width)[0]), strict=True):
        meshes.assert_close(actual, wanted)


@_each("source", SOURCES)
def test_vmap_and_gradient_of_vmap(source: Callable) -> None:
    """Maps over single examples, each a batch of one."""
    one = jax.vmap(functools.partial(_costs, source, RNNT))
    step = losses.jit(_step(lambda *arrays: one(*arrays)[:, 0]))
    cost, gradient = step(*(a[:, None] for a in _arrays(RNNT.width)))
    _assert_expected(source, RNNT, (cost, gradient[:, 0]))


@_each("source", SOURCES)
def test_forward_mode_is_the_gradient(source: Callable) -> None:
    x, *rest = _arrays(RNNT.width)
    v = np.random.default_rng(1).normal(size=x.shape)
    _, tangents = losses.jit(lambda x, v: jax.jvp(lambda x: _costs(source, RNNT, x, *rest), (x,), (v,)))(x, v)
    _, gradient = _expected(source, RNNT, x)
    np.testing.assert_allclose(tangents * WEIGHTS, (gradient * v).sum((1, 2, 3)), rtol=1e-11, atol=1e-13)


def test_hessian_vector_products() -> None:
    source = additive  # the others gather rows, and the rest of their pipeline is that of dense logits
    x, *rest = _arrays(RNNT.width)
    v, h = np.random.default_rng(1).normal(size=x.shape), tolerances.FINITE_STEP
    gradient = jax.grad(lambda x: (_costs(source, RNNT, x, *rest) * WEIGHTS).sum())

    product = losses.jit(lambda x, v: jax.jvp(gradient, (x,), (v,))[1])(x, v)
    up, down = (_expected(source, RNNT, x + s * v)[1] for s in (h, -h))
    assert np.abs(product).max() > 0.1
    np.testing.assert_allclose(product, (up - down) / (2 * h), rtol=0, atol=tolerances.FINITE_ATOL)


def test_remat_in_a_scan_that_leaves_the_process() -> None:
    """Restores the step from an export, and the compiled step from its serialised executable."""
    source = pruned
    arrays = _arrays(RNNT.width)

    def costs(x, first, targets, t_b, u_b):
        return RNNT.costs(source(x, first, t_b, u_b), targets, t_b, u_b, implementation=None)

    def total(x, *rest):
        def add(total, example):
            return total + example[-1] * jax.checkpoint(costs)(*(a[None] for a in example[:-1]))[0], None

        return jax.lax.scan(add, jnp.zeros(()), (x, *rest, jnp.asarray(WEIGHTS)))[0]

    step = jax.jit(jax.value_and_grad(total))
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in jax_rnnt.ffi_targets()]
    make = export.export(step, platforms=["cpu", "cuda", "tpu"], disabled_checks=checks)
    restored = export.deserialize(make(*arrays).serialize())
    serialized = serialize_executable.serialize(step.lower(*arrays).compile())
    executable = serialize_executable.deserialize_and_load(*serialized, execution_devices=jax.devices()[:1])
    cost, gradient = _expected(source, RNNT, arrays[0])
    for run in (restored.call, executable):
        value, of_x = run(*arrays)
        meshes.assert_close(value, (cost * WEIGHTS).sum())
        meshes.assert_close(of_x, gradient)


@_each("source", SOURCES)
def test_batch_over_a_mesh(source: Callable) -> None:
    """The step runs inside `shard_map`. Its gradient must be local, and nothing may cross the mesh."""
    mesh = meshes.make_mesh(data=4)
    arrays = [meshes.put(mesh, a, "data") for a in _arrays(RNNT.width)]
    costs = functools.partial(_costs, source, RNNT)
    inside = jax.shard_map(costs, mesh=mesh, in_specs=(P("data"),) * 5, out_specs=P("data"))
    run, program = meshes.compiled(_step(inside), *arrays)
    _assert_expected(source, RNNT, run(*arrays))
    assert program.collectives() == []


@pytest.mark.parametrize(("source", "kind"), [(packed, "Auto"), (additive, "Auto"), (pruned, "Explicit")])
def test_sharded_batch(source: Callable, kind: str) -> None:
    mesh = meshes.make_mesh(getattr(AxisType, kind), data=4)
    with jax.set_mesh(mesh):
        arrays = [meshes.put(mesh, a, "data") for a in _arrays(RNNT.width)]
        run, _ = meshes.compiled(_step(functools.partial(_costs, source, RNNT)), *arrays)
        result = run(*arrays)
    _assert_expected(source, RNNT, result)
    if source is not packed:
        assert meshes.is_sharded_as(result[1], mesh, "data")


@_each("source", SOURCES)
def test_refusals(source: Callable) -> None:
    x, *rest = _arrays(RNNT.width)

    def costs(**options):
        return lambda x: _costs(source, RNNT, x, *rest, **options)

    with pytest.raises(TypeError, match="With `clamp` the loss has no forward mode"):
        jax.jit(lambda x: jax.jvp(costs(clamp=0.1), (x,), (x,))).lower(x)
    inside = jax.shard_map(
        costs(vocab_axis_name="data"), mesh=meshes.make_mesh(data=4), in_specs=P(), out_specs=P(), check_vma=False
    )
    with pytest.raises(ValueError, match=r"`vocab_axis_name` is 'data', and `logits` are \w+Logits"):
        jax.eval_shape(inside, x)


@_each("source", [*SOURCES, tiled])
def test_export_of_symbolic_shapes(source: Callable) -> None:
    """One program serves batches of any size and any number of frames."""
    export = pytest.importorskip("jax.export", reason="jax.export serialises with flatbuffers")
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in jax_rnnt.ffi_targets()]
    arrays = _arrays(RNNT.width)
    b, t = export.symbolic_shape("b, t")

    def shape(x):
        return jax.ShapeDtypeStruct((b, t, *x.shape[2:]) if x.shape[1:2] == (T,) else (b, *x.shape[1:]), x.dtype)

    def step(x, *rest):
        cost, pull = jax.vjp(lambda x: _costs(source, RNNT, x, *rest), x)
        return cost, pull(jnp.ones_like(cost))[0]

    program = export.export(jax.jit(step), disabled_checks=checks)(*map(shape, arrays))
    cost, gradient = losses.jit(program.call)(*arrays)
    _assert_expected(source, RNNT, (cost, gradient * WEIGHTS[:, None, None, None]))
