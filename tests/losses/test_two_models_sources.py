"""Losses of two models on every source: corner cases, pairs of sources, and what is not read at all."""

import functools

import dense_sources
import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference_two_models as reference
import sources
from losses import RNNT, LossUnderTest, T, U
from sources import SourceUnderTest
from table_joint import joint_logits

import jax_rnnt

_, MULTIBLANK, TDT, HAT = losses.PLAIN
TILED = SourceUnderTest(
    "tiled",
    lambda batch: (batch.logits,),
    lambda x, *lengths: joint_logits(x, tile_rows=16),
    lambda batch: batch.logits,
    lambda batch, gradient: (gradient,),
)


@functools.cache
def _compiled(source: SourceUnderTest, loss: LossUnderTest):
    def run(arrays, y, targets, t_b, u_b, weights, ct):
        def call(arrays, y):
            held = source.source(*arrays, t_b, u_b)
            return jax_rnnt.consistency_loss(
                loss.made(), held, y, targets, t_b, u_b, node_weights=weights, reduction="none"
            )

        value, pull = jax.vjp(call, arrays, y)
        return value, *pull(ct)

    return losses.jit(run)


PAIRS = list(zip((*sources.SOURCES, TILED), (TDT, HAT, RNNT, MULTIBLANK), strict=True))


@pytest.mark.parametrize(("source", "loss"), PAIRS, ids=lambda x: x.name)
def test_every_corner_case(source: SourceUnderTest, loss: LossUnderTest) -> None:
    """The other model is a dense array without a bad value. Nodes that one of the sources lacks do not count."""
    batch = losses.batch(loss)
    rng = np.random.default_rng(6)
    x, y = source.logits(batch), rng.normal(size=batch.logits.shape)
    weights = rng.uniform(0.2, 1, x.shape[:3]) * (rng.random(x.shape[:3]) > 0.3)
    ct = np.where(np.arange(len(x)) % 6 == 4, 0.0, np.linspace(-1, 2, len(x)))
    nodes = source.nodes(batch)
    counts = weights if nodes is None else np.where(nodes, weights, 0)
    value, of_x, of_y = reference.consistency(loss.oracle, x, y, batch.arrays[1:], counts)
    results = _compiled(source, loss)(source.arrays(batch), y, *batch.arrays[1:], weights, ct)
    np.testing.assert_allclose(results[0], value, rtol=1e-9, atol=1e-12)
    scaled = [np.where((ct == 0)[:, None, None, None], 0, g * ct[:, None, None, None]) for g in (of_x, of_y)]
    for actual, wanted in zip((*results[1], results[2]), (*source.gradient(batch, scaled[0]), scaled[1]), strict=True):
        nan = np.isnan(wanted)
        actual = np.asarray(actual)
        assert np.isnan(actual[nan.any(-1)]).any(-1).all()
        assert not np.isnan(actual[~nan.any(-1)]).any()
        np.testing.assert_allclose(np.where(nan, 0, actual), np.where(nan, 0, wanted), rtol=1e-9, atol=1e-11)
        assert (actual[(np.where(nan, 1, wanted) == 0).all(-1)] == 0).all()


# --- two sources ------------------------------------------------------------------------------------------------------

LENGTHS = np.array([5, 3, 4, 0], np.int32), np.array([3, 2, 1, 0], np.int32)
FIRST = sources.ranges(4)


def test_packed_and_pruned_logits() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(2, 4, T, U + 1, RNNT.width))
    targets = rng.integers(*losses.LABELS, (4, U)).astype(np.int32)

    def call(x, y):
        held = dense_sources.packed(x, FIRST, *LENGTHS), dense_sources.pruned(y, FIRST, *LENGTHS)
        return jax_rnnt.consistency_loss(RNNT.made(), *held, targets, *LENGTHS, reduction="sum")

    value, gradients = losses.jit(jax.value_and_grad(call, (0, 1)))(x, y)
    u = np.arange(U + 1)[None, None]
    exists = (u >= FIRST[..., None]) & (u < FIRST[..., None] + sources.KEPT)
    wanted, *of_logits = reference.consistency(RNNT.oracle, x, y, (targets, *LENGTHS), exists.astype(float))
    np.testing.assert_allclose(value, wanted.sum(), rtol=1e-11)
    for actual, gradient in zip(gradients, of_logits, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=1e-9, atol=1e-12)


def test_a_range_outside_of_the_positions_costs_nan() -> None:
    x = np.random.default_rng(8).normal(size=(4, T, sources.KEPT, RNNT.width))
    ranges = FIRST.copy()
    ranges[1, 2] = U + 1
    batch = np.ones((4, U), np.int32), np.full(4, T, np.int32), np.full(4, U, np.int32)

    def call(x):
        held = jax_rnnt.PrunedLogits(x, jnp.asarray(ranges), num_labels=U)
        return jax_rnnt.distillation_loss(
            RNNT.made(), held, 2 * jnp.ones((4, T, U + 1, RNNT.width)), *batch, reduction="none"
        )

    assert np.isnan(losses.jit(call)(x)).tolist() == [False, True, False, False]


