"""JointLogits: every loss, corner case, tile size and derivative is that of the dense array that it stands for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
from joints import LENGTHS, TARGETS, B, D, T, U, V, assert_close, dense_costs, expected, operands, step
from losses import LossUnderTest
from table_joint import joint_logits

import jax_rnnt
from jax_rnnt.xla import native


def _on_joint(loss: LossUnderTest, **source) -> LossUnderTest:
    def call(logits, *rest, **options):
        return loss.call(joint_logits(logits, **source), *rest, **options)

    return dataclasses.replace(loss, call=call)


@pytest.mark.once
@pytest.mark.parametrize("loss", [*losses.PLAIN[-2:], losses.ANYWHERE], ids=lambda loss: loss.name)
def test_contract(loss: LossUnderTest) -> None:
    """Compares losses with their definitions, in all corner cases."""
    cost, gradient = losses.evaluate(_on_joint(loss, tile_rows=64), losses.QUICK)
    losses.assert_matches(loss, cost, gradient)


@pytest.mark.once
def test_clamp_and_cotangents() -> None:
    """Elements are clipped in the tile. An example with a cotangent of 0 has a gradient of 0, even if it holds NaN."""
    loss = losses.PLAIN[-1]
    examples = losses.batch(loss)
    cotangent = np.random.default_rng(0).normal(size=len(examples.names))
    cotangent[[examples["nan_in_label"], examples["label_-1"], 0]] = 0
    cost, gradient = losses.evaluate(_on_joint(loss), losses.QUICK, clamp=0.05, cotangent=cotangent)
    losses.assert_matches(loss, cost, gradient, clamp=0.05, cotangent=cotangent)


# --- a joint network with parameters ----------------------------------------------------------------------------------


def _joint(params, e, p):
    return jnp.tanh(e + p) @ params["kernel"] + params["bias"][None]


def _costs(params, encoded, predicted, *, joint=_joint, **source):
    logits = jax_rnnt.JointLogits(joint, params, encoded, predicted, **source)
    return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none")


@pytest.mark.parametrize("rows", [1, 7, None])
def test_tiles_do_not_matter(rows: int | None) -> None:
    (_, cost), gradient = step(functools.partial(_costs, tile_rows=rows))(*operands())
    assert_close((cost, gradient), expected())


@pytest.mark.once
def test_bfloat16() -> None:
    """Gradients have the types of the operands. Small tiles lose nothing, because they are summed in float32."""
    dtype = "bfloat16"
    (_, cost), gradient = step(functools.partial(_costs, tile_rows=5))(*operands(dtype))
    assert cost.dtype == jnp.float32
    wanted_cost, wanted = expected()
    wanted = wanted_cost.astype("float32"), jax.tree.map(lambda x: x.astype(dtype), wanted)
    assert_close((cost, gradient), wanted, 3e-2)


@pytest.mark.once
def test_nan_stays_in_its_utterance() -> None:
    params, encoded, predicted = operands()
    bad = encoded.at[2, 1].set(jnp.nan)
    run = step(functools.partial(_costs, tile_rows=16))
    (_, cost), (of_params, of_encoded, of_predicted) = run(params, bad, predicted)
    others = np.array([0, 1, 3])
    assert_close((cost[others], of_encoded[others], of_predicted[others]), _rows(expected(), others))
    assert np.isnan(cost[2])
    assert np.isnan(of_encoded[2]).any()
    assert all(np.isnan(x).any() for x in jax.tree.leaves(of_params))


def _rows(expected, rows):
    cost, (_, of_encoded, of_predicted) = expected
    return cost[rows], of_encoded[rows], of_predicted[rows]


@pytest.mark.once
def test_a_bad_utterance_can_be_masked() -> None:
    """With a cotangent of 0 it changes nothing, though tiles contain its nodes.

    The parameters' gradient stays finite.
    """
    params, encoded, predicted = operands()
    keep = np.arange(B) != 2

    def total(costs, encoded):
        return lambda params: jnp.sum(jnp.where(keep, costs(params, encoded, predicted), 0))

    bad = encoded.at[2].set(jnp.nan)
    gradient = losses.jit(jax.grad(total(functools.partial(_costs, tile_rows=16), bad)))(params)
    assert_close(gradient, losses.jit(jax.grad(total(dense_costs, encoded)))(params))


def test_parameters_of_any_type() -> None:
    """Integers and random keys have no gradient. An empty pytree is valid too."""

    def joint(params, e, p):
        kernel = params["kernel"][params["order"]]
        noise = jax.random.normal(params["key"], (V,), kernel.dtype)
        return jnp.tanh(e + p) @ kernel + noise[None]

    params, encoded, predicted = operands()
    own = {
        "kernel": params["kernel"],
        "order": jnp.arange(D)[::-1],
        "key": jax.random.key(1),
        "none": None,
        "empty": {},
    }

    def total(kernel, costs):
        return jnp.sum(costs({**own, "kernel": kernel}, encoded, predicted, joint=joint))

    def dense(params, e, p, joint):
        rows = jnp.broadcast_arrays(e[:, :, None], p[:, None])
        logits = joint(params, *(x.reshape(-1, D) for x in rows)).reshape(B, T, U + 1, V)
        return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, reduction="none")

    actual, wanted = (
        losses.jit(jax.grad(functools.partial(total, costs=c)))(params["kernel"]) for c in (_costs, dense)
    )
    assert_close(actual, wanted)


# --- dropout ----------------------------------------------------------------------------------------------------------


def _with_dropout(params, e, p, keys):
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.6, (D,)))(keys)
    return jnp.where(keep, jnp.tanh(e + p), 0) @ params["kernel"] + params["bias"][None]


def test_dropout_belongs_to_the_node() -> None:
    """Forward and backward use the same mask for any tiles. Dense logits with the nodes' keys have that mask too."""
    key = jax.random.key(2)
    keys = jax.vmap(lambda node: jax.random.fold_in(key, node))(jnp.arange(B * T * (U + 1)))

    def dense(params, encoded, predicted):
        rows = jnp.broadcast_arrays(encoded[:, :, None], predicted[:, None])
        logits = _with_dropout(params, *(x.reshape(-1, D) for x in rows), keys)
        return jax_rnnt.rnnt_loss(logits.reshape(B, T, U + 1, V), TARGETS, *LENGTHS, reduction="none")

    (_, cost), gradient = step(dense)(*operands())
    run = step(functools.partial(_costs, joint=_with_dropout, dropout_key=key, tile_rows=16))
    (_, actual), actual_gradient = run(*operands())
    assert_close((actual, actual_gradient), (cost, gradient))


