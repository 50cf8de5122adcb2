"""Tests of the oracle: recursion against enumeration, gradients against finite differences, values known by hand.

A mistake in reference.py would be in every other test. So these tests use nothing of the library.
"""

import math

import numpy as np
import pytest
import reference

pytestmark = pytest.mark.once

MOVE_SETS = {
    "rnnt": reference.RNNT,
    "monotonic": reference.MONOTONIC,
    "multi_blank": reference.MULTI_BLANK,
    "tdt": reference.TDT,
    "two_labels_at_once": ((1, 0), (0, 1), (0, 2), (2, 1)),
    "single": ((1, 1),),
}


@pytest.mark.parametrize(("frames", "labels"), [(0, 0), (0, 2), (1, 0), (1, 2), (3, 0), (3, 2), (4, 3), (2, 3)])
@pytest.mark.parametrize("moves", MOVE_SETS.values(), ids=MOVE_SETS.keys())
def test_recursion_equals_enumeration(moves: reference.Moves, frames: int, labels: int) -> None:
    rng = np.random.default_rng(frames * 10 + labels)
    log_probs = rng.normal(size=(4, 4, len(moves))) - 1.0
    log_probs[rng.random(log_probs.shape) < 0.1] = -np.inf
    cost, posteriors = reference.lattice(log_probs, frames, labels, moves)
    expected_cost, expected_posteriors = reference.exact_lattice(log_probs, frames, labels, moves)
    np.testing.assert_allclose(cost, expected_cost, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(posteriors, expected_posteriors, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("window", [None, (0, 0), (1, 4), (4, 5)])
def test_gradient_of_arcs_equals_finite_differences(window: reference.Window | None) -> None:
    rng = np.random.default_rng(8)
    logits, labels, columns = rng.normal(size=(5, 5)), np.array([3, 4, 0, -1, -2]), (4, 2, 0, 2)
    cotangent = rng.normal(size=(5, 5))
    gradient = reference.arc_gradient(logits, labels, columns, cotangent, window)
    step = 1e-5
    for index in np.ndindex(*logits.shape):
        change = np.zeros(logits.shape)
        change[index] = step
        higher, lower = (reference.arc_log_probs(logits + c, labels, columns, window) for c in (change, -change))
        rise = np.subtract(higher, lower, out=np.zeros(higher.shape), where=np.isfinite(higher))
        assert gradient[index] == pytest.approx(np.sum(cotangent * rise) / (2 * step), abs=1e-9)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("blank", [0, 2, -1])
def test_gradient_equals_finite_differences(fused: bool, blank: int) -> None:
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(3, 3, 4))
    targets = [1, 3] if blank != -1 else [1, 0]
    _, gradient = reference.rnnt_example(logits, targets, 2, 2, blank, fused=fused)
    step = 1e-5
    for index in np.ndindex(*logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        higher, _ = reference.rnnt_example(up, targets, 2, 2, blank, fused=fused)
        lower, _ = reference.rnnt_example(down, targets, 2, 2, blank, fused=fused)
        assert gradient[index] == pytest.approx((higher - lower) / (2 * step), abs=1e-9)


def test_two_frames_one_label_by_hand() -> None:
    """The label is in frame 0 or in frame 1. So there are two paths of three arcs each."""
    blank, label = np.array([[0.4, 0.7], [0.6, 0.8]]), np.array([[0.6, 0.3], [0.4, 0.2]])
    cost, posteriors = reference.lattice(np.log(np.stack([blank, label], -1)), 2, 1)
    first, second = 0.6 * 0.7 * 0.8, 0.4 * 0.4 * 0.8
    assert cost == pytest.approx(-math.log(first + second))
    assert posteriors[0, 0, 1] == pytest.approx(first / (first + second))
    assert posteriors[1, 0, 1] == pytest.approx(second / (first + second))
    assert posteriors[1, 0, 0] == 0.0, "a blank that leads past the last frame before the last label is not an arc"


def test_corner_cases() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 3, 4))
    run = reference.rnnt_example
    assert run(logits, [1, 2], 0, 0, 0)[0] == 0.0
    assert run(logits, [1, 2], 0, 1, 0)[0] == np.inf
    for frames, labels in [(-1, 1), (4, 1), (2, -1), (2, 3), (2**40, 1)]:
        cost, gradient = run(logits, [1, 2], frames, labels, 0)
        assert np.isnan(cost)
        assert np.isnan(gradient).all()
    for targets in ([0, 1], [4, 1], [-1, 1]):
        assert np.isnan(run(logits, targets, 2, 1, 0)[0])
        assert np.isfinite(run(logits, targets, 2, 0, 0)[0]), "labels beyond U_b are not read"
    logits[1, 1, 3] = np.nan
    cost, gradient = run(logits, [1, 2], 2, 1, 0)
    assert np.isnan(cost)
    assert np.isnan(gradient[:2, :2]).all()
    assert (gradient[2:] == 0).all()
    assert (gradient[:, 2:] == 0).all()
    assert np.isfinite(run(logits, [1, 2], 1, 1, 0)[0]), "beyond T_b nothing is read"
    assert np.isfinite(run(logits, [1, 2], 2, 1, 0, fused=False)[0]), "entry 3 is neither blank nor a label"
