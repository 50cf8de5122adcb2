"""Operation 2 alone, for every family of moves: enumeration, oracle, posteriors, corner cases, dtypes."""

import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
import tolerances
from move_sets import CORNERS, MOVE_SETS, T_B, U_B, T, U, random_log_probs

import jax_rnnt
from jax_rnnt.ops.labels import RNNT_MOVES

pytestmark = pytest.mark.once


@functools.cache
def compiled(implementation: str, moves: reference.Moves):
    def run(log_probs, t_b, u_b):
        options = {"moves": moves, "implementation": implementation}
        alone = jax_rnnt.lattice_cost(log_probs, t_b, u_b, **options)  # without beta and posteriors
        return alone, *jax_rnnt.lattice_posteriors(log_probs, t_b, u_b, **options)

    return jax.jit(run)


def check(implementation, moves, log_probs, t_b, u_b, expected, dtype="float64") -> None:
    """Compares both kinds of call with `expected`, which is (cost, posteriors)."""
    cost, posteriors = expected
    alone, both, actual = compiled(implementation, moves)(jnp.asarray(log_probs, dtype), t_b, u_b)
    assert alone.dtype == both.dtype == ("float64" if dtype == "float64" else "float32")
    size = float(np.max(np.abs(cost), where=np.isfinite(cost), initial=0.0))
    allowed = tolerances.tolerance(dtype, 4.0, sum(log_probs.shape[1:3]), size)
    np.testing.assert_allclose(alone, cost, rtol=allowed.cost_rtol, atol=allowed.cost_atol)
    np.testing.assert_allclose(both, cost, rtol=allowed.cost_rtol, atol=allowed.cost_atol)
    np.testing.assert_allclose(actual, posteriors, rtol=0, atol=allowed.gradient_atol)
    assert (np.asarray(actual)[posteriors == 0] == 0).all(), "an arc that no path takes has a posterior of exactly 0"


def enumerate_batch(log_probs, t_b, u_b, moves) -> tuple[np.ndarray, np.ndarray]:
    rows = [reference.exact_lattice(*row, moves) for row in zip(log_probs, t_b, u_b, strict=True)]
    return np.array([cost for cost, _ in rows]), np.array([posteriors for _, posteriors in rows])


@pytest.mark.full(implementation="lax", name=["monotonic", "multi_blank", "too_long", "twice"])
@pytest.mark.parametrize("name", MOVE_SETS)
def test_path_enumeration(name: str, implementation: str) -> None:
    """Every ragged size up to 4 x 3.

    Some ends are unreachable, some arcs are -inf, and what must not be read is NaN.
    """
    moves = MOVE_SETS[name]
    rng = np.random.default_rng(1)
    log_probs = random_log_probs(moves)
    log_probs[rng.random(log_probs.shape) < 0.1] = -np.inf
    expected = enumerate_batch(log_probs, T_B, U_B, moves)
    for b, (t_b, u_b) in enumerate(zip(T_B, U_B, strict=True)):
        for t, u, k in np.ndindex(*log_probs.shape[1:]):
            to = (t + moves[k][0], u + moves[k][1])
            exists = t < t_b and u <= u_b and (to == (t_b, u_b) or (to[0] < t_b and to[1] <= u_b))
            if not exists:
                log_probs[b, t, u, k] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    check(implementation, moves, log_probs, T_B, U_B, expected)
    if name == "tdt":
        check(implementation, moves, log_probs, T_B, U_B, expected, "float32")


@pytest.mark.full(implementation="lax", name="rnnt")
@pytest.mark.parametrize(("name", "dtype"), [("rnnt", "float64"), ("rnnt", "float32"), ("tdt", "float32")])
def test_longer_lattices(name: str, dtype: str, implementation: str) -> None:
    """Compares with the recursion, because there are too many paths to list. Scores are far from normalised."""
    moves = MOVE_SETS[name]
    log_probs = 3.0 * random_log_probs(moves, 5, t=41, u=23, batch=4)
    log_probs = np.asarray(log_probs, dtype).astype(np.float64)
    t_b, u_b = np.array([41, 30, 41, 7], np.int32), np.array([23, 23, 5, 20], np.int32)
    expected = reference.lattice_cost(log_probs, t_b, u_b, moves)
    check(implementation, moves, log_probs, t_b, u_b, expected, dtype)


