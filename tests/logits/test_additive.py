"""Additive logits: norms where exponentials underflow, memory, and the smoothed loss."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
import reference_losses
import tolerances
from losses import RNNT, T, U, V
from reference_losses import Rnnt

import jax_rnnt

pytestmark = pytest.mark.once

TDT = next(loss for loss in losses.PLAIN if loss.name == "tdt")
T_B, U_B = np.array([T, 3, 4, 0], np.int32), np.array([U, 2, 0, 0], np.int32)
BATCH = np.random.default_rng(0).integers(*losses.LABELS, (4, U)).astype(np.int32), T_B, U_B


def _parts(width: int = V) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(4, T, width)), rng.normal(size=(4, U + 1, width))


def _step(costs):
    def step(*parts):
        cost, pull = jax.vjp(costs, *parts)
        return cost, pull(jnp.ones_like(cost))

    return losses.jit(step)


@pytest.mark.parametrize(
    ("loss", "dtype", "apart"), [(RNNT, "float32", 100.0), (TDT, "float64", 900.0)], ids=["rnnt", "tdt"]
)
def test_peaks_at_entries_far_apart(loss, dtype: str, apart: float) -> None:
    """Products of their exponentials are below the smallest number. Results match float64, with NaN in padding."""
    am, lm = (x.astype(dtype) for x in _parts(loss.width))
    am[:, ::2, 0] += apart
    lm[:, 1:, losses.LABELS[1]] += apart
    x = am[:, :, None].astype(np.float64) + lm[:, None]
    wanted, gradient = loss.expected(x, *BATCH)
    for b in range(4):
        am[b, T_B[b] :], lm[b, U_B[b] + 1 :] = np.nan, np.nan
    run = _step(lambda am, lm: loss.costs(jax_rnnt.AdditiveLogits(am, lm), *BATCH, implementation=losses.QUICK))
    cost, (of_am, of_lm) = run(am, lm)
    allowed = tolerances.tolerance(dtype, apart, T + U, wanted.max())
    np.testing.assert_allclose(cost, wanted, rtol=allowed.cost_rtol, atol=allowed.cost_atol)
    for actual, axis in ((of_am, 2), (of_lm, 1)):
        np.testing.assert_allclose(actual, gradient.sum(axis), rtol=0, atol=allowed.gradient_atol * (T + U))


@losses.jit
def _blanks(am, lm):
    batch = np.zeros((1, 2), int), np.array([3]), np.array([2])
    return jax_rnnt.alignment.loss_lattice(jax_rnnt.RNNTLoss(), jax_rnnt.AdditiveLogits(am, lm), *batch).arcs[..., 0]


@pytest.mark.parametrize("apart", [0.0, 40.0, 60.0, 64.0, 70.0, 100.0, 1000.0])
def test_error_of_float32_norms(apart: float) -> None:
    """The error is that of rounding the sums and the result.

    This holds for norms by the product and by the definition.
    """
    rng = np.random.default_rng(2)
    am, lm = rng.normal(size=(2, 1, 3, 300)).astype(np.float32)
    am[..., 7] += np.float32(apart)
    lm[..., 9] += np.float32(apart)
    x = am[:, :, None].astype(np.float64) + lm[:, None]
    wanted = x[..., 299] - reference.log_normaliser(x)
    atol = tolerances.tolerance("float32", apart, 1).cost_atol
    np.testing.assert_allclose(_blanks(am, lm), wanted, rtol=np.finfo(np.float32).eps, atol=atol)


@pytest.mark.parametrize(
    ("scales", "options"), [((0.0, 0.0), {"clamp": 0.1}), ((0.2, 0.1), {})], ids=["clamp", "smoothed"]
)
def test_no_array_has_all_of_the_logits(scales: tuple[float, float], options: dict) -> None:
    """No array has even an eighth of T (U+1) V entries, forward or backward."""
    t, u1, v = 61, 53, 67
    kinds = [((1, t, v), "float32"), ((1, u1, v), "float32"), ((1, u1 - 1), "int32"), ((1,), "int32"), ((1,), "int32")]

    def total(am, lm, *batch):
        logits = jax_rnnt.AdditiveLogits(am, lm, *scales)
        return jax_rnnt.rnnt_loss(logits, *batch, reduction="sum", implementation=losses.QUICK, **options)

    step = losses.jit(jax.value_and_grad(total, (0, 1)))
    lowered = step.lower(*(jax.ShapeDtypeStruct(shape, jnp.dtype(kind)) for shape, kind in kinds))
    shapes = re.findall(r"tensor<((?:\d+x)+)", lowered.as_text()) + re.findall(
        r"\b(?:pred|[fs]\d+)\[([\d,]+)\]", lowered.compile().as_text()
    )
    sizes = {math.prod(int(n) for n in re.findall(r"\d+", shape)) for shape in shapes}
    assert max(sizes) >= t * v, "the pattern finds arrays"
    assert max(sizes) < t * u1 * v / 8


def test_the_gradient_takes_the_place_of_the_encoders_part() -> None:
    """Exponentials and products exist for a part of the frames at a time. Temporaries need less than half of ``am``."""
    t, u1, v = 320, 9, 1024
    kinds = [((2, t, v), "float32"), ((2, u1, v), "float32"), ((2, u1 - 1), "int32"), ((2,), "int32"), ((2,), "int32")]

    def total(am, lm, *batch):
        return jax_rnnt.rnnt_loss(jax_rnnt.AdditiveLogits(am, lm), *batch, implementation=losses.QUICK)

    abstract = [jax.ShapeDtypeStruct(shape, jnp.dtype(kind)) for shape, kind in kinds]
    plan = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*abstract).compile().memory_analysis()
    assert plan.output_size_in_bytes >= 4 * 2 * t * v, "the gradient is there"
    print(f"temporaries {plan.temp_size_in_bytes / (4 * 2 * t * v):.2f} of am")
    assert plan.temp_size_in_bytes < 4 * t * v


def _smoothed_log_probs(am: np.ndarray, lm: np.ndarray, labels: int, lm_scale: float, am_scale: float) -> np.ndarray:
    """The log-probabilities [T, U+1, V] of one utterance, by k2's definition, with the mean over its own positions."""

    def log_softmax(x):
        return x - reference.log_normaliser(x)[..., None]

    of_lm = log_softmax(lm)
    prior = np.log(np.exp(of_lm[: labels + 1]).mean(axis=0))
    of_am = log_softmax(am + prior)
    both = log_softmax(am[:, None] + lm[None])
    return (1 - lm_scale - am_scale) * both + lm_scale * of_lm[None] + am_scale * of_am[:, None]


