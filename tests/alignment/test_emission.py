"""Expected frames, delays and entropies, compared with sums over all paths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tolerances
from move_sets import MOVE_SETS, T_B, U_B, random_log_probs

import jax_rnnt

pytestmark = pytest.mark.once


def by_paths(log_probs: np.ndarray, t_b: int, u_b: int, moves: reference.Moves) -> tuple[np.ndarray, float]:
    """The expected frames [U] and the entropy of one example."""
    paths = list(reference.paths(t_b, u_b, moves))
    scores = np.array([sum(log_probs[arc] for arc in path) for path in paths])
    times, labels = np.full(log_probs.shape[1] - 1, -1.0), log_probs.shape[1] - 1
    if not np.isfinite(scores).any():
        return times, 0.0
    probabilities = np.exp(scores - np.logaddexp.reduce(scores))
    frames = np.full((len(paths), labels), -1.0)
    for row, path in zip(frames, paths, strict=True):
        for t, u, k in path:
            row[u : u + moves[k][1]] = t
    positive = probabilities[probabilities > 0]
    return probabilities @ frames, -(positive * np.log(positive)).sum()


@functools.cache
def _measures(moves: reference.Moves):
    def run(log_probs, t_b, u_b):
        _, posteriors = jax_rnnt.lattice_posteriors(log_probs, t_b, u_b, moves)
        return jax_rnnt.alignment.emission_times(posteriors, moves), jax_rnnt.alignment.alignment_entropy(posteriors)

    return jax.jit(run)


@pytest.mark.parametrize("name", MOVE_SETS)
def test_path_enumeration(name: str) -> None:
    moves = MOVE_SETS[name]
    log_probs = random_log_probs(moves)
    log_probs[np.random.default_rng(1).random(log_probs.shape) < 0.1] = -np.inf
    times, entropy = _measures(moves)(log_probs, T_B, U_B)
    for b, (t_b, u_b) in enumerate(zip(T_B, U_B, strict=True)):
        expected_times, expected_entropy = by_paths(log_probs[b], t_b, u_b, moves)
        np.testing.assert_allclose(times[b], expected_times, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(entropy[b], expected_entropy, rtol=1e-12, atol=1e-12)


def test_invalid_and_impossible_examples() -> None:
    """An invalid example has NaN at its labels. An impossible example emits nothing."""
    moves = reference.RNNT
    log_probs, t_b = random_log_probs(moves), T_B.copy()
    log_probs[0, 1, 1, 0], t_b[1] = np.nan, -1
    log_probs[2] = -np.inf
    times, entropy = map(np.asarray, _measures(moves)(log_probs, t_b, U_B))
    assert np.isnan(entropy[:2]).all()
    assert entropy[2] == 0
    assert np.isnan(times[0, : U_B[0]]).all()
    assert np.isnan(times[1]).all()
    assert (times[2] == -1).all()
    assert np.isfinite(times[3:]).all()


def test_entropy_of_a_long_lattice_in_float32() -> None:
    """The entropy is as exact as the posteriors, though the cost is 200 times as large."""
    moves, shape = reference.RNNT, (1, 300, 40, 2)
    log_probs = np.random.default_rng(3).normal(size=shape).astype(np.float32) - 50
    t_b, u_b = np.array([300]), np.array([39])
    cost, posteriors = reference.lattice_cost(log_probs, t_b, u_b, moves)
    by_cost = -cost[0] - (posteriors * log_probs).sum()  # log Z minus the mean score of a path
    _, ours = jax_rnnt.lattice_posteriors(log_probs, t_b, u_b)
    entropy = jax_rnnt.alignment.alignment_entropy(ours)
    assert entropy.dtype == jnp.float32
    assert cost[0] > 200 * by_cost
    np.testing.assert_allclose(entropy[0], by_cost, rtol=1e-5)


@pytest.mark.parametrize("name", ["rnnt", "tdt"])
def test_gradients(name: str) -> None:
    """Compares gradients with respect to the arcs with finite differences of the sums over paths."""
    moves = MOVE_SETS[name]
    log_probs = random_log_probs(moves, 8)
    log_probs[0, 0, 1, 0] = -np.inf
    rng = np.random.default_rng(9)
    weight, direction = rng.normal(size=(len(T_B), 3)), rng.normal(size=log_probs.shape)

    def total(x):
        _, posteriors = jax_rnnt.lattice_posteriors(x, T_B, U_B, moves)
        times = jax_rnnt.alignment.emission_times(posteriors, moves)
        return jnp.sum(times * weight) + jnp.sum(jax_rnnt.alignment.alignment_entropy(posteriors))

    def by_enumeration(x) -> float:
        each = [by_paths(*row, moves) for row in zip(x, T_B, U_B, strict=True)]
        return sum((times * w).sum() + entropy for (times, entropy), w in zip(each, weight, strict=True))

    gradient = np.asarray(jax.jit(jax.grad(total))(log_probs))
    h = tolerances.FINITE_STEP
    slope = (by_enumeration(log_probs + h * direction) - by_enumeration(log_probs - h * direction)) / (2 * h)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=tolerances.FINITE_ATOL)


def test_delay() -> None:
    times = np.array([[0.0, 2.5, 7.0], [4.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [-1e-7, 3.0, np.nan]])
    reference_times = np.array([[1, 2, 5], [1, 3, -1], [0, 1, 2], [0, -1, -1]])
    delay = jax_rnnt.alignment.expected_delay(times, reference_times)
    np.testing.assert_allclose(delay, [0.5, 3.0, 0.0, -1e-7], rtol=1e-12)
    assert np.isnan(jax_rnnt.alignment.expected_delay(times[3:, 2:], np.array([[1]]))).all()
    slopes = jax.grad(lambda x: jax_rnnt.alignment.expected_delay(x, reference_times).sum())(times)
    np.testing.assert_allclose(slopes, [[1 / 3] * 3, [1, 0, 0], [0] * 3, [1, 0, 0]])
    frames = np.array([[3, 5], [2, -1]], np.int32)
    np.testing.assert_array_equal(jax_rnnt.alignment.expected_delay(frames, frames - 1), [1.0, 1.0])


REFUSED = [
    (
        lambda x: jax_rnnt.alignment.emission_times(x[0]),
        ValueError,
        r"`posteriors` must have 4 dimensions \[B, T, U\+1, K\]",
    ),
    (
        lambda x: jax_rnnt.alignment.emission_times(x, ((1, 0),)),
        ValueError,
        r"`moves`.*posteriors.shape\[-1\] == 2 arcs, got 1",
    ),
    (lambda x: jax_rnnt.alignment.alignment_entropy(x.astype(int)), TypeError, "`posteriors` must be one of float16"),
    (
        lambda x: jax_rnnt.alignment.expected_delay(x[0, 0], x[0, 0, :1]),
        ValueError,
        r"`reference` must have shape \(4, 2\)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refusals(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.zeros((1, 5, 4, 2)))