@pytest.mark.full(implementation="lax", name="rnnt")
@pytest.mark.parametrize("name", ["rnnt", "jumps"])
def test_few_frames_and_many_labels(name: str, implementation: str) -> None:
    """Diagonals end while they still grow, a fifth of the arcs is masked, and an arc that leads nowhere is NaN."""
    moves, (batch, t, u) = MOVE_SETS[name], (48, 5, 37)
    rng = np.random.default_rng(6)
    t_b, u_b = (rng.integers(low, high + 1, batch).astype(np.int32) for low, high in ((1, t), (0, u)))
    t_b[:24], u_b[:24] = np.resize([1, 2, 3], 24), rng.integers(0, 3, 24)
    log_probs = random_log_probs(moves, 6, t, u, batch)
    log_probs[rng.random(log_probs.shape) < 0.2] = -np.inf
    frame, label = np.arange(t)[None, :, None, None], np.arange(u + 1)[None, None, :, None]
    to_frame, to_label = (x + np.array(d) for x, d in zip((frame, label), zip(*moves, strict=True), strict=True))
    last_frame, last_label = t_b[:, None, None, None], u_b[:, None, None, None]
    lands = (to_frame < last_frame) & (to_label <= last_label) | (to_frame == last_frame) & (to_label == last_label)
    log_probs[~(lands & (frame < last_frame) & (label <= last_label))] = np.nan
    expected = reference.lattice_cost(log_probs, t_b, u_b, moves)
    assert np.isfinite(expected[0]).sum() >= 5
    check(implementation, moves, log_probs, t_b, u_b, expected, "float32")


@pytest.mark.parametrize(("name", "dtype"), [("rnnt", "float64"), ("tdt", "bfloat16")])
def test_gradient_is_minus_the_posteriors(name: str, dtype: str, implementation: str) -> None:
    """It is multiplied by the cotangent, which is positive, negative or zero."""
    moves = MOVE_SETS[name]
    x = jnp.asarray(random_log_probs(moves, 4), dtype)
    ct = np.linspace(-2.0, 3.5, len(T_B))
    ct[3] = 0.0

    def total(x):
        cost = jax_rnnt.lattice_cost(x, T_B, U_B, moves, implementation=implementation)
        return jnp.sum(jnp.where(jnp.isfinite(cost), cost, 0) * ct.astype(cost.dtype))

    gradient = jax.jit(jax.grad(total))(x)
    assert gradient.dtype == dtype
    _, posteriors = reference.lattice_cost(np.asarray(x.astype(jnp.float64)), T_B, U_B, moves)
    expected = -posteriors * ct[:, None, None, None]
    allowed = tolerances.tolerance(dtype, 12.0, T + U)
    actual = np.asarray(gradient, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=allowed.gradient_rtol, atol=allowed.gradient_atol)
    assert (actual[expected == 0] == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types(dtype: str) -> None:
    moves = reference.RNNT
    log_probs = np.asarray(jnp.asarray(random_log_probs(moves), dtype).astype(jnp.float64))
    check(losses.QUICK, moves, log_probs, T_B, U_B, reference.lattice_cost(log_probs, T_B, U_B, moves), dtype)


def test_flow_is_conserved(implementation: str) -> None:
    """A path leaves each frame once and takes each label once. The flow into a node equals the flow out of it."""
    moves = reference.RNNT
    _, _, posteriors = compiled(implementation, moves)(jnp.asarray(random_log_probs(moves)), T_B, U_B)
    for b, (t_b, u_b) in enumerate(zip(T_B, U_B, strict=True)):
        if t_b == 0:
            continue
        blank, label = np.moveaxis(np.asarray(posteriors[b]), -1, 0)
        np.testing.assert_allclose(blank[:t_b].sum(1), 1.0, atol=1e-14)
        np.testing.assert_allclose(label[:, :u_b].sum(0), 1.0, atol=1e-14)
        into = np.zeros((T + 1, U + 2))
        into[0, 0] = 1.0
        into[1:, : U + 1] += blank
        into[:T, 1:] += label
        np.testing.assert_allclose(into[:t_b, : u_b + 1], (blank + label)[:t_b, : u_b + 1], atol=1e-14)


@pytest.mark.full(implementation="lax", name="rnnt")
@pytest.mark.parametrize("name", ["rnnt", "jumps"])
def test_corner_cases(name: str, implementation: str) -> None:
    moves = MOVE_SETS[name]
    log_probs = random_log_probs(moves)
    t_b, u_b = (np.array([row[i] for row in CORNERS], np.int32) for i in (0, 1))
    cost, posteriors = reference.lattice_cost(log_probs, t_b, u_b, moves)
    for b, (*_, expected, value) in enumerate(CORNERS):
        if expected is not None:
            np.testing.assert_equal(cost[b], expected)
            np.testing.assert_equal(posteriors[b], np.full(posteriors[b].shape, value))
    check(implementation, moves, log_probs, t_b, u_b, (cost, posteriors))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["rnnt", "tdt"])
