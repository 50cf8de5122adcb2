"""Accuracy: for long utterances, in 16-bit types, and where probabilities leave the range of floating point."""

import functools

import losses
import numpy as np
import pytest
import reference
import runner
import tolerances
from cases import random_batch

pytestmark = pytest.mark.once

B, T, U, V = 2, 1500, 300, 16


@functools.cache
def long_batch(scale: float):
    """Logits in f32 with their f64 cost and gradient. The second example has fewer frames and fewer labels."""
    logits, targets = random_batch(3, B, T, U, V, scale=scale)
    arrays = logits.astype(np.float32), targets, np.array([T, T - 211], np.int32), np.array([U, U - 37], np.int32)
    return arrays, reference.rnnt_loss(*arrays)


def test_long_utterances() -> None:
    """At T = 1500 and U = 300 the cost is in the thousands. In f32 alpha + beta - cost would keep only three digits."""
    arrays, (cost, gradient) = long_batch(8.0)
    result = runner.evaluate(losses.QUICK, *arrays, dtype="float32")
    np.testing.assert_allclose(result.cost, cost, rtol=tolerances.LONG_COST_RTOL)
    np.testing.assert_allclose(result.cost_alone, cost, rtol=tolerances.LONG_COST_RTOL)
    np.testing.assert_allclose(result.gradient, gradient, rtol=0, atol=tolerances.LONG_GRADIENT_ATOL)


def test_overconfident_model() -> None:
    """A trained model gets the wrong transcript.

    Every path has a probability near exp(-60000), and a few arcs carry all.
    """
    rng = np.random.default_rng(8)
    logits, targets = random_batch(4, 2, 400, 60, 12, scale=3.0)
    peaks = rng.integers(0, 12, size=(2, 400, 61, 1))
    np.put_along_axis(logits, peaks, 150.0, -1)
    arrays = logits.astype(np.float32), targets, np.array([400, 333], np.int32), np.array([60, 41], np.int32)
    cost, gradient = reference.rnnt_loss(*arrays)
    assert (cost > 1e4).all(), "far below the smallest double, in linear arithmetic"
    result = runner.evaluate(losses.QUICK, *arrays, dtype="float32")
    np.testing.assert_allclose(result.cost, cost, rtol=tolerances.LONG_COST_RTOL)
    # The f32 rounding of logits of 150 limits how exact a posterior is. See tolerances.py.
    atol = tolerances.tolerance("float32", 150.0, 460).gradient_atol
    np.testing.assert_allclose(result.gradient, gradient, rtol=0, atol=atol)


def test_certain_model_at_length() -> None:
    """The opposite: one path has all the mass. The cost is near 0 and must not be a difference of large numbers."""
    t, u, v = 700, 100, 8
    _, targets = random_batch(5, 1, t, u, v)
    logits = np.zeros((1, t, u + 1, v), np.float32)
    at = np.minimum(np.arange(t) // 7, u)  # the best path takes label i in frame 7 i
    for frame, column in enumerate(at):
        following = at[frame + 1] if frame + 1 < t else u
        logits[0, frame, column:following, :] = -12.0
        for label in range(column, following):
            logits[0, frame, label, targets[0, label]] = 12.0
        logits[0, frame, following, v - 1] = 18.0
    arrays = logits, targets, np.array([t], np.int32), np.array([u], np.int32)
    cost, gradient = reference.rnnt_loss(*arrays)
    assert cost[0] < 0.1
    result = runner.evaluate(losses.QUICK, *arrays, dtype="float32")
    # Each of the t + u steps multiplies by a factor near 1 that has a relative error of up to 2 ULP (cuda/device.cuh).
    np.testing.assert_allclose(result.cost, cost, rtol=1e-2, atol=2 * np.finfo(np.float32).eps * (t + u))
    np.testing.assert_allclose(result.gradient, gradient, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_error_is_that_of_the_lax_form(dtype: str) -> None:
    """No implementation may be more than three times as far from the truth as the lax form in the same dtype."""
    logits, targets = random_batch(6, 4, 61, 19, 45, scale=6.0)
    arrays = logits, targets, np.array([61, 40, 61, 9], np.int32), np.array([19, 19, 4, 15], np.int32)
    cost, gradient = reference.rnnt_loss(runner.rounded(logits, dtype), *arrays[1:])

    def errors(name: str) -> tuple[float, float, float]:
        result = runner.evaluate(name, *arrays, dtype=dtype)
        difference = result.gradient - gradient
        relative = np.abs(result.cost / cost - 1).max()
        return relative, np.abs(difference).max(), np.sqrt(np.mean(difference**2))

    lax, own = errors("lax"), errors(losses.QUICK)
    # An error of the lax form below an ulp of the result is luck.
    ulp = tolerances.result_eps(dtype)
    floor = (tolerances.compute_eps(dtype), ulp * 0.25, ulp * 0.25 * np.sqrt(np.mean(gradient**2)))
    for mine, theirs, least in zip(own, lax, floor, strict=True):
        assert mine <= tolerances.DTYPE_MARGIN * max(theirs, least)


@pytest.mark.full(implementation="lax", dtype="float16")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_are_summed_in_single(dtype: str, implementation: str) -> None:
    """The vocabulary has 4000 equal entries. A sum of ones stops at 256 in bf16, and at 2048 in f16."""
    logits, targets = np.zeros((1, 2, 2, 4000)), np.array([[7]], np.int32)
    arrays = logits, targets, np.array([2], np.int32), np.array([1], np.int32)
    result = runner.evaluate(implementation, *arrays, dtype=dtype)
    np.testing.assert_allclose(result.cost, 3 * np.log(4000) - np.log(2), rtol=1e-6)
    runner.assert_matches_oracle(result, *arrays, dtype=dtype)
