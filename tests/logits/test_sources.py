"""Every source with every loss, against the definition: corner cases, clamp, masks, transformations."""

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import sources
from losses import RNNT, LossUnderTest
from sources import SourceUnderTest

import jax_rnnt

LOSSES = (*losses.PLAIN[2:], RNNT)  # each has its own layout of a row


def _each(name: str | tuple[str, ...], rows):
    return pytest.mark.parametrize(name, rows, ids=lambda row: row.name)


EVERY_SOURCE = _each("source", sources.SOURCES)


@EVERY_SOURCE
@pytest.mark.parametrize(
    "loss", [pytest.param(loss, id=loss.name, marks=[pytest.mark.once] * (loss is not RNNT)) for loss in LOSSES]
)
def test_values_and_gradients(loss: LossUnderTest, source: SourceUnderTest) -> None:
    sources.assert_matches(source, loss, *sources.evaluate(source, loss))


@pytest.mark.once
def test_lax_form() -> None:
    source = sources.SOURCES[1]
    sources.assert_matches(source, RNNT, *sources.evaluate(source, RNNT, "lax"))


@pytest.mark.once
@EVERY_SOURCE
def test_float32(source: SourceUnderTest) -> None:
    sources.assert_matches(source, RNNT, *sources.evaluate(source, RNNT, dtype="float32"), dtype="float32")


@pytest.mark.once
@_each(("source", "loss"), [*zip(sources.SOURCES, LOSSES, strict=True)])
@pytest.mark.parametrize("clamp", [-1.0, 0.05])
def test_cotangents_and_clamp(clamp: float, source: SourceUnderTest, loss: LossUnderTest) -> None:
    """`clamp` bounds each element of the gradient of the logits, for a cotangent of 1. One of 0 masks what is bad."""
    batch = losses.batch(loss)
    cost, _ = loss.expected(source.logits(batch), *batch.arrays[1:])
    for cotangent in (np.resize([2.0, -0.5, 1.0], len(cost)), np.where(np.isfinite(cost), -1.5, 0.0)):
        result = sources.evaluate(source, loss, clamp=clamp, cotangent=cotangent)
        sources.assert_matches(source, loss, *result, clamp=clamp, cotangent=cotangent)
    assert all(np.isfinite(gradient).all() for gradient in result[1])
    assert np.isnan(cost).sum() > 10


@pytest.mark.parametrize(("examples", "frames"), [(0, 3), (2, 0)])
def test_empty_arrays(examples: int, frames: int) -> None:
    """A batch without examples, and one without frames."""
    lengths = np.zeros(examples, np.int32), np.zeros(examples, np.int32)
    targets = np.zeros((examples, 2), np.int32)
    held = [
        jax_rnnt.PackedLogits(np.zeros((0, 4)), *lengths, num_frames=frames, num_labels=2),
        jax_rnnt.PackedLogits(np.zeros((3, 4)), *lengths, num_frames=frames, num_labels=2),
        jax_rnnt.PrunedLogits(np.zeros((examples, frames, 2, 4)), np.zeros((examples, frames), np.int32), num_labels=2),
        jax_rnnt.AdditiveLogits(np.zeros((examples, frames, 4)), np.zeros((examples, 3, 4)), 0.1, 0.1),
    ]

    @losses.jit
    def steps(held):
        def costs(held):
            return [RNNT.costs(x, targets, *lengths, implementation=losses.QUICK) for x in held]

        cost, pull = jax.vjp(costs, held)
        return cost, pull([jnp.ones_like(x) for x in cost])[0]

    cost, gradient = steps(held)
    assert [x.tolist() for x in cost] == [[0.0] * examples] * len(held)
    assert not any(np.any(x) for x in jax.tree.leaves(gradient) if x.dtype == np.float64)


LISTS = {
    "rows": lambda: jax_rnnt.PackedLogits([[0.0]], np.array([1]), np.array([0]), num_frames=1, num_labels=0),
    "logit_lengths": lambda: jax_rnnt.PackedLogits(np.zeros((1, 2)), [1], np.array([0]), num_frames=1, num_labels=0),
    "am": lambda: jax_rnnt.AdditiveLogits([[[0.0]]], np.zeros((1, 1, 1))),
    "ranges": lambda: jax_rnnt.PrunedLogits(np.zeros((1, 1, 1, 2)), [[0]], num_labels=0),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_refused_in_words(name: str) -> None:
    with pytest.raises(TypeError, match=f"`{name}` must be an array, got .* of type list"):
        jax_rnnt.rnnt_loss(LISTS[name](), np.zeros((1, 0), np.int32), np.array([1]), np.array([0]))


def test_integers_of_64_bits_without_x64() -> None:
    """NumPy's default integers have 64 bits. JAX's have 32."""
    lengths = np.array([2], np.int64), np.array([1], np.int64)
    sources = (
        jax_rnnt.PackedLogits(np.zeros((4, 3), np.float32), *lengths, num_frames=2, num_labels=1),
        jax_rnnt.PrunedLogits(np.zeros((1, 2, 2, 3), np.float32), np.zeros((1, 2), np.int64), num_labels=1),
    )
    with jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.disable_x64():
        for source in sources:
            jax_rnnt.check_inputs(jax_rnnt.RNNTLoss(), source, np.array([[1]]), *lengths)
            loss = jax.jit(lambda: jax_rnnt.rnnt_loss(source, np.array([[1]]), *lengths))()  # noqa: B023
            assert loss == pytest.approx(3 * np.log(3) - np.log(2), rel=1e-6)
