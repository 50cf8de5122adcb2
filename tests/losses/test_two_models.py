"""Distillation and consistency against their definition in float64: values, gradients, corner cases, dtypes."""

import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference_two_models as reference
import runner
from losses import LossUnderTest, T, U

import jax_rnnt

LOSSES = losses.PLAIN[2:]  # TDT and HAT have the distributions of the other losses, and more
TAU = 2.0


@functools.cache
def _weights(examples: int) -> np.ndarray:
    """Two fifths of the nodes have weight 0."""
    rng = np.random.default_rng(11)
    return rng.uniform(0.2, 1, (examples, T, U + 1)) * (rng.random((examples, T, U + 1)) > 0.4)


@functools.cache
def _compiled(loss: LossUnderTest, implementation: str = losses.QUICK, names: tuple[str, ...] = ()):
    """The functions and options of a loss, in one program: values [B], and the gradients of their weighted sums.

    All of them, or those of these `names`.
    """
    made = loss.made(implementation=implementation)

    def run(x, y, batch, weights, ct):
        common = {"node_weights": weights, "reduction": "none"}
        calls = {
            "distillation": lambda x, y: jax_rnnt.distillation_loss(made, x, y, *batch, temperature=TAU, **common),
            "collapsed": lambda x, y: jax_rnnt.distillation_loss(made, x, y, *batch, collapsed=True, **common),
            "consistency": lambda x, y: jax_rnnt.consistency_loss(made, x, y, *batch, node_reduction="sum", **common),
        }
        results = {}
        for name in names or calls:
            call = calls[name]
            value, pull = jax.vjp(call, x, y)
            results[name] = value, *pull(ct.astype(value.dtype))
        return results

    return losses.jit(run)


def _expected(loss: LossUnderTest, x, y, batch, weights):
    zeros = np.zeros(y.shape)
    return {
        "distillation": (*reference.distillation(loss.oracle, x, y, batch, weights, TAU), zeros),
        "collapsed": (*reference.distillation(loss.oracle, x, y, batch, weights, collapsed=True), zeros),
        "consistency": reference.consistency(loss.oracle, x, y, batch, weights, mean=False),
    }


def _assert_expected(results, expected, ct, names) -> None:
    rtol, atol = 1e-9, 1e-11
    for call, (value, *gradients) in results.items():
        wanted_value, *wanted_gradients = expected[call]
        for b, name in enumerate(names):
            where = f"{call}: {name}"
            np.testing.assert_allclose(np.float64(value[b]), wanted_value[b], rtol, atol, err_msg=where)
            for actual, wanted in zip(gradients, wanted_gradients, strict=True):
                scaled = np.where(ct[b] == 0, 0, wanted[b] * ct[b])
                actual = np.asarray(actual[b]).astype(np.float64)
                nan = np.isnan(scaled)
                assert np.isnan(actual[nan.any(-1)]).any(-1).all(), where
                assert (np.isnan(actual) | (actual == 0))[np.isnan(actual) != nan].all(), where
                close = np.where(nan | np.isnan(actual), 0, actual), np.where(nan | np.isnan(actual), 0, scaled)
                np.testing.assert_allclose(*close, rtol, atol, err_msg=where)
                assert (actual[(scaled == 0).all(-1)] == 0).all(), where


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_every_corner_case(loss: LossUnderTest) -> None:
    """The batch has a bad value, mask, length or label in most examples. The bad values are in one model or in both."""
    examples = losses.batch(loss)
    x, *batch = examples.arrays
    noise = np.random.default_rng(2).normal(size=x.shape)
    weights = _weights(len(x))
    ct = np.where(np.arange(len(x)) % 5 == 3, 0.0, np.linspace(-1, 2, len(x)))
    infinite = 0
    for models in ((x, x + noise), (x, noise), (noise, x)):
        results, expected = _compiled(loss)(*models, batch, weights, ct), _expected(loss, *models, batch, weights)
        assert sum(np.isfinite(value).sum() for value, *_ in expected.values()) > 30
        infinite += sum(np.isposinf(value).sum() for value, *_ in expected.values())
        _assert_expected(results, expected, ct, examples.names)
    assert infinite > 3


