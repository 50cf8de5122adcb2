"""Values of the loss: closed forms, reductions, torchaudio's signature, larger shapes, and x64 off."""

import contextlib
import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import runner
from cases import lengths, random_batch

import jax_rnnt

pytestmark = pytest.mark.once


@pytest.mark.parametrize(("frames", "labels"), [(7, 40)])
def test_uniform_logits_count_the_paths(frames: int, labels: int, implementation: str) -> None:
    """Each path has T + U arcs of probability 1/V, and there are binomial(T - 1 + U, U) paths."""
    logits = np.zeros((1, frames, labels + 1, 3))
    targets = np.ones((1, labels), np.int32)
    result = runner.evaluate(implementation, logits, targets, lengths(frames), lengths(labels), dtype="float32")
    expected = (frames + labels) * math.log(3) - math.log(math.comb(frames - 1 + labels, labels))
    np.testing.assert_allclose(result.cost, expected, rtol=1e-6)


def test_a_certain_model_costs_nothing(implementation: str) -> None:
    """All mass is on one path. Its cost is 0, and that of another path is +inf: no probability has a floor."""
    t, u, v = 4, 3, 5
    logits = np.full((2, t, u + 1, v), -np.inf)
    targets = np.array([[0, 1, 2]] * 2, np.int32)
    for step, label in enumerate(targets[0]):
        logits[:, 0, step, label] = 0.0
    logits[:, :, u, v - 1] = 0.0
    result = runner.evaluate(implementation, logits, targets, lengths(4, 4), lengths(3, 2), dtype="float32")
    assert abs(result.cost[0]) < 1e-8
    assert result.cost[1] == np.inf
    np.testing.assert_allclose(result.gradient, 0.0, atol=1e-6)


def test_reductions(implementation: str) -> None:
    """`mean` divides by the size of the batch, not by lengths. Examples of +inf and NaN reach the result."""
    logits, targets = random_batch("reductions")
    arrays = jnp.asarray(logits, jnp.float32), targets, lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)

    def loss(reduction: str) -> jax.Array:
        return jax_rnnt.rnnt_loss(*arrays, reduction=reduction, implementation=implementation)

    costs, _ = reference.rnnt_loss(*arrays)
    assert loss("none").shape == (4,)
    assert loss("sum").shape == loss("mean").shape == ()
    np.testing.assert_allclose(loss("sum"), costs.sum(), rtol=1e-6)
    np.testing.assert_allclose(loss("mean"), costs.sum() / 4, rtol=1e-6)
    default = jax_rnnt.rnnt_loss(*arrays, implementation=implementation)
    assert float(default) == float(loss("mean")), "`mean` is the default"


def test_signature_is_torchaudios() -> None:
    """Names, order and defaults are the same, so to port a recipe a user only changes the import."""
    parameters = inspect.signature(jax_rnnt.rnnt_loss).parameters
    positional = [(p.name, p.default) for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    none = inspect.Parameter.empty
    arrays = [(name, none) for name in ("logits", "targets", "logit_lengths", "target_lengths")]
    options = [("blank", -1), ("clamp", -1.0), ("reduction", "mean"), ("fused_log_softmax", True)]
    assert positional == arrays + options
    of_class = inspect.signature(jax_rnnt.RNNTLoss).parameters.values()
    assert [(p.name, p.default) for p in of_class if p.kind is p.POSITIONAL_OR_KEYWORD] == options


@pytest.mark.full(implementation="lax")
def test_loss_object_is_the_function(implementation: str) -> None:
    logits, targets = random_batch("loss_object", blank=0)
    arrays = jnp.asarray(logits, jnp.float32), targets, lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)
    loss = jax_rnnt.RNNTLoss(0, 0.1, "sum", implementation=implementation)
    expected, grad = jax.value_and_grad(jax_rnnt.rnnt_loss)(*arrays, 0, 0.1, "sum", implementation=implementation)
    value, actual = jax.value_and_grad(loss)(*arrays)
    assert float(value) == float(expected)
    np.testing.assert_array_equal(actual, grad)
    assert loss == jax_rnnt.RNNTLoss(blank=0, clamp=0.1, reduction="sum", implementation=implementation)
    assert hash(loss) == hash(dataclasses.replace(loss))
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.blank = 1


# The sizes are so large that threads share the work. No vector width and no tile divides them.
LARGER = {
    "many_rows": {"batch": 8, "t": 53, "u": 21, "v": 30},
    "wide_rows": {"batch": 3, "t": 19, "u": 7, "v": 1023},
    "one_utterance": {"batch": 1, "t": 131, "u": 17, "v": 77},
    "more_labels_than_frames": {"batch": 5, "t": 9, "u": 61, "v": 33},
}


@pytest.mark.full(implementation="lax", name=["one_utterance", "more_labels_than_frames"])
@pytest.mark.full(implementation="lax", dtype="bfloat16")
@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in LARGER), ("many_rows", "bfloat16")])
def test_larger_shapes(name: str, dtype: str, implementation: str) -> None:
    size = LARGER[name]
    rng = np.random.default_rng(11)
    logits, targets = random_batch(name, **size, scale=2.0)
    t_b = rng.integers(1, size["t"] + 1, size["batch"]).astype(np.int32)
    u_b = rng.integers(0, size["u"] + 1, size["batch"]).astype(np.int32)
    t_b[0], u_b[0] = size["t"], size["u"]
    result = runner.evaluate(implementation, logits, targets, t_b, u_b, dtype=dtype)
    runner.assert_matches_oracle(result, logits, targets, t_b, u_b, dtype=dtype)


def test_without_x64(implementation: str) -> None:
    """As most users run it: jax without 64-bit types. The numbers are as good, and no code asks for float64 in vain."""
    logits, targets = random_batch("ragged")
    arrays = targets, lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)
    with _x64_off():
        x = jnp.asarray(logits, jnp.float32)

        def total(x):
            return jax_rnnt.rnnt_loss(x, *arrays, reduction="sum", implementation=implementation)

        value, grad = jax.jit(jax.value_and_grad(total))(x)
        assert value.dtype == grad.dtype == jnp.float32
        # These are numpy's 64-bit integers. jnp.asarray would wrap them into range: 2**32 + 3 looks like 3.
        wide = [a.astype(np.int64) for a in arrays]
        wide[0][0, 0] += 2**32
        wide[1][1] += 2**32
        wide[2][2] -= 2**32
        costs = jax_rnnt.rnnt_loss(x, *wide, reduction="none", implementation=implementation)
        assert np.isnan(costs).tolist() == [True, True, True, False]
    cost, gradient = reference.rnnt_loss(runner.rounded(logits, "float32"), *arrays)
    np.testing.assert_allclose(value, cost.sum(), rtol=1e-6)
    np.testing.assert_allclose(grad, gradient, rtol=0, atol=2e-6)


def _x64_off() -> contextlib.AbstractContextManager:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(False)
    from jax.experimental import disable_x64  # its name before jax 0.8

    return disable_x64()


@pytest.mark.full(implementation="lax")
def test_two_calls_agree_bit_for_bit(implementation: str) -> None:
    """The result does not depend on how threads share the work."""
    size = LARGER["many_rows"]
    logits, targets = random_batch("deterministic", **size)
    arrays = logits, targets, np.full(8, 53, np.int32), np.full(8, 21, np.int32)
    first = runner.evaluate(implementation, *arrays, dtype="float32")
    for _ in range(3):
        again = runner.evaluate(implementation, *arrays, dtype="float32")
        np.testing.assert_array_equal(again.cost, first.cost)
        np.testing.assert_array_equal(again.gradient, first.gradient)