# --- leaving out small rows -------------------------------------------------------------------------------------------


BUDGET = 0.02


@functools.cache
def _frugal(loss: LossUnderTest):
    return losses.jit(jax.grad(lambda x, *rest: jnp.sum(_on_joint(loss, gradient_budget=BUDGET).costs(x, *rest))))


@pytest.mark.once
@pytest.mark.parametrize("peaked", [0.0, 3.0, 12.0], ids=["random", "trained", "overfitted"])
def test_gradient_budget_is_a_bound(peaked: float) -> None:
    """Each row of the gradient is whole or 0.

    The rows left out of an utterance hold at most the budget of its gradient.
    """
    loss, rng = losses.PLAIN[2], np.random.default_rng(0)  # its columns are inside of the window and outside
    shape = 3, losses.T, losses.U + 1, loss.width
    x, labels = rng.normal(size=shape), rng.integers(*losses.LABELS, (3, losses.U)).astype(np.int32)
    for t, u in zip((0, 1, 2, 2, 3, 3, 4), (0, 0, 0, 1, 1, 2, 3), strict=True):  # this path gets the mass
        x[:, t, u, loss.oracle.blanks(loss.width)[0]] += peaked
        if u < losses.U:
            x[np.arange(3), t, u, labels[:, u]] += peaked / 2
    rest = labels, np.array([5, 5, 4], np.int32), np.array([3, 3, 2], np.int32)
    _, exact = loss.expected(x, *rest)
    actual = np.asarray(_frugal(loss)(x, *rest))
    left_out = (actual == 0).all(-1) & (exact != 0).any(-1)
    np.testing.assert_allclose(actual[~left_out], exact[~left_out], rtol=1e-9, atol=1e-12)
    norms = np.abs(exact).sum(-1)
    assert (np.where(left_out, norms, 0).sum((1, 2)) <= BUDGET * norms.sum((1, 2))).all()
    if peaked:
        assert left_out.any()


# --- memory -----------------------------------------------------------------------------------------------------------


def test_no_array_of_the_size_of_the_logits() -> None:
    """There are 60 times as many nodes as in a tile.

    Temporaries are those of tiles, and a few numbers for each node.
    """
    b, t, u1, d, v, rows = 4, 60, 16, 8, 96, 64

    def shape(*dims, dtype="float32"):
        return jax.ShapeDtypeStruct(dims, jnp.dtype(dtype))

    def step(params, encoded, predicted, *rest):
        logits = jax_rnnt.JointLogits(_joint, params, encoded, predicted, tile_rows=rows)
        return jax_rnnt.rnnt_loss(logits, *rest)

    params = {"kernel": shape(d, v), "bias": shape(v)}
    small = shape(b, dtype="int32")
    operands = params, shape(b, t, d), shape(b, u1, d), shape(b, u1 - 1, dtype="int32"), small, small
    compiled = jax.jit(jax.value_and_grad(step, (0, 1, 2))).lower(*operands).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    nodes, tile = b * t * u1, 4 * rows * (v + d)
    if native.native_available():
        assert temporary < 64 * nodes + 4 * tile
    assert temporary < 4 * nodes * v / 2
    assert f"f32[{b},{t},{u1},{v}]" not in compiled.as_text()
    assert f"f32[{nodes},{v}]" not in compiled.as_text()


@pytest.mark.parametrize(("b", "t"), [(0, 3), (2, 0)])
def test_no_nodes(b: int, t: int) -> None:
    """Tests an empty batch, and filler rows in arrays without frames."""
    none = np.zeros(b, np.int32)

    def total(params, encoded, predicted):
        logits = jax_rnnt.JointLogits(_joint, params, encoded, predicted)
        return jnp.sum(jax_rnnt.rnnt_loss(logits, np.zeros((b, 2), np.int32), none, none, reduction="none"))

    value, gradient = losses.jit(jax.value_and_grad(total, (0, 1, 2)))(
        operands()[0], np.zeros((b, t, D)), np.zeros((b, 3, D))
    )
    assert value == 0
    assert all((x == 0).all() for x in jax.tree.leaves(gradient))


def test_a_call_without_jit() -> None:
    np.testing.assert_allclose(_costs(*operands()), expected()[0], rtol=1e-10)