@pytest.mark.full(implementation="native")
def test_implementations(implementation: str) -> None:
    loss = losses.RNNT
    x, *batch = losses.batch(loss).arrays
    models = x, np.random.default_rng(2).normal(size=x.shape)
    weights, ct = _weights(len(x)), np.ones(len(x))
    results = _compiled(loss, implementation, ("distillation",))(*models, batch, weights, ct)
    _assert_expected(results, _expected(loss, *models, batch, weights), ct, losses.batch(loss).names)


def _good(loss: LossUnderTest):
    rng = np.random.default_rng(3)
    x, y = 2.0 * rng.normal(size=(2, 4, T, U + 1, loss.width))
    targets = rng.integers(*losses.LABELS, (4, U)).astype(np.int32)
    batch = targets, np.array([5, 3, 4, 0], np.int32), np.array([3, 2, 0, 0], np.int32)
    return x, y, batch


def test_dtypes() -> None:
    """Each side has its own dtype, and its gradient has that dtype. The value is computed in the wider one."""
    dtypes = "bfloat16", "float32"
    x, y, batch = _good(losses.RNNT)
    rounded = [runner.rounded(z, dtype) for z, dtype in zip((x, y), dtypes, strict=True)]
    weights, ct = _weights(4), np.array([1.0, -2.0, 0.5, 1.0])
    arrays = [z.astype(jnp.dtype(dtype)) for z, dtype in zip(rounded, dtypes, strict=True)]
    results = _compiled(losses.RNNT)(*arrays, batch, weights, ct)
    expected = _expected(losses.RNNT, *rounded, batch, weights)
    for call, (value, *gradients) in results.items():
        assert value.dtype == "float32"
        np.testing.assert_allclose(value, expected[call][0], rtol=3e-6, err_msg=call)
        for gradient, wanted, dtype in zip(gradients, expected[call][1:], dtypes, strict=True):
            assert gradient.dtype == dtype
            eps = float(jnp.finfo(dtype).eps)
            actual = np.asarray(gradient).astype(np.float64)
            np.testing.assert_allclose(actual, wanted * ct[:, None, None, None], rtol=eps, atol=2e-6, err_msg=call)


# --- how exact --------------------------------------------------------------------------------------------------------


@losses.jit
def _of_rows(x, y):
    """One node per utterance, and no label: the divergences of two rows."""
    ones, zeros = jnp.ones(len(x), jnp.int32), jnp.zeros(len(x), jnp.int32)
    arrays = x[:, None, None], y[:, None, None], jnp.zeros((len(x), 0), jnp.int32), ones, zeros
    return [
        call(losses.RNNT.made(), *arrays, reduction="none")
        for call in (jax_rnnt.distillation_loss, jax_rnnt.consistency_loss)
    ]


@pytest.mark.full(dtype="float64")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_that_are_nearly_the_same(dtype: str) -> None:
    """The error is relative to the divergence, which is never negative, also where a class has nearly all the mass."""
    rng = np.random.default_rng(4)
    eps, least = (1e-15, 1e-30) if dtype == "float64" else (1e-6, 1e-13)
    for scale, ahead in ((1, 0), (1, 20), (6, 0), (6, 20)):
        for distance in (3, 1, 0.1, 0.01, 0.001):
            y = scale * rng.normal(size=(200, 100))
            y[:, 0] += ahead
            x, y = (runner.rounded(z, dtype) for z in (y + distance * rng.normal(size=y.shape), y))
            results = _of_rows(x.astype(dtype), y.astype(dtype))
            one, other = _precise(x, y), _precise(y, x)
            for actual, wanted in zip(results, (one, (one + other) / 2), strict=True):
                actual = np.asarray(actual)
                assert (actual >= 0).all()
                np.testing.assert_allclose(actual, wanted, rtol=20 * eps, atol=least)
                assert np.median(np.abs(actual - wanted) / np.maximum(wanted, least)) < 2 * eps


