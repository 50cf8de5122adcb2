"""Properties that hold for every input, on examples that hypothesis picks: the same ones in every run.

All examples share a few shapes, so that they share compiled functions. Content, scale and lengths vary.
"""

import itertools

import jax
import numpy as np
import pytest
import reference
import runner
import tolerances
from cases import T, U, V, random_batch
from hypothesis import given
from hypothesis import strategies as st

import jax_rnnt

pytestmark = pytest.mark.once
B = 4
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([0.0, 1e-3, 1.0, 5.0, 40.0])
T_B = st.lists(st.integers(0, T), min_size=B, max_size=B)
U_B = st.lists(st.integers(0, U), min_size=B, max_size=B)


def _batch(seed: int, scale: float, t_b: list[int], u_b: list[int]) -> tuple[np.ndarray, ...]:
    return (*random_batch(seed, B, scale=scale), np.array(t_b, np.int32), np.array(u_b, np.int32))


def _same(actual: runner.Result, expected: runner.Result, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(actual.cost, expected.cost, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(actual.gradient, expected.gradient, rtol=0, atol=tolerance)


# --- probabilities of all label sequences sum to one ------------------------------------------------------------------

FRAMES, MOST = 3, 3
SEQUENCES = [s for n in range(MOST + 1) for s in itertools.product((1, 2), repeat=n)]  # blank is 0, V = 3: there are 15
SEQUENCE_LENGTHS = np.array([len(s) for s in SEQUENCES], np.int32)
SEQUENCE_LABELS = np.array([(*s, *(0,) * (MOST - len(s))) for s in SEQUENCES], np.int32)
ALL_FRAMES = np.full(len(SEQUENCES), FRAMES, np.int32)


def _closed_model(seed: int, scale: float) -> np.ndarray:
    """For each sequence, the logits of a model that never emits more than MOST labels.

    So SEQUENCES are all sequences that it can emit.
    """
    logits = scale * np.random.default_rng(seed).normal(size=(FRAMES, MOST + 1, 3))
    logits[:, MOST, 1:] = -np.inf
    return np.broadcast_to(logits, (len(SEQUENCES), *logits.shape))


@given(seed=SEEDS, scale=SCALES)
def test_probabilities_of_all_sequences_sum_to_one(implementation: str, seed: int, scale: float) -> None:
    arrays = _closed_model(seed, scale), SEQUENCE_LABELS, ALL_FRAMES, SEQUENCE_LENGTHS
    for dtype, atol in (("float64", 1e-13), ("float32", 3e-6)):
        result = runner.evaluate(implementation, *arrays, blank=0, dtype=dtype)
        np.testing.assert_allclose(np.exp(-result.cost).sum(), 1.0, atol=atol)


def _topology_cost(implementation: str, columns: tuple[int, ...], moves: reference.Moves):
    """Joins arcs and lattice by hand, as another topology would."""

    @jax.jit
    def run(logits, labels, t_b, u_b):
        arcs = jax_rnnt.arc_log_probs(logits, labels, columns, implementation=implementation)
        return jax_rnnt.lattice_cost(arcs, t_b, u_b, moves, implementation=implementation)

    return run


def _node_labels() -> np.ndarray:
    """[sequence, t, u]: the label that leaves each node."""
    padded = np.full((len(SEQUENCES), MOST + 1), -1, np.int32)
    for b, sequence in enumerate(SEQUENCES):
        padded[b, : len(sequence)] = sequence
    return np.broadcast_to(padded[:, None], (len(SEQUENCES), FRAMES, MOST + 1))


def test_monotonic_probabilities_sum_to_one(implementation: str) -> None:
    """Each frame has one symbol. So no more than T labels are possible with any model."""
    run = _topology_cost(implementation, (0,), reference.MONOTONIC)

    @given(seed=SEEDS, scale=SCALES)
    def check(seed: int, scale: float) -> None:
        logits = scale * np.random.default_rng(seed).normal(size=(FRAMES, MOST + 1, 3))
        logits = np.broadcast_to(logits, (len(SEQUENCES), *logits.shape))
        costs = run(logits, _node_labels(), ALL_FRAMES, SEQUENCE_LENGTHS)
        np.testing.assert_allclose(np.exp(-np.asarray(costs)).sum(), 1.0, atol=1e-13)

    check()


def test_multi_blank_probabilities_sum_to_one(implementation: str) -> None:
    """Blanks take one or two frames (columns 0 and 3). The long one is impossible in the last frame."""
    run = _topology_cost(implementation, (0, 3), ((1, 0), (2, 0), (0, 1)))

    @given(seed=SEEDS, scale=SCALES)
    def check(seed: int, scale: float) -> None:
        logits = scale * np.random.default_rng(seed).normal(size=(FRAMES, MOST + 1, 4))
        logits[:, MOST, 1:3] = -np.inf
        logits[FRAMES - 1, :, 3] = -np.inf
        logits = np.broadcast_to(logits, (len(SEQUENCES), *logits.shape))
        costs = run(logits, _node_labels(), ALL_FRAMES, SEQUENCE_LENGTHS)
        np.testing.assert_allclose(np.exp(-np.asarray(costs)).sum(), 1.0, atol=1e-13)

    check()


# --- the gradient -----------------------------------------------------------------------------------------------------


@given(seed=SEEDS, scale=SCALES, t_b=T_B, u_b=U_B)
def test_oracle(implementation: str, seed: int, scale: float, t_b: list[int], u_b: list[int]) -> None:
    """Compares any content, scale and lengths, empty ones too, with the oracle, in two precisions."""
    arrays = _batch(seed, scale, t_b, u_b)
    for dtype in ("float64", "float32"):
        result = runner.evaluate(implementation, *arrays, dtype=dtype)
        runner.assert_matches_oracle(result, *arrays, dtype=dtype)


@given(seed=SEEDS, t_b=T_B, u_b=U_B)
def test_gradient_is_the_slope(implementation: str, seed: int, t_b: list[int], u_b: list[int]) -> None:
    logits, *rest = _batch(seed, 1.0, t_b, u_b)
    direction = np.random.default_rng(seed).normal(size=logits.shape)
    gradient = runner.evaluate(implementation, logits, *rest).gradient
    up, down = (
        runner.evaluate(implementation, logits + step * direction, *rest).cost
        for step in (tolerances.FINITE_STEP, -tolerances.FINITE_STEP)
    )
    finite = np.isfinite(up)
    slope = (up[finite] - down[finite]) / (2 * tolerances.FINITE_STEP)
    expected = (gradient * direction).sum((1, 2, 3))[finite]
    np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=tolerances.FINITE_ATOL)


@given(seed=SEEDS, scale=SCALES, t_b=T_B, u_b=U_B)
def test_gradient_is_made_of_posteriors(
    implementation: str, seed: int, scale: float, t_b: list[int], u_b: list[int]
) -> None:
    """For log-probabilities the gradient at blank is minus the posterior of the blank.

    These posteriors sum to one in each frame.
    """
    arrays = _batch(seed, scale, t_b, u_b)
    result = runner.evaluate(implementation, *arrays, fused=False)
    for b in range(B):
        if not np.isfinite(result.cost[b]):
            continue
        blank = -result.gradient[b, :, :, V - 1]
        label = -result.gradient[b, :, :, : V - 1].sum(-1)
        np.testing.assert_allclose(blank.sum(1)[: t_b[b]], 1.0, atol=1e-12)
        if t_b[b] > 0:
            np.testing.assert_allclose(label.sum(0)[: u_b[b]], 1.0, atol=1e-12)


@given(seed=SEEDS, scale=st.sampled_from([1.0, 5.0]), t_b=T_B, u_b=U_B)
def test_clamp_is_clip_of_the_unit_gradient(
    implementation: str, seed: int, scale: float, t_b: list[int], u_b: list[int]
) -> None:
    arrays = _batch(seed, scale, t_b, u_b)
    ct = np.random.default_rng(seed).normal(size=B) * [1.0, -10.0, 0.0, 1.0]
    free = runner.evaluate(implementation, *arrays)
    clamped = runner.evaluate(implementation, *arrays, clamp=0.1, cotangent=ct)
    np.testing.assert_array_equal(clamped.cost, free.cost)
    expected = np.clip(free.gradient, -0.1, 0.1) * ct[:, None, None, None]
    np.testing.assert_allclose(clamped.gradient, expected, rtol=0, atol=1e-12)


@given(seed=SEEDS, t_b=T_B, u_b=U_B, ct=st.lists(st.floats(-1e3, 1e3), min_size=B, max_size=B))
def test_gradient_is_linear_in_the_cotangent(
    implementation: str, seed: int, t_b: list[int], u_b: list[int], ct: list[float]
) -> None:
    arrays = _batch(seed, 2.0, t_b, u_b)
    unit = runner.evaluate(implementation, *arrays).gradient
    scaled = runner.evaluate(implementation, *arrays, cotangent=ct).gradient
    np.testing.assert_allclose(scaled, unit * np.array(ct)[:, None, None, None], rtol=0, atol=1e-10)


# --- what must change nothing -----------------------------------------------------------------------------------------


@given(
    seed=SEEDS,
    t_b=T_B,
    u_b=U_B,
    filling=st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]),
    label=st.sampled_from([-1, V - 1, V, 2**31 - 1, -(2**31)]),
)
def test_padding_content(
    implementation: str, seed: int, t_b: list[int], u_b: list[int], filling: float, label: int
) -> None:
    """It changes no bit of the results, and the gradient of padding is exactly zero."""
    logits, targets, t, u = _batch(seed, 2.0, t_b, u_b)
    clean = runner.evaluate(implementation, logits, targets, t, u, dtype="float32")
    outside = runner.outside_lattice(logits.shape, t, u)
    logits[outside] = filling
    targets[np.arange(U)[None] >= u[:, None]] = label
    filled = runner.evaluate(implementation, logits, targets, t, u, dtype="float32")
    np.testing.assert_array_equal(filled.cost, clean.cost)
    np.testing.assert_array_equal(filled.cost_alone, clean.cost_alone)
    np.testing.assert_array_equal(filled.gradient, clean.gradient)
    assert (filled.gradient[outside] == 0).all()