SCALES = [(0.25, 0.0), (0.0, 0.3), (0.4, 0.6)]


@pytest.mark.parametrize("scales", SCALES)
def test_smoothed_loss_is_that_of_k2(scales: tuple[float, float]) -> None:
    """Compares the costs with the definition, and the gradient with finite differences of the definition."""

    def expected(am, lm):
        x = np.stack([_smoothed_log_probs(a, b, u, *scales) for a, b, u in zip(am, lm, U_B, strict=True)])
        return reference_losses.batch(Rnnt(blank=0, fused=False), x, *BATCH)[0]

    am, lm = _parts()
    logits = functools.partial(jax_rnnt.AdditiveLogits, lm_scale=scales[0], am_scale=scales[1])
    run = _step(
        lambda am, lm: jax_rnnt.rnnt_loss(logits(am, lm), *BATCH, 0, reduction="none", implementation=losses.QUICK)
    )
    spoilt = am.copy(), lm.copy()
    for b in range(4):
        spoilt[0][b, T_B[b] :], spoilt[1][b, U_B[b] + 1 :] = np.nan, np.inf
    cost, gradients = run(*spoilt)
    np.testing.assert_allclose(cost, expected(am, lm), rtol=1e-12, atol=1e-12)
    h, directions = tolerances.FINITE_STEP, np.random.default_rng(3).normal(size=(4, T + U + 1, V))
    v = directions[:, :T], directions[:, T:]
    up, down = (expected(am + s * v[0], lm + s * v[1]) for s in (h, -h))
    slopes = sum((g * d).sum((1, 2)) for g, d in zip(gradients, v, strict=True))
    np.testing.assert_allclose(slopes, (up - down) / (2 * h), rtol=0, atol=tolerances.FINITE_ATOL)