# --- what is not read -------------------------------------------------------------------------------------------------


def test_nodes_of_weight_0_are_not_made() -> None:
    """Counts the tiles in which the joint networks run, forward and backward, by what they tell the host."""
    seen: list[int] = []
    rng = np.random.default_rng(9)
    encoded, predicted = rng.normal(size=(4, T, 3)), rng.normal(size=(4, U + 1, 3))
    weights = (rng.random((4, T, U + 1)) > 0.8).astype(float)
    batch = np.ones((4, U), np.int32), np.array([T, T, T, 0], np.int32), np.array([U, U, 1, U], np.int32)
    real = (np.arange(T)[None, :, None] < batch[1][:, None, None]) & (
        np.arange(U + 1)[None, None] <= batch[2][:, None, None]
    )

    def joint(params, e, p):
        jax.debug.callback(lambda rows: seen.append(rows.shape[0]), e)
        return jnp.tanh(e + p) @ params

    def tiles(ct, weights) -> tuple[int, int]:
        def total(kernel, weights):
            models = [jax_rnnt.JointLogits(joint, k, encoded, predicted, tile_rows=2) for k in (kernel, 2 * kernel)]
            of_each = jax_rnnt.distillation_loss(RNNT.made(), *models, *batch, node_weights=weights, reduction="none")
            return jnp.sum(of_each * ct)

        counts = []
        for run in (total, jax.grad(total)):
            seen.clear()
            jax.block_until_ready(losses.jit(run)(rng.normal(size=(3, RNNT.width)), weights))
            jax.effects_barrier()
            assert set(seen) == {2}
            counts.append(len(seen) // 2)  # of two joint networks
        return counts[0], counts[1] - counts[0]

    nodes = (weights != 0) & real
    assert tiles(np.ones(4), weights) == (-(-nodes.sum() // 2), -(-nodes.sum() // 2))
    assert tiles(np.array([1.0, 0, 0, 1]), weights) == (-(-nodes.sum() // 2), -(-nodes[0].sum() // 2))


def test_nodes_of_weight_0_may_hold_nan() -> None:
    x, y = np.random.default_rng(10).normal(size=(2, 2, T, U + 1, RNNT.width))
    weights = np.ones(x.shape[:3])
    weights[0, 1, 2] = weights[1, 3, 0] = 0
    batch = np.ones((2, U), np.int32), np.full(2, T, np.int32), np.full(2, U, np.int32)
    spoilt_x, spoilt_y = x.copy(), y.copy()
    spoilt_x[0, 1, 2], spoilt_y[1, 3, 0] = np.nan, np.inf

    def call(x, y):
        return jax_rnnt.consistency_loss(RNNT.made(), x, y, *batch, node_weights=weights)

    run = losses.jit(jax.value_and_grad(call, (0, 1)))
    for actual, wanted in zip(jax.tree.leaves(run(spoilt_x, spoilt_y)), jax.tree.leaves(run(x, y)), strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert not np.isnan(run(x, y)[0])


def test_gradient_budget_is_a_bound() -> None:
    """Each row of the gradient is whole or 0. Those left out hold at most the budget of an utterance's gradient."""
    loss, share = HAT, 0.1
    rng = np.random.default_rng(12)
    x = rng.normal(size=(3, T, U + 1, loss.width))
    y = x + rng.normal(size=x.shape) * np.exp(
        rng.normal(size=(*x.shape[:3], 1)) * 3 - 2
    )  # nearly the same at most nodes
    batch = rng.integers(*losses.LABELS, (3, U)).astype(np.int32), np.array([5, 5, 4]), np.array([3, 3, 2])

    def total(x, y):
        held = joint_logits(x, gradient_budget=share), joint_logits(y, gradient_budget=share / 4)
        return jax_rnnt.consistency_loss(loss.made(), *held, *batch, reduction="sum")

    gradients = losses.jit(jax.grad(total, (0, 1)))(x, y)
    _, *exact = reference.consistency(loss.oracle, x, y, batch, np.ones(x.shape[:3]))
    for actual, wanted, bound in zip(gradients, exact, (share, share / 4), strict=True):
        actual, norms = np.asarray(actual), np.abs(wanted).sum(-1)
        left_out = (actual == 0).all(-1) & (norms > 0)
        np.testing.assert_allclose(actual[~left_out], wanted[~left_out], rtol=1e-8, atol=1e-12)
        assert (np.where(left_out, norms, 0).sum((1, 2)) <= bound * norms.sum((1, 2))).all()
        assert left_out.any()
