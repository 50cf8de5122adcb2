"""First-order gradients of the loss: finite differences, cotangents, reductions, clamp, structure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import runner
import tolerances
from cases import lengths, random_batch

import jax_rnnt

pytestmark = pytest.mark.once

LENGTHS = lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)


@pytest.mark.parametrize("fused", [True, False])
def test_finite_differences_of_the_loss_itself(fused: bool, implementation: str) -> None:
    """The gradient agrees with slopes of the cost along random directions, in f64. The oracle plays no part."""
    logits, targets = random_batch("finite_differences")
    rng = np.random.default_rng(0)
    gradient = runner.evaluate(implementation, logits, targets, *LENGTHS, fused=fused).gradient
    for _ in range(5):
        direction = rng.normal(size=logits.shape)
        ends = [
            runner.evaluate(implementation, logits + h * direction, targets, *LENGTHS, fused=fused).cost
            for h in (tolerances.FINITE_STEP, -tolerances.FINITE_STEP)
        ]
        slope = (ends[0] - ends[1]) / (2 * tolerances.FINITE_STEP)
        expected = (gradient * direction).sum((1, 2, 3))
        np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=tolerances.FINITE_ATOL)


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


@pytest.mark.full(implementation="lax", clamp=-1.0)
@pytest.mark.parametrize("clamp", [-1.0, 0.1])
def test_gradient_of_the_mean(clamp: float, implementation: str) -> None:
    """`mean` divides after the clamp, so the bound of an element is clamp / B."""
    logits, targets = random_batch("mean", scale=3.0)
    x = jnp.asarray(logits)

    def mean(x):
        return jax_rnnt.rnnt_loss(x, targets, *LENGTHS, clamp=clamp, implementation=implementation)

    _, expected = reference.rnnt_loss(logits, targets, *LENGTHS, clamp=clamp)
    np.testing.assert_allclose(jax.grad(mean)(x), expected / 4, rtol=0, atol=1e-14)
    if clamp > 0:
        assert np.abs(expected).max() == clamp, "the case must be one where the clamp bites"


def test_every_row_of_the_gradient_sums_to_zero(implementation: str) -> None:
    """A constant that is added to a row of logits does not change the loss."""
    logits, targets = random_batch("rows", v=28, scale=3.0)
    gradient = runner.evaluate(implementation, logits, targets, *LENGTHS, dtype="float32").gradient
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=2e-6)


@pytest.mark.full(implementation="lax")
def test_log_probs_through_log_softmax(implementation: str) -> None:
    """`fused_log_softmax=False` after jax's own log_softmax is the fused loss."""
    logits, targets = random_batch("chain")

    def total(x, fused):
        y = x if fused else jax.nn.log_softmax(x, axis=-1)
        return jax_rnnt.rnnt_loss(y, targets, *LENGTHS, -1, -1.0, "sum", fused, implementation=implementation)

    fused, fused_grad = jax.value_and_grad(total)(jnp.asarray(logits), True)
    chain, chain_grad = jax.value_and_grad(total)(jnp.asarray(logits), False)
    np.testing.assert_allclose(chain, fused, rtol=1e-14)
    np.testing.assert_allclose(chain_grad, fused_grad, rtol=0, atol=1e-14)


def test_log_probs_have_a_gradient_at_blank_and_targets_only(implementation: str) -> None:
    logits, targets = random_batch("sparse")
    gradient = runner.evaluate(implementation, logits, targets, *LENGTHS, fused=False).gradient
    read = np.zeros(logits.shape, bool)
    read[..., -1] = True
    for b, row in enumerate(targets):
        for u, label in enumerate(row):
            read[b, :, u, label] = True
    assert (gradient[~read] == 0).all()
    assert (gradient <= 0).all(), "minus a posterior"


@pytest.mark.full(implementation="lax")
def test_gradient_through_a_shared_joint(implementation: str) -> None:
    """The loss is inside a larger function: the logits are enc[t] + pred[u], as a transducer's joint makes them."""
    rng = np.random.default_rng(2)
    encoder, predictor = rng.normal(size=(4, 5, 6)), rng.normal(size=(4, 4, 6))
    _, targets = random_batch("joint")

    def total(parts):
        logits = parts[0][:, :, None] + parts[1][:, None]
        return jax_rnnt.rnnt_loss(logits, targets, *LENGTHS, reduction="sum", implementation=implementation)

    grads = jax.grad(total)((jnp.asarray(encoder), jnp.asarray(predictor)))
    _, expected = reference.rnnt_loss(encoder[:, :, None] + predictor[:, None], targets, *LENGTHS)
    np.testing.assert_allclose(grads[0], expected.sum(2), atol=1e-13)
    np.testing.assert_allclose(grads[1], expected.sum(1), atol=1e-13)