def test_smoothing_masks_and_isolates() -> None:
    """Masked entries do not change the cost. NaN stays in its example, and a cotangent of 0 hides it."""
    am, lm = _parts()
    masked = (
        np.concatenate([am, np.full((4, T, 1), -np.inf)], -1),
        np.concatenate([lm, np.full((4, U + 1, 1), -1e9)], -1),
    )
    masked[0][1, 1, 2] = np.nan

    @losses.jit
    def run(am, lm):
        def total(am, lm):
            logits = jax_rnnt.AdditiveLogits(am, lm, 0.2, 0.1)
            cost = jax_rnnt.rnnt_loss(logits, *BATCH, 0, reduction="none", implementation=losses.QUICK)
            return jnp.sum(jnp.where(jnp.isnan(cost), 0, cost)), cost

        return jax.value_and_grad(total, (0, 1), has_aux=True)(am, lm)

    (_, cost), gradients = run(*masked)
    (_, plain), wanted = run(am, lm)
    assert np.isnan(cost).tolist() == [False, True, False, False]
    keep = np.array([0, 2, 3])
    np.testing.assert_allclose(cost[keep], plain[keep], rtol=1e-12)
    for actual, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(actual[keep, :, :V], other[keep], rtol=1e-10, atol=1e-13)
        assert (actual[1] == 0).all()
        assert (actual[..., V] == 0).all()


REFUSED = [
    ({"am": np.zeros((2, 4, 3, 5))}, {}, ValueError, r"`am` must have 3 dimensions \[B, T, W\].*\(2, 4, 3, 5\)"),
    ({"am": np.zeros((2, 4, 5), int)}, {}, TypeError, "`am` must be one of float16.*int64"),
    ({"lm": np.zeros((2, 3, 6))}, {}, ValueError, r"`lm` must have shape \(2, 3, 5\).*\(2, 3, 6\)"),
    ({"lm": np.zeros((2, 3, 5), np.float32)}, {}, TypeError, "`lm` must have the dtype of `am`, float64, got float32"),
    ({"lm": np.zeros((2, 4, 5))}, {}, ValueError, "needs `targets`"),
    ({"lm_scale": -0.1}, {}, ValueError, r"`lm_scale` must be in \[0, 1\], got -0\.1"),
    ({"am_scale": "a"}, {}, TypeError, "`am_scale`"),
    ({"lm_scale": 0.6, "am_scale": 0.6}, {}, ValueError, "must add up to at most 1, got 0.6 and 0.6"),
    ({"lm_scale": 0.1}, {"clamp": 1.0}, ValueError, "`clamp` bounds .*lm_scale=0.1 and am_scale=0.0"),
    ({"am_scale": 0.1}, {"fused_log_softmax": False}, ValueError, "`fused_log_softmax` must be True, got False"),
]


@pytest.mark.parametrize(("changes", "options", "error", "message"), REFUSED)
def test_refusals_name_the_argument(changes: dict, options: dict, error: type, message: str) -> None:
    good = {"am": np.zeros((2, 4, 5)), "lm": np.zeros((2, 3, 5))}
    source = jax_rnnt.AdditiveLogits(**(good | changes))
    batch = np.zeros((2, 2), np.int32), np.array([2, 1]), np.array([2, 1])

    def loss(source):
        return jax_rnnt.rnnt_loss(source, *batch, **options)

    with pytest.raises(error, match=message):
        jax.eval_shape(lambda source: jax.vjp(loss, source)[1](jnp.ones(())), source)
