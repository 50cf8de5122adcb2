"""Operation 1 alone: log-probabilities picked from rows of logits, and their gradient."""

import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
import runner
import tolerances

import jax_rnnt
from jax_rnnt.ops.arcs import backward, forward

pytestmark = pytest.mark.once

Window = tuple[int, int] | None


@functools.cache
def compiled(implementation: str, columns: tuple[int, ...], window: Window):
    def run(logits, labels, cotangent):
        def arcs(x):
            return jax_rnnt.arc_log_probs(x, labels, columns, window=window, implementation=implementation)

        entries, pull = jax.vjp(arcs, logits)
        return entries, pull(cotangent.astype(entries.dtype))[0]

    return jax.jit(run)


@functools.cache
def clipped(implementation: str, columns: tuple[int, ...], window: tuple[int, int]):
    """The gradient, with its elements clipped to the bound of their row. A loss with ``clamp`` calls this."""

    def run(logits, labels, cotangent, bound):
        static = {"columns": columns, "vocabulary": logits.shape[-1], "window": window}
        log_norm = forward(logits, labels, implementation=implementation, **static)[1]
        operands = (logits, labels, log_norm, cotangent.astype(log_norm.dtype), bound.astype(log_norm.dtype))
        return backward(*operands, clipped=True, implementation=implementation, **static)[0]

    return jax.jit(run)


def check(implementation, logits, labels, columns=(-1,), window: Window = None, dtype="float64", bound=None) -> None:
    """Compares entries and gradient with the oracle. With a `bound` it also compares the clipped gradient."""
    x = runner.rounded(logits, dtype)
    cotangent = np.random.default_rng(9).normal(size=(*labels.shape, len(columns) + 1))
    run = compiled(implementation, columns, window)
    entries, gradient = run(x.astype(jnp.dtype(dtype)), labels, cotangent)
    assert entries.shape == cotangent.shape
    assert entries.dtype == ("float64" if dtype == "float64" else "float32")
    assert gradient.dtype == dtype
    allowed = tolerances.tolerance(dtype, runner.scale_of(x), 1)
    expected = reference.arc_log_probs(x, labels, columns, window)
    np.testing.assert_allclose(entries, expected, rtol=allowed.cost_rtol, atol=allowed.cost_atol)
    size = max(1.0, np.abs(cotangent).sum(-1).max(initial=0.0))
    near = {"rtol": allowed.gradient_rtol, "atol": allowed.gradient_atol * size}
    by_hand = reference.arc_gradient(x, labels, columns, cotangent, window)
    np.testing.assert_allclose(np.asarray(gradient, np.float64), by_hand, **near)
    assert (np.asarray(gradient)[labels == -2] == 0).all()
    if bound is not None:
        columns, window = tuple(c % x.shape[-1] for c in columns), window or (0, x.shape[-1])
        run = clipped(implementation, columns, window)
        gradient = run(x.astype(jnp.dtype(dtype)), labels, cotangent, np.full(labels.shape, bound))
        np.testing.assert_allclose(np.asarray(gradient, np.float64), np.clip(by_hand, -bound, bound), **near)