@given(seed=SEEDS, t_b=T_B, u_b=U_B, order=st.permutations(range(B)))
def test_order_of_the_examples(
    implementation: str, seed: int, t_b: list[int], u_b: list[int], order: list[int]
) -> None:
    arrays = _batch(seed, 2.0, t_b, u_b)
    plain = runner.evaluate(implementation, *arrays, dtype="float32")
    moved = runner.evaluate(implementation, *(a[order] for a in arrays), dtype="float32")
    np.testing.assert_array_equal(moved.cost, plain.cost[order])
    np.testing.assert_array_equal(moved.gradient, plain.gradient[order])


@given(seed=SEEDS, t_b=T_B, u_b=U_B)
def test_size_of_the_padding(implementation: str, seed: int, t_b: list[int], u_b: list[int]) -> None:
    """The same examples are in larger arrays, with more frames, more labels and more rows than any of them needs."""
    logits, targets, t, u = _batch(seed, 2.0, t_b, u_b)
    plain = runner.evaluate(implementation, logits, targets, t, u)
    wide = np.pad(logits, ((0, 2), (0, 4), (0, 3), (0, 0)), constant_values=np.nan)
    labels = np.pad(targets, ((0, 2), (0, 3)), constant_values=-9)
    padded = runner.evaluate(implementation, wide, labels, np.pad(t, (0, 2)), np.pad(u, (0, 2)))
    np.testing.assert_allclose(padded.cost[:B], plain.cost, rtol=1e-13)
    np.testing.assert_allclose(padded.gradient[:B, :T, : U + 1], plain.gradient, rtol=0, atol=1e-13)
    assert (padded.cost[B:] == 0).all()
    assert (padded.gradient[B:] == 0).all()