def test_not_finite_arcs_inside(name: str, value: float, implementation: str) -> None:
    """Every node of the example is NaN, and all beyond it is zero, wherever the bad arc is, reachable or not."""
    moves = MOVE_SETS[name]
    places = [(0, 0, 0), (3, 3, 0), (1, 2, 0), (0, 1, len(moves) - 1), (0, 0, 0)]
    log_probs = random_log_probs(moves, 2)
    log_probs[4] = -np.inf
    for b, place in enumerate(places):
        log_probs[(b, *place)] = value
    t_b, u_b = np.full(12, 3, np.int32), np.full(12, 2, np.int32)
    t_b[1], u_b[1] = 4, 3
    expected = reference.lattice_cost(log_probs, t_b, u_b, moves)
    assert np.isnan(expected[0]).tolist() == [True] * 5 + [False] * 7
    check(implementation, moves, log_probs, t_b, u_b, expected)


@pytest.mark.full(implementation="lax", name=["rnnt", "jumps"])
@pytest.mark.parametrize("name", ["rnnt", "tdt", "jumps"])
def test_a_large_score_elsewhere_is_not_seen(name: str, implementation: str) -> None:
    """The score of a path may exceed 0 and differ from others by thousands. Cost and posteriors stay exact."""
    moves = MOVE_SETS[name]
    log_probs = 500.0 * random_log_probs(moves, 3)
    expected = reference.lattice_cost(log_probs, T_B, U_B, moves)
    alone, _, posteriors = compiled(implementation, moves)(jnp.asarray(log_probs), T_B, U_B)
    np.testing.assert_allclose(alone, expected[0], rtol=1e-13, atol=1e-10)
    np.testing.assert_allclose(posteriors, expected[1], atol=1e-9)


def test_a_move_far_longer_than_the_lattice_costs_nothing():
    # The length of a move must not change the memory of the recursion, and it must not overflow 32-bit arithmetic.
    log_probs = jnp.log(jnp.full((1, T, U + 1, 4), 0.25))
    lengths = jnp.array([T]), jnp.array([U])
    moves = (*RNNT_MOVES, (2**31 - 1, 0), (0, 2**31 - 1))
    options = {"implementation": losses.QUICK}
    cost, posteriors = jax_rnnt.lattice_posteriors(log_probs, *lengths, moves, **options)
    expected = jax_rnnt.lattice_posteriors(log_probs[..., :2], *lengths, **options)
    np.testing.assert_allclose(cost, expected[0], rtol=1e-12)
    np.testing.assert_allclose(posteriors[..., :2], expected[1], rtol=1e-12)
    assert not posteriors[..., 2:].any()
