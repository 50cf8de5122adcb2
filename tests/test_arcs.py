"""Operation 1 alone: log-probabilities picked from rows of logits, and their gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import runner
import tolerances

import jax_rnnt


@functools.cache
def compiled(implementation: str, columns: tuple[int, ...], normalize: bool):
    def run(logits, labels, cotangent):
        def arcs(x):
            return jax_rnnt.arc_log_probs(x, labels, columns, normalize=normalize, implementation=implementation)

        entries, pull = jax.vjp(arcs, logits)
        return entries, pull(cotangent.astype(entries.dtype))[0]

    return jax.jit(run)


def expected_gradient(logits, labels, columns, cotangent, normalize=True) -> np.ndarray:
    """sum_k ct[k] * (1[v is arc k's column] - p[v]), over the arcs that are there."""
    gradient = np.zeros(logits.shape)
    probabilities = reference.softmax(logits)
    for row in np.ndindex(*labels.shape):
        label = int(labels[row])
        if label == -2 or (normalize and np.isneginf(logits[row]).all()):
            continue
        taken = [c % logits.shape[-1] for c in columns] + ([label] if label >= 0 else [])
        for k, column in enumerate(taken):
            gradient[row][column] += cotangent[row][k]
            if normalize:
                gradient[row] -= cotangent[row][k] * probabilities[row]
    return gradient


def check(implementation, logits, labels, columns=(-1,), normalize=True, dtype="float64") -> None:
    x = runner.rounded(logits, dtype)
    cotangent = np.random.default_rng(9).normal(size=(*labels.shape, len(columns) + 1))
    run = compiled(implementation, columns, normalize)
    entries, gradient = run(x.astype(jnp.dtype(dtype)), labels, cotangent)
    assert entries.shape == cotangent.shape
    assert entries.dtype == ("float64" if dtype == "float64" else "float32")
    assert gradient.dtype == dtype
    allowed = tolerances.tolerance(dtype, runner.scale_of(x), 1)
    expected = reference.arc_log_probs(x, labels, columns, normalize)
    np.testing.assert_allclose(entries, expected, rtol=allowed.cost_rtol, atol=allowed.cost_atol)
    actual = np.asarray(gradient, np.float64)
    size = max(1.0, np.abs(cotangent).sum(-1).max(initial=0.0))
    if not normalize:  # nothing is subtracted, so nothing is rounded but the result
        x = np.where(np.isfinite(x), x, 0.0)
    by_hand = expected_gradient(x, labels, columns, cotangent, normalize)
    np.testing.assert_allclose(actual, by_hand, rtol=allowed.gradient_rtol, atol=allowed.gradient_atol * size)
    assert (actual[labels == -2] == 0).all()


def random_rows(v: int, rows: tuple[int, ...] = (29,), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels of every kind: in the vocabulary, absent and padding."""
    rng = np.random.default_rng(seed + v)
    labels = rng.integers(0, v, size=rows)
    kind = rng.random(rows)
    labels = np.where(kind < 0.15, -1, np.where(kind < 0.3, -2, labels))
    return 3.0 * rng.normal(size=(*rows, v)), labels.astype(np.int32)


# Around every vector width and tile edge, so that no tail is left out. The lax form has none: a few sizes do, because
# each is a compilation.
SIZES = (1, 2, 28, 1000, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 257, 4099)
ROWS = (0, 1, 65, 2, 15, 16, 17, 63)


def test_vocabulary_sizes(implementation: str) -> None:
    for v in SIZES[:4] if implementation == "scan" else SIZES:
        check(implementation, *random_rows(v), dtype="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_of_rows(dtype: str, implementation: str) -> None:
    for rows in ROWS[:3] if implementation == "scan" else ROWS:
        check(implementation, *random_rows(28, (rows,)), dtype=dtype)


@pytest.mark.parametrize("dtype", runner.DTYPES)
@pytest.mark.parametrize("v", [12, 515])
def test_dtypes(v: int, dtype: str, implementation: str) -> None:
    check(implementation, *random_rows(v), dtype=dtype)


@pytest.mark.parametrize("columns", [(0,), (3,), (-1, -2, 0), (), (2, 2)], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_columns(columns: tuple[int, ...], normalize: bool, implementation: str) -> None:
    """In their order, counted from either end, any number of them, also the same one twice."""
    check(implementation, *random_rows(7), columns, normalize)


@pytest.mark.parametrize("normalize", [True, False])
def test_label_that_is_a_column(normalize: bool, implementation: str) -> None:
    """Both arcs have the entry, and its gradient is the sum of theirs (an else-if loses one)."""
    logits, _ = random_rows(7)
    check(implementation, logits, np.full(29, 6, np.int32), (-1,), normalize)
    check(implementation, logits, np.full(29, 6, np.int32), (-1,), normalize, "float32")


@pytest.mark.parametrize("shape", [(), (3, 5), (2, 1, 3), (2, 0, 3)], ids=str)
def test_leading_dimensions(shape: tuple[int, ...], implementation: str) -> None:
    check(implementation, *random_rows(7, shape))


def test_large_array_in_pieces(implementation: str) -> None:
    """Enough rows to be shared among threads."""
    check(implementation, *random_rows(301, (1501,)), dtype="float32")
    check(implementation, *random_rows(30, (15001,)), dtype="float32")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_rows(value: float, implementation: str) -> None:
    """The row is NaN with its gradient, wherever in the row the bad entry is; padding and other rows do not care."""
    v = 21
    logits, labels = random_rows(v, (v + 3,))
    labels[:] = 4
    labels[v] = -2
    logits[v] = value
    logits[np.arange(v), np.arange(v)] = value
    logits[3, 0] = -np.inf
    run = compiled(implementation, (-1,), True)
    for dtype in ("float32", "float64"):
        entries, gradient = (np.asarray(a) for a in run(logits.astype(dtype), labels, np.ones((v + 3, 2))))
        assert np.isnan(entries[:v]).all()
        assert np.isnan(gradient[:v]).all()
        assert np.isneginf(entries[v]).all()
        assert (gradient[v] == 0).all()
        assert np.isfinite(entries[v + 1 :]).all()
        assert np.isfinite(gradient[v + 1 :]).all()


def test_not_finite_entries_that_are_not_picked(implementation: str) -> None:
    """normalize=False reads the picked entries and nothing else."""
    logits, labels = random_rows(9)
    labels = np.where(labels == -2, -1, np.where(labels >= 0, 3, labels)).astype(np.int32)
    logits[:, [0, 5]] = np.nan
    logits[:, 1] = np.inf
    check(implementation, logits, labels, normalize=False)


def test_masked_entries(implementation: str) -> None:
    """-inf logits have probability 0 and no gradient but their own arc's; a row of nothing else has gradient 0."""
    logits, labels = random_rows(9)
    logits[:, 2:5] = -np.inf
    logits[5] = -np.inf
    logits[6] = -np.inf
    labels[:5] = 3
    labels[5], labels[6], labels[7] = 3, -1, 0
    run = compiled(implementation, (-1,), True)
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
    for normalize in (True, False):
        entries, gradient = compiled(implementation, (-1,), normalize)(logits, labels, np.ones((8, 2)))
        assert np.isnan(entries[:4]).all()
        assert not np.isnan(entries[4:]).any()
        assert np.isnan(gradient[:4]).all()
        assert np.isfinite(gradient[4:]).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_label_dtypes(dtype: type, implementation: str) -> None:
    logits, _ = random_rows(6, (3,))
    labels = np.array([0, 3, 5], dtype)
    check(implementation, logits, labels)
    if np.iinfo(dtype).bits == 64:
        wrapping = np.array([2**32, 2**32 + 1, 2**40 + 5], dtype)
        assert np.isnan(compiled(implementation, (-1,), True)(logits, wrapping, np.ones((3, 2)))[0]).all()
