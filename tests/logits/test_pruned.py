"""Pruned logits: which positions are kept, and how pruning changes the cost."""

import warnings

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference_losses
from losses import RNNT, T, U

import jax_rnnt

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:`s_range` is")]

LENGTHS = ((T, U), (3, U), (2, U), (1, 2), (1, 0), (4, 1), (0, 0))


def defined_ranges(posteriors: np.ndarray, frames: int, labels: int, kept: int, step: int) -> list[int]:
    """The ranges [T] of one utterance, from its posteriors [T, U+1, K].

    Computes single sums, then makes the ranges monotone, then limits their steps, from the last frame to the first.
    """
    t_max, positions, _ = posteriors.shape
    kept = min(kept, positions)
    last = max(labels - kept + 1, 0)
    first = []
    for t in range(t_max):
        sums = [posteriors[t, u : u + kept].sum() for u in range(last + 1)]
        first.append(int(np.argmax(sums)) if t < frames - 1 else last)
    for t in reversed(range(t_max - 1)):
        first[t] = min(first[t], first[t + 1])
    for t in reversed(range(t_max - 1)):
        first[t] = max(first[t], first[t + 1] - step)
    return [min(u, step * t) for t, u in enumerate(first)]


def _posteriors(t_max: int, u_max: int, lengths) -> np.ndarray:
    log_probs = 3 * np.random.default_rng(0).normal(size=(len(lengths), t_max, u_max + 1, 2))
    return np.asarray(jax_rnnt.lattice_posteriors(log_probs, *np.array(lengths).T)[1])


@pytest.mark.parametrize(("kept", "step"), [(2, None), (3, None), (3, 1), (1, 1), (U + 1, None), (U + 3, None)])
def test_ranges_are_those_of_the_definition(kept: int, step: int | None) -> None:
    for t_max, u_max, lengths in ((T, U, LENGTHS), (12, 8, ((12, 8), (6, 8), (3, 8), (9, 2), (1, 8)))):
        posteriors = _posteriors(t_max, u_max, lengths)
        t_b, u_b = np.array(lengths).T
        ranges = np.asarray(jax_rnnt.PrunedLogits.best_ranges(posteriors, t_b, u_b, kept, step))
        assert ranges.dtype == np.int32
        real_step = kept - 1 if step is None else step
        for b, (frames, labels) in enumerate(lengths):
            assert ranges[b].tolist() == defined_ranges(posteriors[b], frames, labels, kept, real_step)
            real = ranges[b, :frames]
            assert (np.diff(real) >= 0).all()
            assert (np.diff(real) <= real_step).all()
            if frames > 0:
                assert real[0] == 0
                reaches = real[-1] + kept > labels
                assert reaches == (kept + (frames - 1) * real_step > labels), "as far as the steps allow"


def test_bad_lengths_and_posteriors_give_ranges_inside_of_the_array() -> None:
    posteriors = np.full((4, T, U + 1, 2), np.nan)
    t_b, u_b = np.array([T + 1, -5, 2**31 - 1, -(2**31)]), np.array([U + 9, -(2**31), 2**31 - 1, -1])
    ranges = np.asarray(jax_rnnt.PrunedLogits.best_ranges(posteriors, t_b, u_b, 2))
    assert ((ranges >= 0) & (ranges <= U)).all()


def _pruned_costs(logits, ranges, kept: int, targets, t_b, u_b, loss=RNNT):
    place = ranges[:, :, None] + np.arange(kept)
    rows = np.take_along_axis(logits, np.clip(place, 0, U)[..., None], axis=2)
    rows[(place < 0) | (place > U)] = np.nan

    @losses.jit
    def costs(rows):
        source = jax_rnnt.PrunedLogits(rows, ranges, num_labels=U)
        return loss.costs(source, targets, t_b, u_b, implementation=losses.QUICK)

    return np.asarray(costs(rows))