@given(seed=SEEDS, t_b=T_B, u_b=U_B, size=st.sampled_from([1.0, 100.0]))
def test_a_constant_added_to_a_row(implementation: str, seed: int, t_b: list[int], u_b: list[int], size: float) -> None:
    logits, *rest = _batch(seed, 2.0, t_b, u_b)
    constant = size * np.random.default_rng(seed).normal(size=(*logits.shape[:-1], 1))
    plain = runner.evaluate(implementation, logits, *rest)
    shifted = runner.evaluate(implementation, logits + constant, *rest)
    _same(shifted, plain, 1e-14 * max(10.0, 10 * size))


@given(seed=SEEDS, t_b=T_B, u_b=U_B, order=st.permutations(range(V - 1)))
def test_names_of_the_labels(implementation: str, seed: int, t_b: list[int], u_b: list[int], order: list[int]) -> None:
    """New names of the labels move the columns of the gradient, and change nothing else."""
    logits, targets, t, u = _batch(seed, 2.0, t_b, u_b)
    plain = runner.evaluate(implementation, logits, targets, t, u)
    columns = np.array([*order, V - 1])
    renamed = np.argsort(columns)[targets].astype(np.int32)
    moved = runner.evaluate(implementation, logits[..., columns], renamed, t, u)
    np.testing.assert_allclose(moved.cost, plain.cost, rtol=1e-13)
    np.testing.assert_allclose(moved.gradient, plain.gradient[..., columns], rtol=0, atol=1e-13)