def random_rows(v: int, rows: tuple[int, ...] = (29,), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random logits, and labels of every kind: in the vocabulary, absent and padding."""
    rng = np.random.default_rng(seed + v)
    labels = rng.integers(0, v, size=rows)
    kind = rng.random(rows)
    labels = np.where(kind < 0.15, -1, np.where(kind < 0.3, -2, labels))
    return 3.0 * rng.normal(size=(*rows, v)), labels.astype(np.int32)


# Sizes around every vector width and tile edge, so that every kind of remainder is tested. The lax form has no
# remainders and needs a compilation for each size, so it runs with a few sizes.
SIZES = (1, 2, 28, 1000, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 257, 4099)
ROWS = (0, 1, 65, 2, 15, 16, 17, 63)


def test_vocabulary_sizes(implementation: str) -> None:
    for v in SIZES[:4] if implementation == "lax" else SIZES:
        check(implementation, *random_rows(v), dtype="float32")


def test_numbers_of_rows(implementation: str) -> None:
    for rows in ROWS[:2] if implementation == "lax" else ROWS:
        check(implementation, *random_rows(28, (rows,)), dtype="bfloat16")


@pytest.mark.parametrize(("v", "dtype"), [*zip((12, 515, 515, 515), runner.DTYPES, strict=True)])
def test_dtypes(v: int, dtype: str, implementation: str) -> None:
    check(implementation, *random_rows(v), dtype=dtype)


@pytest.mark.full(implementation="lax", columns=[(3,)])
@pytest.mark.parametrize(
    ("columns", "window"), [((3,), None), ((-1, -2, 0), (0, 0)), ((), None), ((), (0, 0)), ((2, 2), None)], ids=str
)
def test_columns(columns: tuple[int, ...], window: Window, implementation: str) -> None:
    """Columns keep their order and count from either end. There may be any number of them, and one may occur twice."""
    check(implementation, *random_rows(7), columns, window)


@pytest.mark.parametrize("window", [None, (0, 0), (0, 6)], ids=str)
def test_label_that_is_a_column(window: Window, implementation: str) -> None:
    """Both arcs have this entry, so its gradient is the sum of theirs. A kernel with an else-if would lose one."""
    logits, _ = random_rows(7)
    check(implementation, logits, np.full(29, 6, np.int32), (-1,), window)


WINDOWS = ((0, 4), (2, 5), (4, 7), (0, 1), (3, 4), (6, 7), (0, 0), (7, 7), (0, 7))


def test_windows(implementation: str) -> None:
    """The window is at either end, in the middle, one entry, empty, or everything.

    Columns and labels lie inside and outside of it, some of them twice.
    """
    for window in WINDOWS[:2] if implementation == "lax" else WINDOWS:
        check(implementation, *random_rows(7, (71,)), (0, 3, -1, 3), window, bound=0.3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.full(implementation="lax", dtype="float16")
def test_window_sizes(dtype: str, implementation: str) -> None:
    """Sizes around the CPU's tiles.

    Some rows are reduced together, with gaps between their windows. Others take several blocks.
    """
    for v in (33,) if implementation == "lax" else (5, 16, 17, 33, 70, 130, 515, 2500, 4099):
        for window in ((1, v - 1), (3, v), (v // 2, v // 2 + 1))[: 1 if implementation == "lax" else 3]:
            check(implementation, *random_rows(v), (0, -1), window, dtype)


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        ((-1, 3), ValueError, r"`window`.*0 <= first <= stop <= 7.*\(-1, 3\)"),
        ((3, 2), ValueError, r"`window`.*\(3, 2\)"),
        ((0, 8), ValueError, r"`window`.*7.*\(0, 8\)"),
        ((0.0, 3), TypeError, r"`window\[0\]`.*integer.*0\.0"),
        ((0, 3, 5), ValueError, r"`window`.*pair.*\(0, 3, 5\)"),
        (3, TypeError, r"`window`.*sequence.*3"),
    ],
    ids=str,
)
def test_wrong_windows(window, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        jax_rnnt.arc_log_probs(np.zeros((2, 7), np.float32), np.zeros(2, np.int32), window=window)


def test_large_array_in_pieces() -> None:
    """The arrays have so many rows that threads share them."""
    check(losses.QUICK, *random_rows(301, (1501,)), dtype="float32")
    check(losses.QUICK, *random_rows(30, (15001,)), dtype="float32")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_rows(value: float, implementation: str) -> None:
    """A bad entry anywhere in a row makes the row and its gradient NaN. Padding and other rows do not change."""
    v = 21
    logits, labels = random_rows(v, (v + 3,))
    labels[:] = 4
    labels[v] = -2
    logits[v] = value
    logits[np.arange(v), np.arange(v)] = value
    logits[3, 0] = -np.inf
    run = compiled(implementation, (-1,), None)
    for dtype in ("float32", "float64"):
        entries, gradient = (np.asarray(a) for a in run(logits.astype(dtype), labels, np.ones((v + 3, 2))))
        assert np.isnan(entries[:v]).all()
        assert np.isnan(gradient[:v]).all()
        assert np.isneginf(entries[v]).all()
        assert (gradient[v] == 0).all()
        assert np.isfinite(entries[v + 1 :]).all()
        assert np.isfinite(gradient[v + 1 :]).all()


def test_not_finite_entries_and_a_window(implementation: str) -> None:
    """A bad entry in the window makes the whole row NaN, raw entries too.

    Elsewhere it changes only the arcs that pick it.
    """
    logits, labels = random_rows(9, (12,))
    labels[:] = 7
    for n, (place, value) in enumerate((v, x) for v in (0, 3, 7) for x in (np.nan, np.inf, -np.inf)):
        logits[n, place] = value
    window, columns, cotangent = (2, 6), (0, 3), np.ones((12, 3))
    run = compiled(implementation, columns, window)
    for dtype in ("float32", "float64"):
        entries, gradient = (np.asarray(a) for a in run(logits.astype(dtype), labels, cotangent))
        expected = reference.arc_log_probs(logits, labels, columns, window)
        np.testing.assert_allclose(entries, expected, rtol=1e-5, atol=1e-5)
        assert np.isnan(entries[3:5]).all()
        assert np.isnan(entries).sum() == 2 * 3 + 2  # two whole rows, and the two raw entries that are NaN
        by_hand = reference.arc_gradient(logits, labels, columns, cotangent, window)
        np.testing.assert_allclose(gradient, by_hand, rtol=1e-5, atol=1e-5)
        assert (np.isnan(gradient).all(-1) == np.isin(np.arange(12), (3, 4))).all()


def test_masked_entries_and_a_window(implementation: str) -> None:
    """A window of only -inf has entries of -inf without a gradient. Raw entries are as usual."""
    logits, labels = random_rows(9, (8,))
    logits[:, 3:5] = -np.inf
    logits[:, 5] = -1e30
    logits[2:4, 2:6] = -np.inf
    logits[4, 7], logits[5, :2] = -np.inf, 90.0
    labels[:] = [3, 7, 3, 7, 7, -1, 2, -2]
    for dtype in ("float32", "float64"):
        check(implementation, logits, labels, (0, 2, 5), (2, 6), dtype, bound=0.3)


def test_zero_cotangents(implementation: str) -> None:
    """A row whose cotangents are 0 has a gradient of 0, even if it holds NaN.

    The cotangent of an absent label does not count.
    """
    logits, labels = random_rows(9, (8,))
    logits[0, 4], logits[1, 4], logits[2, 1] = np.nan, np.inf, np.nan
    logits[3] = -np.inf
    labels[:] = [3, 3, 3, 3, 9, -3, -1, -1]
    logits[7, 4] = np.nan
    cotangent = np.zeros((8, 3))
    cotangent[6:, 2] = np.nan
    for window in (None, (2, 6), (0, 0)):
        gradient = compiled(implementation, (0, 3), window)(logits.astype(np.float32), labels, cotangent)[1]
        assert (np.asarray(gradient) == 0).all()
    almost = cotangent.copy()
    almost[:6, 2] = 1e-30
    gradient = compiled(implementation, (0, 3), None)(logits.astype(np.float32), labels, almost)[1]
    assert (np.isnan(np.asarray(gradient)).all(-1) == [True, True, True, False, True, True, False, False]).all()


@pytest.mark.parametrize("window", [None, (1, 5)], ids=str)
@pytest.mark.full(implementation="lax", window=None)
def test_second_derivatives_of_rows_that_are_masked_out(window: Window, implementation: str) -> None:
    """They are 0, also if the row is NaN or is padding that holds NaN. The other rows have the usual derivatives."""
    logits, _ = random_rows(5, (3,))
    labels = np.array([2, 2, -2], np.int32)
    logits[1:, 4] = np.nan
    logits[0, 0] = 0.0 if window is None else 800.0  # outside of the window, where its exponential overflows

    def masked(x):
        y = jax_rnnt.arc_log_probs(x, labels, window=window, implementation=implementation)
        return jnp.sum(jnp.where(np.array([True, False, False])[:, None], y, 0.0) ** 2)

    forward_over_reverse = jax.jit(lambda x, v: jax.jvp(jax.grad(masked), (x,), (v,))[1])
    reverse_over_reverse = jax.jit(lambda x, v: jax.grad(lambda x: jnp.vdot(jax.grad(masked)(x), v))(x))
    direction = np.arange(15.0).reshape(3, 5)
    product = np.asarray(forward_over_reverse(logits, direction))
    np.testing.assert_allclose(reverse_over_reverse(logits, direction), product, rtol=1e-12, atol=1e-12)
    assert (product[1:] == 0).all()
    assert np.abs(product[0]).max() > 1


def test_masked_entries(implementation: str) -> None:
    """A logit of -inf has probability 0, and a gradient only from its own arc. A row of only -inf has gradient 0."""
    logits, labels = random_rows(9)
    logits[:, 2:5] = -np.inf
    logits[5] = -np.inf
    logits[6] = -np.inf
    labels[:5] = 3
    labels[5], labels[6], labels[7] = 3, -1, 0
    run = compiled(implementation, (-1,), None)
    cotangent = np.ones((29, 2))
    for dtype in ("float32", "float64"):
        entries, gradient = (np.asarray(a) for a in run(logits.astype(dtype), labels, cotangent))
        np.testing.assert_allclose(entries, reference.arc_log_probs(logits, labels, (-1,)), rtol=1e-5, atol=1e-6)
        assert np.isneginf(entries[:7, 1]).all()
        assert (gradient[5:7] == 0).all()
        assert np.isfinite(gradient).all()
        unlabelled = labels != 3
        assert (gradient[unlabelled][:, 2:5] == 0).all()


def test_labels_out_of_range(implementation: str) -> None:
    logits, labels = random_rows(6, (8,))
    labels = np.array([6, -3, 2**31 - 1, -(2**31), 5, 0, -1, -2], np.int32)
    for window in (None, (0, 0), (1, 4)):
        entries, gradient = compiled(implementation, (-1,), window)(logits, labels, np.ones((8, 2)))
        assert np.isnan(entries[:4]).all()
        assert not np.isnan(entries[4:]).any()
        assert np.isnan(gradient[:4]).all()
        assert np.isfinite(gradient[4:]).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint64])
def test_label_dtypes(dtype: type, implementation: str) -> None:
    logits, _ = random_rows(6, (3,))
    labels = np.array([0, 3, 5], dtype)
    check(implementation, logits, labels)
    if np.iinfo(dtype).bits == 64:
        wrapping = np.array([2**32, 2**32 + 1, 2**40 + 5], dtype)
        assert np.isnan(compiled(implementation, (-1,), None)(logits, wrapping, np.ones((3, 2)))[0]).all()
