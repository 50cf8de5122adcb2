"""Rows of logits that are sure: costs near 0 and gradients keep their digits, for any number added to the logits.

One logit of each row lies far above the others, so that one path has nearly all of the probability. Expected values are
those of float64 on the same float32 logits.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import table_joint
from losses import LossUnderTest, T, U
from reference_losses import Hat, Rnnt, Tdt
from sources import SOURCES, Arrays, SourceUnderTest, additive, gradient_of_parts

import jax_rnnt

pytestmark = pytest.mark.once

EXAMPLES = 32
LEAST_COST = 1e-4  # from it on the bounds below hold: the scores of arcs are exact to 6e-8 of a probability
COST_RTOL, GRADIENT_RTOL, SHIFTED_RTOL = 1e-2, 2e-2, 1e-6
SHIFT = 300.0

RNNT = LossUnderTest("rnnt", jax_rnnt.rnnt_loss, Rnnt())
LOSSES = (RNNT, *(loss for loss in losses.PLAIN if loss.name in ("tdt", "hat")))  # each has its own layout of a row


def _parts(batch: losses.Batch) -> Arrays:
    """The frames' part is small, and the positions' part is that of frame 0."""
    return np.zeros_like(batch.logits[:, :, 1]), batch.logits[:, 0]


def _sums(batch: losses.Batch) -> np.ndarray:
    am, lm = _parts(batch)
    return am[:, :, None] + lm[:, None]


DENSE = SourceUnderTest(
    "dense", lambda batch: (batch.logits,), lambda x, *_: x, lambda batch: batch.logits, lambda batch, g: (g,)
)
JOINT = dataclasses.replace(DENSE, name="joint", source=lambda x, *_: table_joint.joint_logits(x))
ADDITIVE = SourceUnderTest("additive", _parts, additive, _sums, gradient_of_parts)


def sure_batch(loss: LossUnderTest, seed: int, smallest: float, largest: float) -> losses.Batch:
    """At positions with labels left, the label is sure; then the blank is. A label takes one frame if it takes any."""
    rng = np.random.default_rng(seed)
    x = 0.5 * rng.normal(size=(EXAMPLES, T, U + 1, loss.width))
    targets = rng.integers(*losses.LABELS, (EXAMPLES, U)).astype(np.int32)
    u_b = rng.integers(0, U + 1, EXAMPLES).astype(np.int32)
    t_b = rng.integers(U + 1, T + 1, EXAMPLES).astype(np.int32)
    blank = loss.oracle.blanks(loss.width)[0]
    how_sure = np.linspace(smallest, largest, EXAMPLES)
    for b, size in enumerate(how_sure):
        for u in range(U + 1):
            column = targets[b, u] if u < u_b[b] else blank
            x[b, :, u, column] = size
            if isinstance(loss.oracle, Hat):
                x[b, :, u, blank] = -size if u < u_b[b] else size
            if isinstance(loss.oracle, Tdt):
                x[b, :, u, loss.oracle.vocabulary(loss.width) + loss.oracle.durations.index(1)] = size
    names = tuple(f"example {b}, {size:.1f}" for b, size in enumerate(how_sure))
    return losses.Batch(names, x.astype(np.float32), targets, t_b, u_b)


def shifted(loss: LossUnderTest, batch: losses.Batch) -> losses.Batch:
    """With SHIFT added to the logits that the loss normalises, so that its costs change by the rounding of the sums."""
    shift = np.full(loss.width, np.float32(SHIFT))
    if isinstance(loss.oracle, Hat):
        shift[loss.oracle.blanks(loss.width)[0]] = 0
    return dataclasses.replace(batch, logits=batch.logits + shift)


@functools.cache
def _compiled(source: SourceUnderTest, loss: LossUnderTest, implementation: str, clamp: float):
    def run(arrays, targets, t_b, u_b):
        def costs(arrays):
            logits = source.source(*arrays, t_b, u_b)
            return loss.costs(logits, targets, t_b, u_b, clamp=clamp, implementation=implementation)

        cost, pull = jax.vjp(costs, arrays)
        return cost, pull(jnp.ones_like(cost))[0]

    return losses.jit(run)


def check(source, loss, implementation, batch: losses.Batch, cost_rtol: float = COST_RTOL, clamp: float = -1.0) -> None:
    """Holds the costs and the L1 norm of the gradient's error to the bounds, and all costs to be at least 0."""
    arrays = source.arrays(batch)
    cost, gradients = _compiled(source, loss, implementation, clamp)(arrays, *batch.arrays[1:])
    cost = np.asarray(cost, np.float64)
    assert (cost >= 0).all(), f"{(cost < 0).sum()} costs below 0, down to {cost.min()}"
    wanted_cost, dense = loss.expected(source.logits(batch).astype(np.float64), *batch.arrays[1:])
    counts = wanted_cost >= LEAST_COST
    assert counts.any()
    np.testing.assert_allclose(cost[counts], wanted_cost[counts], rtol=cost_rtol)
    np.testing.assert_allclose(cost[~counts], wanted_cost[~counts], rtol=0, atol=COST_RTOL * LEAST_COST)
    for actual, wanted in zip(gradients, source.gradient(batch, dense), strict=True):
        error, size = np.abs(np.asarray(actual, np.float64) - wanted), np.abs(wanted)
        if actual.ndim > 2:  # of each utterance; packed rows are those of all
            axes = tuple(range(1, actual.ndim))
            error, size = error.sum(axes)[counts], size.sum(axes)[counts]
        assert (error <= GRADIENT_RTOL * size).all() if actual.ndim > 2 else error.sum() <= GRADIENT_RTOL * size.sum()


