"""Every loss against its definition: values, gradients and the table of corner cases, in one batch for each loss."""

import losses
import numpy as np
import pytest
from losses import LossUnderTest


def _each(rows):
    return pytest.mark.parametrize("loss", rows, ids=lambda loss: loss.name)


@pytest.mark.full(
    implementation="lax", loss=["monotonic", "multiblank", "fastemit", "wildcard_ends", "wildcard_anywhere"]
)
@_each(losses.LOSSES)
def test_values_and_gradients(loss: LossUnderTest, implementation: str) -> None:
    losses.assert_matches(loss, *losses.evaluate(loss, implementation))


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@_each([losses.PLAIN[2], *losses.VARIANTS[-2:]])  # those with everything: each regulariser has numbers of its own
def test_dtypes(loss: LossUnderTest, dtype: str) -> None:
    losses.assert_matches(loss, *losses.evaluate(loss, losses.QUICK, dtype), dtype=dtype)


@pytest.mark.once
@_each(losses.VARIANTS)
def test_variants(loss: LossUnderTest) -> None:
    losses.assert_matches(loss, *losses.evaluate(loss, losses.QUICK))


@pytest.mark.once
@_each([*losses.PLAIN, losses.FASTEMIT, losses.ENDS])
def test_clamp(loss: LossUnderTest) -> None:
    """The gradient for a cotangent of 1 is clipped, and then multiplied by the cotangent of either sign."""
    cotangent = np.resize([2.0, -0.5, 1.0], len(losses.batch(loss).names))
    result = losses.evaluate(loss, losses.QUICK, clamp=0.05, cotangent=cotangent)
    losses.assert_matches(loss, *result, clamp=0.05, cotangent=cotangent)


@pytest.mark.once
@_each(losses.LOSSES)
def test_cotangents_of_0_mask_what_is_bad(loss: LossUnderTest) -> None:
    examples = losses.batch(loss)
    cost, _ = loss.expected(*examples.arrays)
    cotangent = np.where(np.isfinite(cost), -1.5, 0.0)
    result = losses.evaluate(loss, losses.QUICK, cotangent=cotangent)
    losses.assert_matches(loss, *result, cotangent=cotangent)
    assert np.isfinite(result[1]).all()
    assert np.isnan(cost).sum() > 10
