"""Values of the loss: torchaudio's signature, larger shapes, and x64 off."""

import contextlib
import inspect

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


# The sizes are so large that threads share the work. No vector width and no tile divides them.
LARGER = {
    "many_rows": {"batch": 8, "t": 53, "u": 21, "v": 30},
    "wide_rows": {"batch": 3, "t": 19, "u": 7, "v": 1023},
    "one_utterance": {"batch": 1, "t": 131, "u": 17, "v": 77},
    "more_labels_than_frames": {"batch": 5, "t": 9, "u": 61, "v": 33},
}


@pytest.mark.full(implementation="lax", name=["wide_rows", "one_utterance", "more_labels_than_frames"])
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


def test_without_x64() -> None:
    """As most users run it: jax without 64-bit types. The numbers are as good, and no code asks for float64 in vain."""
    logits, targets = random_batch("ragged")
    arrays = targets, lengths(5, 3, 4, 1), lengths(3, 3, 1, 2)
    with _x64_off():
        x = jnp.asarray(logits, jnp.float32)

        def total(x):
            return jax_rnnt.rnnt_loss(x, *arrays, reduction="sum", implementation=losses.QUICK)

        value, grad = jax.jit(jax.value_and_grad(total))(x)
        assert value.dtype == grad.dtype == jnp.float32
        # These are numpy's 64-bit integers. jnp.asarray would wrap them into range: 2**32 + 3 looks like 3.
        wide = [a.astype(np.int64) for a in arrays]
        wide[0][0, 0] += 2**32
        wide[1][1] += 2**32
        wide[2][2] -= 2**32
        costs = jax_rnnt.rnnt_loss(x, *wide, reduction="none", implementation=losses.QUICK)
        assert np.isnan(costs).tolist() == [True, True, True, False]
    cost, gradient = reference.rnnt_loss(runner.rounded(logits, "float32"), *arrays)
    np.testing.assert_allclose(value, cost.sum(), rtol=1e-6)
    np.testing.assert_allclose(grad, gradient, rtol=0, atol=2e-6)


def _x64_off() -> contextlib.AbstractContextManager:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(False)
    from jax.experimental import disable_x64  # its name before jax 0.8

    return disable_x64()


def test_two_calls_agree_bit_for_bit() -> None:
    """The result does not depend on how threads share the work."""
    size = LARGER["many_rows"]
    logits, targets = random_batch("deterministic", **size)
    arrays = logits, targets, np.full(8, 53, np.int32), np.full(8, 21, np.int32)
    first = runner.evaluate(losses.QUICK, *arrays, dtype="float32")
    for _ in range(3):
        again = runner.evaluate(losses.QUICK, *arrays, dtype="float32")
        np.testing.assert_array_equal(again.cost, first.cost)
        np.testing.assert_array_equal(again.gradient, first.gradient)
