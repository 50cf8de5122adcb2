"""Tests of the definitions: recursion against single paths, gradients against differences, sums over all outputs.

A mistake in a definition would be in every other test of the losses. So these tests use nothing of the library.
"""

import dataclasses
import itertools

import losses
import numpy as np
import pytest
import reference
import reference_losses
from losses import LossUnderTest
from reference_losses import Hat, Monotonic, Regularisers, Rnnt, Tdt

pytestmark = pytest.mark.once
_each = pytest.mark.parametrize("loss", [*losses.LOSSES, *losses.VARIANTS], ids=lambda loss: loss.name)


@_each
@pytest.mark.parametrize(("frames", "labels"), [(0, 0), (0, 1), (1, 0), (1, 1), (3, 0), (4, 1), (3, 2)])
def test_recursion_equals_enumeration(loss: LossUnderTest, frames: int, labels: int) -> None:
    rng = np.random.default_rng(frames * 10 + labels)
    arguments = loss.oracle, rng.normal(size=(4, 3, loss.width)), (3, 2), frames, labels, loss.on
    cost, gradient = reference_losses.example(*arguments)
    expected_cost, expected = reference_losses.example(*arguments, total=reference_losses.enumerated)
    np.testing.assert_allclose(cost, expected_cost, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-13)


@_each
def test_gradient_equals_finite_differences(loss: LossUnderTest) -> None:
    """FastEmit's gradient is not the derivative of the cost. The next test compares it with posteriors."""
    rng = np.random.default_rng(3)
    x, direction = rng.normal(size=(2, 4, 3, loss.width))
    plain = dataclasses.replace(loss.on, fastemit_lambda=0.0)

    def example(x):
        return reference_losses.example(loss.oracle, x, (3, 2), 4, 2, plain)

    h = 1e-5
    slope = (example(x + h * direction)[0] - example(x - h * direction)[0]) / (2 * h)
    np.testing.assert_allclose((example(x)[1] * direction).sum(), slope, rtol=0, atol=1e-8)


def test_fastemit_is_posteriors_of_labels_times_1_plus_lambda() -> None:
    """This is FastEmit's gradient with respect to log-probabilities (equation 9 of arXiv:2010.11148).

    The cost does not change.
    """
    x, _ = np.random.default_rng(4).normal(size=(2, 4, 3, 5))
    cost, posteriors = reference.lattice(x[..., [4, 1]], 4, 2)
    definition = Rnnt(fused=False)
    fast, gradient = reference_losses.example(definition, x, (1, 1), 4, 2, Regularisers(fastemit_lambda=0.7))
    assert fast == pytest.approx(cost, rel=1e-14)
    np.testing.assert_allclose(gradient[..., 4], -posteriors[..., 0], atol=1e-14)
    np.testing.assert_allclose(gradient[..., 1], -1.7 * posteriors[..., 1], atol=1e-14)


def test_recursions_of_both_references_agree() -> None:
    x = np.random.default_rng(6).normal(size=(6, 4, losses.V))
    for frames, labels in ((6, 3), (4, 0), (0, 0), (2, 3)):
        ours = reference_losses.example(Rnnt(), x, (1, 2, 3), frames, labels)
        theirs = reference.rnnt_example(x, (1, 2, 3), frames, labels)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("definition", [Rnnt(), Hat()], ids=["rnnt", "hat"])
def test_probabilities_of_all_outputs_sum_to_1(definition: Rnnt) -> None:
    """Two frames, two labels, and all label sequences that are likely if blank has a probability of 0.95."""
    longest, vocabulary = 8, 3
    rng = np.random.default_rng(7)
    x = rng.normal(size=(2, longest + 1, vocabulary))
    blank = definition.blank % vocabulary
    x[..., blank] += 6
    labels = [v for v in range(vocabulary) if v != blank]
    # The model's predictor sees only the number of labels, so all sequences share one array of logits.
    total = sum(
        np.exp(-reference_losses.example(definition, x[:, : n + 1], y, 2, n)[0])
        for n in range(longest + 1)
        for y in itertools.product(labels, repeat=n)
    )
    assert total == pytest.approx(1.0, abs=1e-9)


def test_probabilities_of_all_outputs_of_tdt_sum_to_1() -> None:
    """The model loses no probability: no arc overshoots, a blank leaves the last frame, no blank takes 0 frames."""
    frames, longest, durations = 4, 6, (0, 1, 2, 3)
    x = np.random.default_rng(8).normal(size=(frames, longest + 1, 3 + len(durations)))
    tokens, of_durations = x[..., :3], x[..., 3:]
    for t in range(frames):
        of_durations[t, :, max(2, frames - t) :] = -np.inf
        of_durations[t, :, 0] = -np.inf
    of_durations[1, :, 0] = -8.0  # frame 1 may emit several labels ...
    tokens[1, :, 2] = -np.inf  # ... and no blank leaves it
    tokens[-1, :, :2] = -np.inf
    total = sum(
        np.exp(-reference_losses.example(Tdt(durations=durations), x[:, : n + 1], y, frames, n)[0])
        for n in range(longest + 1)
        for y in itertools.product((0, 1), repeat=n)
    )
    assert total == pytest.approx(1.0, abs=1e-9)


def test_published_value_of_tdt() -> None:
    """The value is NeMo's, for zeros, three frames, one label, durations 0, 1, 2 and sigma 0.05."""
    definition, on = Tdt(blank=3, durations=(0, 1, 2)), Regularisers(sigma=0.05)
    cost, _ = reference_losses.example(definition, np.zeros((3, 2, 7)), (0,), 3, 1, on)
    assert cost == pytest.approx(4.155738825, abs=1e-8)


def test_monotonic_by_counting() -> None:
    """T = 4, U = 2, 5 equal entries. There are six ways to place the labels, and three if the last frame is a blank."""
    x = np.zeros((4, 3, 5))
    for last_blank, ways in ((False, 6), (True, 3)):
        cost, _ = reference_losses.example(Monotonic(last_blank=last_blank), x, (1, 2), 4, 2)
        assert cost == pytest.approx(4 * np.log(5) - np.log(ways), rel=1e-14)


def test_wildcards_by_counting() -> None:
    """T = 3, U = 1; all arcs and jumps have weight 1. The paths are counted by hand."""
    x = np.zeros((3, 2, 2))
    ways = {}
    for where in ("ends", "anywhere", "star"):
        cost, _ = reference_losses.example(Rnnt(fused=False), x, (0,), 3, 1, Regularisers(wildcard=where))
        ways[where] = round(float(np.exp(-cost)))
    # From the start of a column there are 1, 2, 3 ways to its frames, and from these 3, 2, 1 ways to its end.
    assert ways == {"ends": 1 * 3 + 2 * 2 + 3 * 1, "anywhere": 3 * 2**3, "star": 3 * 2**2}