@pytest.mark.parametrize("loss", [RNNT, losses.PLAIN[0]], ids=lambda loss: loss.name)
def test_pruned_costs_are_at_least_the_whole_one(loss) -> None:
    """Pruned costs fall with S.

    They are finite as soon as a path can exist, and for S = U + 1 they are the whole cost.
    """
    lengths = ((T, U), (3, U), (2, 3), (4, 1), (T, 0))
    t_b, u_b = np.array(lengths, np.int32).T
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(5, T, U + 1, loss.width)), rng.integers(*losses.LABELS, (5, U)).astype(np.int32)
    whole, _ = loss.expected(logits, targets, t_b, u_b)
    posteriors = _posteriors(T, U, lengths)
    step = 1 if loss.name == "monotonic" else None
    before = np.full(5, np.inf)
    for kept in (2, 3, U + 1, U + 2):
        ranges = np.asarray(jax_rnnt.PrunedLogits.best_ranges(posteriors, t_b, u_b, kept, step))
        cost = _pruned_costs(logits, ranges, kept, targets, t_b, u_b, loss)
        assert (cost >= whole - 1e-12).all()
        if step is None:
            assert np.isfinite(cost[t_b * (kept - 1) >= u_b]).sum() >= np.isfinite(before).sum()
        before = cost
    np.testing.assert_allclose(cost, whole, rtol=1e-12)


def test_ranges_out_of_range_cost_nan() -> None:
    """Only the example with the bad range is NaN, and only if the frame of the range is before T_b."""
    t_b, u_b = np.full(6, 3, np.int32), np.full(6, 1, np.int32)
    ranges = np.zeros((6, T), np.int64)
    ranges[0, 1], ranges[1, 2], ranges[2, 0], ranges[3, 3] = -1, U + 1, 2**40, -7
    ranges[4] = U  # this is beyond U_b: no node is left
    logits, targets = np.zeros((6, T, U + 1, losses.V)), np.ones((6, U), np.int32)
    cost = _pruned_costs(logits, ranges, 2, targets, t_b, u_b)
    assert np.isnan(cost).tolist() == [True, True, True, False, False, False]
    assert np.isposinf(cost).tolist() == [False] * 4 + [True, False]


SEVERAL = (*losses.PLAIN[1:3], losses.ENDS, losses.ANYWHERE, losses.STAR, losses.VARIANTS[-1])


@pytest.mark.parametrize("loss", SEVERAL, ids=lambda loss: loss.name)
def test_paths_visit_no_node_that_is_not_there(loss) -> None:
    """Random bands, which may go back, begin late and leave gaps, against paths one by one.

    A wildcard adds arcs to nodes. None may lead to a node outside of the band; jumps pass over such nodes.
    """
    rng = np.random.default_rng(11)
    frames, labels, kept, count = 4, 2, 2, 24
    logits = rng.normal(size=(count, frames, labels + 1, loss.width))
    targets = rng.integers(*losses.LABELS, (count, labels)).astype(np.int32)
    t_b = rng.integers(1, frames + 1, count).astype(np.int32)
    u_b = rng.integers(0, labels + 1, count).astype(np.int32)
    ranges = rng.integers(0, labels + 1, (count, frames)).astype(np.int32)
    ranges[::2] = np.sort(ranges[::2], axis=1)
    ranges[:18, 0] = 0
    ranges[18:, :2] = 1, 0  # the start is not there, and the frame after it has the first position
    u = np.arange(labels + 1)[None, None]
    nodes = (u >= ranges[..., None]) & (u < ranges[..., None] + kept)
    place = np.minimum(ranges[..., None] + np.arange(kept), labels)

    @losses.jit
    def run(x):
        rows = jnp.take_along_axis(x, place[..., None], axis=2)
        costs, pull = jax.vjp(
            lambda rows: loss.costs(
                jax_rnnt.PrunedLogits(rows, ranges, num_labels=labels), targets, t_b, u_b, implementation=losses.QUICK
            ),
            rows,
        )
        return costs, pull(jnp.ones_like(costs))[0]

    costs, of_rows = map(np.asarray, run(logits))
    for b in range(count):
        arrays = logits[b], targets[b], t_b[b], u_b[b]
        cost, gradient = reference_losses.example(
            loss.oracle, *arrays, loss.on, total=reference_losses.enumerated, nodes=nodes[b]
        )
        np.testing.assert_allclose(costs[b], cost, rtol=1e-12, err_msg=str(b))
        for t, s in np.ndindex(frames, kept):
            expected = gradient[t, ranges[b, t] + s] if ranges[b, t] + s <= labels else 0
            np.testing.assert_allclose(of_rows[b, t, s], expected, rtol=0, atol=1e-13, err_msg=str(b))
    assert np.isfinite(costs).sum() > 5
    assert np.isinf(costs).sum() > 3


