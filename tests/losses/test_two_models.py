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

LOSSES = (losses.RNNT, *losses.PLAIN)
TAU = 2.0
SAME_DISTRIBUTIONS = pytest.mark.full(loss=["monotonic"])  # as RNN-T


def _each_loss(test):
    return SAME_DISTRIBUTIONS(pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)(test))


@functools.cache
def _weights(examples: int) -> np.ndarray:
    """Two fifths of the nodes have weight 0."""
    rng = np.random.default_rng(11)
    return rng.uniform(0.2, 1, (examples, T, U + 1)) * (rng.random((examples, T, U + 1)) > 0.4)


@functools.cache
def _compiled(loss: LossUnderTest, implementation: str = losses.QUICK):
    """Every function and option of a loss, in one program: values [B], and the gradients of their weighted sums."""
    made = loss.made(implementation=implementation)

    def run(x, y, batch, weights, ct):
        common = {"node_weights": weights, "reduction": "none"}
        calls = {
            "distillation": lambda x, y: jax_rnnt.distillation_loss(made, x, y, *batch, temperature=TAU, **common),
            "collapsed": lambda x, y: jax_rnnt.distillation_loss(made, x, y, *batch, collapsed=True, **common),
            "consistency": lambda x, y: jax_rnnt.consistency_loss(made, x, y, *batch, node_reduction="sum", **common),
        }
        results = {}
        for name, call in calls.items():
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


def _assert_expected(results, expected, ct, names, rtol=1e-9, atol=1e-11) -> None:
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


@_each_loss
@pytest.mark.parametrize("bad", ["both", "student", "teacher"])
def test_every_corner_case(loss: LossUnderTest, bad: str) -> None:
    """The batch has a bad value, mask, length or label in most examples. The bad values are in one model or in both."""
    examples = losses.batch(loss)
    x, *batch = examples.arrays
    noise = np.random.default_rng(2).normal(size=x.shape)
    with np.errstate(invalid="ignore"):
        models = {"both": (x, x + noise), "student": (x, noise), "teacher": (noise, x)}[bad]
    weights = _weights(len(x))
    ct = np.where(np.arange(len(x)) % 5 == 3, 0.0, np.linspace(-1, 2, len(x)))
    results = _compiled(loss)(*models, batch, weights, ct)
    expected = _expected(loss, *models, batch, weights)
    finite, infinite = (sum(f(v[0]).sum() for v in expected.values()) for f in (np.isfinite, np.isposinf))
    assert finite > 30 and (infinite > 0 or bad == "teacher" or bad == "both")
    _assert_expected(results, expected, ct, examples.names)


@pytest.mark.full(implementation="native")
def test_implementations(implementation: str) -> None:
    loss = next(loss for loss in LOSSES if loss.name == "hat")
    x, *batch = losses.batch(loss).arrays
    models = x, np.random.default_rng(2).normal(size=x.shape)
    weights, ct = _weights(len(x)), np.ones(len(x))
    results = _compiled(loss, implementation)(*models, batch, weights, ct)
    _assert_expected(results, _expected(loss, *models, batch, weights), ct, losses.batch(loss).names)


def _good(loss: LossUnderTest, examples: int = 4, scale: float = 2.0):
    rng = np.random.default_rng(3)
    x, y = scale * rng.normal(size=(2, examples, T, U + 1, loss.width))
    targets = rng.integers(*losses.LABELS, (examples, U)).astype(np.int32)
    batch = targets, np.array([5, 3, 4, 0], np.int32)[:examples], np.array([3, 2, 0, 0], np.int32)[:examples]
    return x, y, batch


@pytest.mark.parametrize(
    "dtypes",
    [("float32", "float32"), ("bfloat16", "float16"), ("float16", "float64"), ("float32", "bfloat16")],
    ids="-".join,
)
def test_dtypes(dtypes: tuple[str, str]) -> None:
    """Each side has its own dtype, and its gradient has that dtype. The value is computed in the wider one."""
    x, y, batch = _good(losses.RNNT)
    rounded = [runner.rounded(z, dtype) for z, dtype in zip((x, y), dtypes, strict=True)]
    weights, ct = _weights(4), np.array([1.0, -2.0, 0.5, 1.0])
    arrays = [z.astype(jnp.dtype(dtype)) for z, dtype in zip(rounded, dtypes, strict=True)]
    results = _compiled(losses.RNNT)(*arrays, batch, weights, ct)
    expected = _expected(losses.RNNT, *rounded, batch, weights)
    for call, (value, *gradients) in results.items():
        assert value.dtype == ("float64" if "float64" in dtypes else "float32")
        np.testing.assert_allclose(value, expected[call][0], rtol=3e-6, err_msg=call)
        for gradient, wanted, dtype in zip(gradients, expected[call][1:], dtypes, strict=True):
            assert gradient.dtype == dtype
            eps = float(jnp.finfo(dtype).eps)
            actual = np.asarray(gradient).astype(np.float64)
            np.testing.assert_allclose(actual, wanted * ct[:, None, None, None], rtol=eps, atol=2e-6, err_msg=call)


# --- how exact --------------------------------------------------------------------------------------------------------


@functools.cache
def _of_rows(symmetric: bool):
    """One node per utterance, and no label: the divergence of two rows."""
    function = jax_rnnt.consistency_loss if symmetric else jax_rnnt.distillation_loss

    def run(x, y):
        ones, zeros = jnp.ones(len(x), jnp.int32), jnp.zeros(len(x), jnp.int32)
        batch = jnp.zeros((len(x), 0), jnp.int32), ones, zeros
        return function(losses.RNNT.made(), x[:, None, None], y[:, None, None], *batch, reduction="none")

    return losses.jit(run)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_rows_that_are_nearly_the_same(dtype: str) -> None:
    """The error is relative to the divergence, which is never negative, also where a class has nearly all the mass."""
    rng = np.random.default_rng(4)
    for width, scale, ahead in ((17, 1, 0), (500, 1, 20), (500, 6, 0), (17, 6, 20)):
        for distance in (3, 1, 0.1, 0.01, 0.001):
            y = scale * rng.normal(size=(200, width))
            y[:, 0] += ahead
            x, y = (runner.rounded(z, dtype) for z in (y + distance * rng.normal(size=y.shape), y))
            for symmetric in (False, True):
                actual = np.asarray(_of_rows(symmetric)(x.astype(jnp.dtype(dtype)), y.astype(jnp.dtype(dtype))))
                wanted = _precise(x, y)
                if symmetric:
                    wanted = (wanted + _precise(y, x)) / 2
                assert (actual >= 0).all()
                eps, least = (1e-15, 1e-30) if dtype == "float64" else (1e-6, 1e-13)
                np.testing.assert_allclose(actual, wanted, rtol=20 * eps, atol=least)
                if wanted.min() > 1e-6 * least:
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
    x, _, batch = _good(losses.RNNT)
    results = _compiled(losses.RNNT)(x, x, batch, _weights(4), np.ones(4))
    for value, *gradients in results.values():
        assert (np.asarray(value) == 0).all()
        assert all(np.abs(g).max() < 1e-16 for g in gradients)


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
    "rank": ({"student": X[0]}, ValueError, r"`student` must have 4 dimensions \[B, T, U\+1, V\], got 3"),
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