PAIRS = [
    *((DENSE, loss) for loss in LOSSES),
    (ADDITIVE, RNNT),
    (JOINT, LOSSES[1]),
    (next(s for s in SOURCES if s.name == "packed"), RNNT),
]


@pytest.mark.full(implementation="lax", source=["joint", "additive", "packed"])
@pytest.mark.full(implementation="lax", loss="rnnt")
@pytest.mark.parametrize(("source", "loss"), PAIRS, ids=lambda row: row.name)
def test_sure_rows(source: SourceUnderTest, loss: LossUnderTest, implementation: str) -> None:
    for seed in range(3):
        batch = sure_batch(loss, seed, 6.0, 20.0)
        check(source, loss, implementation, batch)
        check(source, loss, implementation, shifted(loss, batch))
        # Where rows are not sure, the cost is as exact at logits of 300 as at logits of 1.
        check(source, loss, implementation, shifted(loss, sure_batch(loss, seed, 0.0, 3.0)), SHIFTED_RTOL)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_sure_rows_with_clamp(loss: LossUnderTest) -> None:
    """Then the pipeline is a custom_vjp, and the kernels take another way. No element is as large as the bound."""
    check(DENSE, loss, losses.QUICK, sure_batch(loss, 0, 6.0, 20.0), clamp=1e3)


def test_costs_are_not_below_0(implementation: str) -> None:
    """Of 400 sure cases the costs were below 0 in 205 with the kernels, in 46 with the lax form."""
    t_b, u_b = np.full(400, 2, np.int32), np.full(400, 1, np.int32)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 2, 2, 5)).astype(np.float32)
    logits[:, :, 0, 1] = logits[:, :, 1, 0] = rng.uniform(14, 24, (400, 1))

    def costs(x):
        return jax_rnnt.rnnt_loss(
            x, np.ones((400, 1), np.int32), t_b, u_b, blank=0, reduction="none", implementation=implementation
        )

    cost, pull = jax.vjp(jax.jit(costs), logits)
    assert (np.asarray(cost) >= 0).all()
    gradient = np.asarray(pull(jnp.ones_like(cost))[0])
    assert (np.abs(gradient).sum((1, 2, 3)) > 0).all(), "a cost of 0 has the gradient of the cost that it rounds"
    direction = rng.normal(size=logits.shape).astype(np.float32)
    _, tangent = jax.jvp(jax.jit(costs), (logits,), (direction,))
    np.testing.assert_allclose(tangent, (gradient * direction).sum((1, 2, 3)), rtol=0, atol=2e-6)


def test_log_probabilities_of_the_user_may_cost_less_than_0() -> None:
    log_probs = np.full((1, 2, 2, 3), 0.5, np.float32)
    lengths = np.array([2], np.int32), np.array([1], np.int32)
    cost = jax_rnnt.rnnt_loss(
        log_probs, np.array([[1]], np.int32), *lengths, fused_log_softmax=False, implementation=losses.QUICK
    )
    np.testing.assert_allclose(cost, -1.5 - np.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", ["delay_penalty", "sigma"])
def test_scores_above_0_may_cost_less_than_0(name: str) -> None:
    """Of a scheduled number nothing is known, so it costs what the option does."""
    logits = np.full((1, 5, 2, 3), -20, np.float32)
    logits[:, :, 0, 1] = logits[:, :, 1, 0] = 0
    batch = logits, np.array([[1]], np.int32), np.array([5], np.int32), np.array([1], np.int32)
    number = {"delay_penalty": 1.0, "sigma": -0.25}[name]
    cost = jax_rnnt.RNNTLoss(blank=0, **{name: number})(*batch)
    np.testing.assert_allclose(cost, {"delay_penalty": -2.0, "sigma": -1.5}[name], rtol=1e-4)
    np.testing.assert_allclose(
        jax.jit(lambda x: jax_rnnt.RNNTLoss(blank=0)(*batch, **{name: x}))(number), cost, rtol=1e-6
    )


@pytest.mark.parametrize("count", [2, 3, 16, 17, 40, 5000])
def test_equal_maxima(count: int, implementation: str) -> None:
    """Each of them counts, wherever it stands, also beside a row with +inf; the others keep their digits."""
    logits = np.full((4, count + 1), 300.0, np.float32)
    logits[:, count // 2] = 290.0
    logits[1, : count // 2] = 290.0
    logits[2, 1:] = 281.0
    logits[3, 1] = np.inf
    entries = jax_rnnt.arc_log_probs(logits, np.full(4, count, np.int32), (0,), implementation=implementation)
    assert np.isnan(entries[3]).all()
    x = logits[:3].astype(np.float64) - 300
    wanted = x[:, [0, count]] - np.log(np.exp(x).sum(-1, keepdims=True))
    wanted[2, 0] = -np.log1p(count * np.exp(-19.0))
    np.testing.assert_allclose(entries[:3], wanted, rtol=1e-6)


def test_sure_rows_that_are_products() -> None:
    # XLA computes x - top from the factors of x, rounded once less than x. So it need not be 0 at the maximum.
    rows = np.random.default_rng(0).normal(size=(400, 7)).astype(np.float32)
    rows[:, 2] += 4
    scale, labels = np.float32(1 / 0.7), np.full(400, 2, np.int32)
    run = jax.jit(lambda x: jax_rnnt.arc_log_probs(scale * x, labels, (0,), implementation="lax"))
    optimised = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    found = run.lower(rows).compile(compiler_options=optimised)(rows)
    exact = rows.astype(np.float64) * scale
    wanted = exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(found, wanted[:, [0, 2]], rtol=1e-5, atol=1e-6)
