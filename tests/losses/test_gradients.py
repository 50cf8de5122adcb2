"""First-order gradients of the loss: cotangents, loss scales, the mean."""

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
import runner
from cases import lengths, random_batch

import jax_rnnt

pytestmark = pytest.mark.once

LENGTHS = lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)


COTANGENTS = {
    "negative": [-1.0, -1.0, -1.0, -1.0],
    "zero": [0.0, 0.0, 0.0, 0.0],
    "mixed": [2.5, -3.0, 0.0, 1e-3],
    "large": [1e4, -1e4, 1e6, 1.0],
    "tiny": [1e-30, -1e-30, 1e-20, 1.0],  # it finds a loss that takes its logarithm or divides by it
}


@pytest.mark.parametrize("clamp", [-1.0, 0.1])
@pytest.mark.parametrize("name", COTANGENTS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cotangents_scale_the_gradient(name: str, clamp: float, dtype: str, implementation: str) -> None:
    """The gradient is clip(g, -clamp, clamp) * ct, also where ct is negative or zero."""
    logits, targets = random_batch("cotangents", scale=2.0)
    ct = COTANGENTS[name]
    run = {"clamp": clamp, "dtype": dtype, "cotangent": ct}
    result = runner.evaluate(implementation, logits, targets, *LENGTHS, **run)
    runner.assert_matches_oracle(result, logits, targets, *LENGTHS, **run)
    assert (result.gradient[np.array(ct) == 0] == 0).all()


def test_relative_accuracy_survives_a_tiny_cotangent(implementation: str) -> None:
    """Loss scaling by a power of two changes the exponents of the gradient, and no other bit."""
    logits, targets = random_batch("loss_scaling")
    plain = runner.evaluate(implementation, logits, targets, *LENGTHS, dtype="float32").gradient
    for scale in (2.0**-40, 2.0**15):
        ct = np.full(4, scale)
        scaled = runner.evaluate(implementation, logits, targets, *LENGTHS, dtype="float32", cotangent=ct).gradient
        np.testing.assert_allclose(scaled, plain * scale, rtol=1e-6, atol=1e-9 * scale)


@pytest.mark.parametrize("clamp", [-1.0, 0.1])
def test_gradient_of_the_mean(clamp: float) -> None:
    """`mean` divides after the clamp, so the bound of an element is clamp / B."""
    logits, targets = random_batch("mean", scale=3.0)
    x = jnp.asarray(logits)

    def mean(x):
        return jax_rnnt.rnnt_loss(x, targets, *LENGTHS, clamp=clamp, implementation=losses.QUICK)

    _, expected = reference.rnnt_loss(logits, targets, *LENGTHS, clamp=clamp)
    np.testing.assert_allclose(jax.jit(jax.grad(mean))(x), expected / 4, rtol=0, atol=1e-14)
    if clamp > 0:
        assert np.abs(expected).max() == clamp, "the case must be one where the clamp bites"
