"""Losses of every layout of a row under the transformations of JAX: vmap, forward mode, second order, meshes."""

import functools

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import tolerances
from losses import LossUnderTest
from meshes import P

ROWS = (*losses.PLAIN[2:], losses.ENDS)
SECOND_ORDER = tuple(loss for loss in losses.PLAIN if loss.name == "tdt")
LENGTHS = np.array([5, 3, 4, 0], np.int32), np.array([3, 2, 1, 0], np.int32)
WEIGHTS = np.array([1.0, -2.0, 0.5, 1.0])


def _each(rows):
    return pytest.mark.parametrize("loss", rows, ids=lambda loss: loss.name)


@functools.cache
def _arrays(width: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(width)
    shape = 4, losses.T, losses.U + 1, width
    return rng.normal(size=shape), rng.integers(*losses.LABELS, (4, losses.U)).astype(np.int32), *LENGTHS


def _direction(width: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=_arrays(width)[0].shape)


def _expected(loss: LossUnderTest, x=None) -> tuple[np.ndarray, np.ndarray]:
    """Costs, and the gradient of their weighted sum."""
    logits, *rest = _arrays(loss.width)
    cost, gradient = loss.expected(logits if x is None else x, *rest)
    return cost, gradient * WEIGHTS[:, None, None, None]


def _step(costs):
    """Costs and the gradient of their weighted sum, from one program."""

    def step(x, *rest):
        cost, pull = jax.vjp(lambda x: costs(x, *rest), x)
        return cost, pull(jnp.asarray(WEIGHTS, cost.dtype))[0]

    return step


def _assert_expected(loss: LossUnderTest, result) -> None:
    for actual, wanted in zip(result, _expected(loss), strict=True):
        meshes.assert_close(actual, wanted)


@_each(ROWS)
def test_vmap_and_gradient_of_vmap(loss: LossUnderTest) -> None:
    """Maps over single examples, each a batch of one."""
    one = jax.vmap(lambda *arrays: loss.costs(*arrays, implementation=losses.QUICK))
    step = losses.jit(_step(lambda *arrays: one(*arrays)[:, 0]))
    cost, gradient = step(*(a[:, None] for a in _arrays(loss.width)))
    _assert_expected(loss, (cost, gradient[:, 0]))


@_each(ROWS)
def test_forward_mode_is_the_gradient(loss: LossUnderTest) -> None:
    x, *rest = _arrays(loss.width)
    v = _direction(loss.width)
    costs = functools.partial(loss.costs, implementation=losses.QUICK)
    _, tangents = losses.jit(lambda x, v: jax.jvp(lambda x: costs(x, *rest), (x,), (v,)))(x, v)
    _, gradient = _expected(loss)
    np.testing.assert_allclose((tangents * WEIGHTS), (gradient * v).sum((1, 2, 3)), rtol=1e-11, atol=1e-13)


@_each(SECOND_ORDER)
def test_hessian_vector_products(loss: LossUnderTest) -> None:
    """Under vmap, as jax.hessian takes them."""
    x, *rest = _arrays(loss.width)
    v, h = _direction(loss.width), tolerances.FINITE_STEP
    costs = functools.partial(loss.costs, implementation=losses.QUICK)
    gradient = jax.grad(lambda x: (costs(x, *rest) * WEIGHTS).sum())
    mapped = jax.vmap(lambda x, v: jax.jvp(gradient, (x,), (v,))[1], (None, 0))
    product, other = losses.jit(mapped)(x, np.stack([v, -2 * v]))
    np.testing.assert_allclose(other, -2 * product, rtol=0, atol=1e-12)
    up, down = (_expected(loss, x + s * v)[1] for s in (h, -h))
    assert np.abs(product).max() > 0.1
    np.testing.assert_allclose(product, (up - down) / (2 * h), rtol=0, atol=tolerances.FINITE_ATOL)


@_each(ROWS)
def test_batch_over_a_mesh(loss: LossUnderTest) -> None:
    """The step runs inside `shard_map`. Its gradient must be local, and nothing may cross the mesh."""
    mesh = meshes.make_mesh(data=4)
    arrays = [meshes.put(mesh, a, "data") for a in _arrays(loss.width)]
    costs = functools.partial(loss.costs, implementation=losses.QUICK)
    inside = jax.shard_map(costs, mesh=mesh, in_specs=(P("data"),) * 4, out_specs=P("data"))
    run, program = meshes.compiled(_step(inside), *arrays)
    _assert_expected(loss, run(*arrays))
    assert program.collectives() == []


@_each(ROWS)
@pytest.mark.parametrize("inside", [True, False], ids=["shard_map", "mesh"])
def test_divided_vocabulary(loss: LossUnderTest, inside: bool) -> None:
    """The vocabulary is divided over two devices. TDT's durations and HAT's blank are on one of them."""
    mesh = meshes.make_mesh(model=2)
    spec = P(None, None, None, "model")
    costs = functools.partial(loss.costs, vocab_axis_name="model", implementation=losses.QUICK)
    if inside:
        costs = jax.shard_map(costs, mesh=mesh, in_specs=(spec, P(), P(), P()), out_specs=P())
    logits, *rest = _arrays(loss.width)
    with jax.set_mesh(mesh):
        arrays = meshes.put(mesh, logits, *spec), *(meshes.put(mesh, a) for a in rest)
        run, program = meshes.compiled(_step(costs), *arrays)
        result = run(*arrays)
    _assert_expected(loss, result)
    assert meshes.is_sharded_as(result[1], mesh, *spec)
    assert 0 < program.largest_exchange() <= (loss.entries + 1) * logits[..., 0].size  # + 1: a sum for the norm