def test_prune_gathers_what_is_kept() -> None:
    rng = np.random.default_rng(2)
    encoded, predicted = rng.normal(size=(2, T, 3)), rng.normal(size=(2, U + 1, 4))
    ranges = np.array([[0, 0, 1, 2, 3], [-1, 0, 0, U + 1, 2]], np.int32)
    e, p = jax_rnnt.PrunedLogits.prune(encoded, predicted, ranges, 2)
    assert e.shape == (2, T, 2, 3)
    for b, t, s in np.ndindex(2, T, 2):
        u = ranges[b, t] + s
        np.testing.assert_array_equal(e[b, t, s], encoded[b, t])
        np.testing.assert_array_equal(p[b, t, s], predicted[b, u] if 0 <= u <= U else np.zeros(4))


REFUSED = [
    ({"rows": np.zeros((2, 4, 3))}, ValueError, r"`rows` must have 4 dimensions \[B, T, S, W\].*\(2, 4, 3\)"),
    ({"rows": np.zeros((2, 4, 0, 5))}, ValueError, r"`rows` must have S >= 1.*\(2, 4, 0, 5\)"),
    ({"ranges": np.zeros((2, 3), np.int32)}, ValueError, r"`ranges` must have shape \(2, 4\).*\(2, 3\)"),
    ({"ranges": np.zeros((2, 4))}, TypeError, "`ranges` must have an integer dtype, got float64"),
    ({"num_labels": -1}, ValueError, "`num_labels` must be at least 0, got -1"),
    ({"num_labels": 7}, ValueError, r"= \(2, 4, 8, 5\) needs `targets`"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refusals_name_the_argument(changes: dict, error: type, message: str) -> None:
    good = {"rows": np.zeros((2, 4, 2, 5)), "ranges": np.zeros((2, 4), np.int32), "num_labels": 3}
    with pytest.raises(error, match=message):
        jax_rnnt.rnnt_loss(
            jax_rnnt.PrunedLogits(**(good | changes)), np.zeros((2, 3), np.int32), np.array([2, 1]), np.array([2, 1])
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"s_range": 1}, ValueError, "`s_range` must be at least 2, or 1 where `max_step` is given, got 1"),
        ({"s_range": 0, "max_step": 1}, ValueError, "`s_range` .* got 0"),
        ({"s_range": 3, "max_step": 0}, ValueError, "`max_step` must be at least 1, got 0"),
        ({"s_range": 2.5}, TypeError, "`s_range` must be an integer"),
    ],
)
def test_prune_ranges_refuses(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        jax_rnnt.PrunedLogits.best_ranges(np.zeros((1, 2, 2, 2)), np.array([2]), np.array([1]), **options)


def test_the_least_range_is_named_where_no_path_fits() -> None:
    posteriors, lengths = _posteriors(4, 7, ((4, 7), (3, 7), (4, 2))), (np.array([4, 3, 4]), np.array([7, 7, 2]))
    with pytest.warns(RuntimeWarning, match=r"`s_range` is 3, and 1 of .* T_b = 3 frames and U_b = 7 .* at least 4"):
        ranges = jax_rnnt.PrunedLogits.best_ranges(posteriors, *lengths, s_range=3)
    assert np.asarray(ranges)[1, 2] + 3 <= 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranges = jax_rnnt.PrunedLogits.best_ranges(posteriors, *lengths, s_range=4)
        jax.jit(lambda *x: jax_rnnt.PrunedLogits.best_ranges(*x, s_range=3))(posteriors, *lengths)
    assert (np.asarray(ranges)[np.arange(3), lengths[0] - 1] + 4 > lengths[1]).all()
    with pytest.warns(RuntimeWarning, match="at least 6"):
        jax_rnnt.PrunedLogits.best_ranges(posteriors, *lengths, s_range=5, max_step=1)