def _precise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KL(y || x) in extended precision."""
    log_p, log_q = (_log_softmax(z.astype(np.longdouble)) for z in (x, y))
    d = log_q - log_p
    return (np.exp(log_q) * (np.expm1(-d) + d)).sum(axis=1).astype(np.float64)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_equal_models() -> None:
    rows = np.random.default_rng(5).normal(size=(200, 100))
    assert all((np.asarray(value) == 0).all() for value in _of_rows(rows, rows))


# --- arguments --------------------------------------------------------------------------------------------------------


def test_reductions_and_weights() -> None:
    x, y, batch = _good(losses.RNNT)
    loss = losses.RNNT.made(reduction="sum")  # the loss's own reduction is not used
    of_each, _ = reference.distillation(losses.RNNT.oracle, x, y, batch, np.ones(x.shape[:3]), mean=False)
    w = np.array([1.0, 0.0, 2.0, 3.0])
    call = functools.partial(jax_rnnt.distillation_loss, loss, x, y, *batch, node_reduction="sum")
    np.testing.assert_allclose(call(), of_each.mean(), rtol=1e-12)
    np.testing.assert_allclose(call(reduction="sum"), of_each.sum(), rtol=1e-12)
    np.testing.assert_allclose(call(reduction="mean", weights=w), (w * of_each).sum() / w.sum(), rtol=1e-12)
    np.testing.assert_allclose(call(reduction="mean_volume"), of_each.sum() / batch[2].sum(), rtol=1e-12)
    np.testing.assert_allclose(
        call(node_weights=jnp.ones(x.shape[:3], bool), reduction="none"), call(reduction="none"), rtol=1e-15
    )


def test_targets_and_weights_of_nodes_have_no_gradient() -> None:
    x, y, batch = _good(losses.RNNT)
    loss, w = losses.RNNT.made(), jnp.asarray(_weights(4))

    def distill(x, y, w):
        return jax_rnnt.distillation_loss(loss, x, y, *batch, node_weights=w)

    of_student, *others = losses.jit(jax.grad(distill, (0, 1, 2)))(x, y, w)
    assert (np.asarray(of_student) != 0).any()
    assert all((np.asarray(g) == 0).all() for g in others)
    both = losses.jit(jax.grad(lambda x: jax_rnnt.consistency_loss(loss, x, x, *batch)))(x)
    np.testing.assert_allclose(both, 0, atol=1e-15)  # each side learns, and they agree already


X = np.zeros((2, 3, 2, 5), np.float32)
BATCH = np.array([[1], [2]], np.int32), np.array([3, 3], np.int32), np.array([1, 1], np.int32)
REFUSED = {
    "loss": ({"loss": jax_rnnt.rnnt_loss}, TypeError, "`loss` must be a loss with its options"),
    "shapes": (
        {"teacher": X[..., :-1]},
        ValueError,
        r"`student` and `teacher` must have the same shape \[B, T, U\+1, V\], got \(2, 3, 2, 5\) and \(2, 3, 2, 4\)",
    ),
    "student": ({"student": X.astype(int)}, TypeError, "`student` must be one of .*, got int64"),
    "teacher": ({"teacher": X.astype(int)}, TypeError, "`teacher` must be one of .*, got int64"),
    "targets": ({"targets": BATCH[0][:, :0]}, ValueError, r"`student` of shape .* needs `targets` of shape"),
    "node_weights": (
        {"node_weights": X[..., 0, 0]},
        ValueError,
        r"`node_weights` must have shape \(2, 3, 2\) \(\[B, T, U\+1\]\), got \(2, 3\)",
    ),
    "temperature": ({"temperature": 0.0}, ValueError, "`temperature` must be above 0 and finite, got 0.0"),
    "no number": ({"temperature": "hot"}, TypeError, "`temperature` must be a number, got 'hot'"),
    "collapsed": ({"collapsed": 1}, TypeError, "`collapsed` must be True or False, got 1"),
    "node_reduction": ({"node_reduction": "none"}, ValueError, r"`node_reduction` must be one of \('mean', 'sum'\)"),
    "reduction": ({"reduction": "median"}, ValueError, "`reduction` must be one of .*, got 'median'"),
    "vocabulary": (
        {"loss": jax_rnnt.RNNTLoss(vocab_axis_name="model")},
        ValueError,
        "`vocab_axis_name` is 'model': no device has whole rows of logits",
    ),
    "scales": (
        {"student": jax_rnnt.AdditiveLogits(X[:, :, 0], X[:, 0], 0.5)},
        ValueError,
        "with `lm_scale` or `am_scale` there are none, got lm_scale=0.5",
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    changes, error, match = REFUSED[name]
    targets, t_b, u_b = BATCH
    good = {"loss": jax_rnnt.RNNTLoss(), "student": X, "teacher": X, "targets": targets}
    arguments = good | {"logit_lengths": t_b, "target_lengths": u_b} | changes
    with pytest.raises(error, match=match):
        jax_rnnt.distillation_loss(**arguments)
