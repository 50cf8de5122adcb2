"""Tests of HAT alone: a blank far ahead in float32, and the scores of its internal language model."""

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
import reference_losses
from reference_losses import Hat

import jax_rnnt

pytestmark = pytest.mark.once


def test_a_blank_far_ahead(implementation: str) -> None:
    """In float32 1 - sigmoid(18) is 0. The cost is still finite, and labels keep all their digits."""
    ahead = np.array([18, 40], np.float32)
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 4, 3, 6)).astype(np.float32)
    logits[..., -1] += ahead[:, None, None]
    rest = np.array([[1, 2], [0, 3]], np.int32), np.array([4, 3], np.int32), np.array([2, 2], np.int32)

    def costs(x):
        return jax_rnnt.hat_loss(x, *rest, reduction="none", implementation=implementation)

    cost, gradient = losses.jit(lambda x: (costs(x), jax.grad(lambda x: costs(x).sum())(x)))(logits)
    wanted_cost, wanted = reference_losses.batch(Hat(), logits, *rest)
    assert (wanted_cost > 2 * ahead - 10).all()
    np.testing.assert_allclose(cost, wanted_cost, rtol=1e-5)
    large = np.abs(wanted) > 1e-6  # elsewhere terms cancel: the labels' posteriors and their part of the softmax
    np.testing.assert_allclose(gradient[large], wanted[large], rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("blank", [0, -1])
def test_internal_lm_scores(blank: int, implementation: str) -> None:
    """The scores and gradients of good, wrong and padded labels, for each length."""
    rng = np.random.default_rng(4)
    u, v = 3, 6
    logits = rng.normal(size=(6, u + 1, v))
    logits[4, 2:] = np.nan
    column = blank % v
    labels = rng.integers(1, v - 1, (6, u)).astype(np.int32)
    labels[1, 1], labels[2, 2], labels[4, 2] = column, -100, v
    lengths = np.array([3, 3, 2, 0, 2, 4], np.int32)

    def scores(x):
        return jax_rnnt.HATLoss(blank=blank, implementation=implementation).internal_lm_scores(x, labels, lengths)

    value, pull = jax.jit(lambda x: jax.vjp(scores, x))(logits)
    window = (1, v) if column == 0 else (0, v - 1)
    wanted, gradient = np.zeros((6, u)), np.zeros(logits.shape)
    with np.errstate(invalid="ignore"):
        norm, p = reference.window_normaliser(logits, window), reference.softmax(logits, window)
    for b in (0, 2, 3, 4):
        for i in range(lengths[b]):
            wanted[b, i] = logits[b, i, labels[b, i]] - norm[b, i]
            gradient[b, i] = np.eye(v)[labels[b, i]] - p[b, i]
    wanted[[1, 5]] = np.nan
    np.testing.assert_allclose(value, wanted, rtol=1e-13)
    good = np.array([0, 2, 3, 4])
    np.testing.assert_allclose(pull(jnp.ones((6, u)))[0][good], gradient[good], atol=1e-13)


def test_internal_lm_scores_refuses() -> None:
    x, y, lengths = np.zeros((2, 3, 5)), np.zeros((2, 2), np.int32), np.array([2, 1])
    for arguments, error, message in (
        ((x[0], y, lengths), ValueError, "`logits`"),
        ((x, y[:, :1], lengths), ValueError, "`targets`"),
        ((x, y.astype(float), lengths), TypeError, "`targets`"),
        ((x, y, lengths[:1]), ValueError, "`target_lengths`"),
    ):
        with pytest.raises(error, match=message):
            jax_rnnt.HATLoss().internal_lm_scores(*arguments)
    with pytest.raises(ValueError, match="`blank` of HAT"):
        jax_rnnt.HATLoss(blank=2).internal_lm_scores(x, y, lengths)
