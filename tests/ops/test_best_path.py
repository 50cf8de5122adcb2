"""The best path of a lattice, for every family of moves: exact enumeration, ties, masks, corner cases."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import reference
from jax.sharding import AxisType
from meshes import P
from move_sets import CORNERS, MOVE_SETS, T_B, U_B, T, U, random_log_probs

import jax_rnnt
from jax_rnnt.alignment import BestPath

pytestmark = pytest.mark.once


@functools.cache
def compiled(implementation: str, moves: reference.Moves):
    return jax.jit(
        lambda x, t_b, u_b: jax_rnnt.alignment.lattice_best_path(x, t_b, u_b, moves, implementation=implementation)
    )


def along(path, shape, moves: reference.Moves, cost: float = 0.0) -> BestPath:
    """The expected result for a path, which is a list of (t, u, k), or for no path (None)."""
    t_max, u1, _ = shape
    frames, durations, arcs = (np.full(n, -1) for n in (u1 - 1, u1 - 1, t_max + u1 - 1))
    for t, u, k in path or ():
        dt, du = moves[k]
        arcs[t + u] = k
        frames[u : u + du], durations[u : u + du] = t, dt
    return BestPath(cost, frames, durations, arcs)


def enumerated(log_probs: np.ndarray, t_b: int, u_b: int, moves: reference.Moves) -> BestPath:
    """The best path of one example, by exact sums. Of equally good paths it is the first in the order of `moves`."""
    best, score = None, None
    for path in reference.paths(t_b, u_b, moves):
        if all(np.isfinite(log_probs[arc]) for arc in path):
            total = sum((Fraction(float(log_probs[arc])) for arc in path), Fraction(0))
            if score is None or total > score:
                best, score = path, total
    if score is None:
        return along(None, log_probs.shape, moves, np.inf)
    return along(best, log_probs.shape, moves, 0.0 - float(score))


def check(actual: BestPath, expected: list[BestPath], rtol: float = 1e-13) -> None:
    for field, value in actual._asdict().items():
        wanted = np.array([getattr(path, field) for path in expected])
        if field == "cost":
            np.testing.assert_allclose(value, wanted, rtol=rtol, atol=rtol)
        else:
            assert value.dtype == jnp.int32
            np.testing.assert_array_equal(value, wanted, err_msg=field)


def check_enumerated(implementation, moves, log_probs, dtype="float64", rtol=1e-13, read=None) -> None:
    x = np.asarray(log_probs, dtype)
    actual = compiled(implementation, moves)(x if read is None else np.asarray(read, dtype), T_B, U_B)
    assert actual.cost.dtype == dtype
    rows = zip(x.astype(np.float64), T_B, U_B, strict=True)
    check(actual, [enumerated(*row, moves) for row in rows], rtol)


def is_arc(t: int, u: int, t_b: int, u_b: int, move: tuple[int, int]) -> bool:
    to_t, to_u = t + move[0], u + move[1]
    return t < t_b and u <= u_b and ((to_t, to_u) == (t_b, u_b) or (to_t < t_b and to_u <= u_b))


@pytest.mark.full(implementation="lax", name=["monotonic", "multi_blank", "too_long", "twice"])
@pytest.mark.parametrize("name", MOVE_SETS)
def test_path_enumeration(name: str, implementation: str) -> None:
    """Some arcs are -inf, some examples have no path, and entries that must not be read hold anything."""
    moves = MOVE_SETS[name]
    rng = np.random.default_rng(1)
    log_probs = random_log_probs(moves)
    log_probs[rng.random(log_probs.shape) < 0.1] = -np.inf
    read = log_probs.copy()
    for b, t, u, k in np.ndindex(*log_probs.shape):
        if not is_arc(t, u, T_B[b], U_B[b], moves[k]):
            read[b, t, u, k] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    check_enumerated(implementation, moves, log_probs, read=read)
    if name in ("rnnt", "multi_blank"):
        check_enumerated(implementation, moves, log_probs, "float32", 1e-6, read)


@pytest.mark.full(implementation="lax", name=["rnnt", "jumps"])
@pytest.mark.parametrize("name", ["rnnt", "tdt", "jumps", "twice"])
def test_ties(name: str, implementation: str) -> None:
    """Scores are small integers, so nearly every example has several best paths."""
    moves = MOVE_SETS[name]
    log_probs = np.random.default_rng(2).integers(-1, 1, (len(T_B), T, U + 1, len(moves))).astype(np.float64)
    check_enumerated(implementation, moves, log_probs)


@pytest.mark.parametrize("mask", [-1e9, -1e30, np.finfo(np.float32).min])
@pytest.mark.parametrize("name", ["rnnt", "multi_blank"])
def test_large_masks(name: str, mask: float, implementation: str) -> None:
    """Every path crosses a mask. So the difference between paths is far below the last digit of a float32 sum."""
    moves = MOVE_SETS[name]
    log_probs = random_log_probs(moves, 7)
    log_probs[:, 1] = mask
    log_probs[:, :, 1, -1] = mask
    if mask < -1e9:  # only masks count here: no dtype in use has the digits of mask and score
        log_probs = np.where(log_probs == mask, mask, 0.0)
    x = log_probs.astype(np.float32)
    actual = compiled(implementation, moves)(x, T_B, U_B)
    most = float(np.finfo(np.float32).max)
    rows = zip(x.astype(np.float64), T_B, U_B, strict=True)
    expected = [enumerated(*row, moves) for row in rows]
    limited = [path._replace(cost=min(path.cost, most) if path.cost < np.inf else np.inf) for path in expected]
    assert sum(path.cost > 1e9 for path in limited) >= 5
    check(actual, limited, 1e-6)


def test_a_sum_in_float32_keeps_its_digits(implementation: str) -> None:
    """The scores of two paths are in the thousands and differ by 1e-6.

    A sum in float32 would lose the difference long before its end.
    """
    t, moves = 400, reference.RNNT
    log_probs = np.full((2, t, 2, 2), -9.37, np.float32)
    log_probs[0, 300, 0, 1] += np.float32(1e-6)
    log_probs[1, 20, 0, 1] += np.float32(1e-6)
    best = jax_rnnt.alignment.lattice_best_path(
        log_probs, np.full(2, t), np.ones(2, int), moves, implementation=implementation
    )
    assert best.frames.tolist() == [[300], [20]]


@pytest.mark.parametrize("name", ["rnnt", "tdt"])
def test_it_is_the_limit_of_posteriors(name: str, implementation: str) -> None:
    """The best path is the limit of the posteriors when all arcs are multiplied by a large number.

    There are too many paths to list.
    """
    moves = MOVE_SETS[name]
    log_probs = random_log_probs(moves, 5, t=41, u=23, batch=4)
    t_b, u_b = np.array([41, 30, 41, 24], np.int32), np.array([23, 23, 5, 20], np.int32)
    cost, posteriors = reference.lattice_cost(1e6 * log_probs, t_b, u_b, moves)
    actual = compiled(implementation, moves)(log_probs, t_b, u_b)
    expected = []
    for b in range(4):
        path = [tuple(arc) for arc in np.argwhere(posteriors[b] > 0.5)]
        assert posteriors[b].max() < 1.001
        expected.append(along(path, log_probs.shape[1:], moves, cost[b] / 1e6))
    check(actual, expected, 1e-6)


def test_corner_cases(implementation: str) -> None:
    moves = reference.RNNT
    log_probs = random_log_probs(moves)
    t_b, u_b = (np.array([row[i] for row in CORNERS], np.int32) for i in (0, 1))
    expected = []
    for x, (frames, labels, cost, _) in zip(log_probs, CORNERS, strict=True):
        known = cost is not None
        expected.append(along(None, x.shape, moves, cost) if known else enumerated(x, frames, labels, moves))
    check(compiled(implementation, moves)(log_probs, t_b, u_b), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_arcs_inside(value: float, implementation: str) -> None:
    """The cost is NaN and there is no path, in this example alone, whether the bad arc is reachable or not."""
    moves = MOVE_SETS["tdt"]
    log_probs = random_log_probs(moves, 2)
    log_probs[0, 0, 0, 0] = log_probs[1, 3, 2, 0] = log_probs[2, 1, 2, 3] = value
    log_probs[2, 0] = -np.inf
    rows = zip(log_probs, T_B, U_B, strict=True)
    expected = [
        along(None, x.shape, moves, np.nan) if b < 3 else enumerated(x, t_b, u_b, moves)
        for b, (x, t_b, u_b) in enumerate(rows)
    ]
    check(compiled(implementation, moves)(log_probs, T_B, U_B), expected)


@pytest.mark.parametrize(("t", "u"), [(0, 2), (3, 0)])
def test_smallest_shapes(t: int, u: int, implementation: str) -> None:
    moves = reference.RNNT
    log_probs = np.random.default_rng(0).normal(size=(2, t, u + 1, 2))
    t_b, u_b = np.array([t, 0]), np.array([u, 0])
    actual = jax_rnnt.alignment.lattice_best_path(log_probs, t_b, u_b, implementation=implementation)
    check(actual, [enumerated(*row, moves) for row in zip(log_probs, t_b, u_b, strict=True)])


def test_gradient_of_the_cost(implementation: str) -> None:
    """The gradient is -1 times the cotangent at every arc of the path.

    Forward mode agrees. A cotangent of 0 masks a bad example.
    """
    moves = MOVE_SETS["tdt"]
    log_probs = random_log_probs(moves, 4)
    log_probs[2, 1, 1] = np.nan
    ct = np.linspace(-2.0, 3.5, len(T_B))
    ct[2] = 0.0
    direction = np.random.default_rng(9).normal(size=log_probs.shape)

    @jax.jit
    def run(x, v):
        def cost(x):
            return jax_rnnt.alignment.lattice_best_path(x, T_B, U_B, moves, implementation=implementation).cost

        return jax.vjp(cost, x)[1](ct)[0], jax.jvp(cost, (x,), (v,))[1]

    gradient, tangents = run(log_probs, direction)
    expected = np.zeros(log_probs.shape)
    for b, path in enumerate(compiled(implementation, moves)(log_probs, T_B, U_B).arcs.tolist()):
        t = u = 0
        for n, k in enumerate(path):
            if k >= 0:
                assert t + u == n
                expected[b, t, u, k] = -ct[b]
                t, u = t + moves[k][0], u + moves[k][1]
    np.testing.assert_array_equal(gradient, expected)
    good = ct != 0
    slopes = (expected * direction).sum((1, 2, 3))
    np.testing.assert_allclose((tangents * ct)[good], slopes[good], rtol=1e-12, atol=1e-14)
    assert np.isnan(tangents[2])


@pytest.mark.parametrize("kind", ["auto", "explicit", "manual"])
def test_batch_over_a_mesh(kind: str) -> None:
    """Nothing crosses the mesh, and each result stays on the device of its example."""
    moves = reference.RNNT
    mesh = meshes.make_mesh(AxisType.Explicit if kind == "explicit" else AxisType.Auto, data=4)
    log_probs = random_log_probs(moves)
    run = functools.partial(jax_rnnt.alignment.lattice_best_path, implementation=losses.QUICK)
    if kind == "manual":
        run = jax.shard_map(run, mesh=mesh, in_specs=(P("data"),) * 3, out_specs=P("data"))
    with jax.set_mesh(mesh):
        arrays = [meshes.put(mesh, a, "data") for a in (log_probs, T_B, U_B)]
        run, program = meshes.compiled(run, *arrays)
        actual = run(*arrays)
    assert program.collectives() == []
    assert all(meshes.is_sharded_as(x, mesh, "data", *[None] * (x.ndim - 1)) for x in actual)
    check(actual, [enumerated(*row, moves) for row in zip(log_probs, T_B, U_B, strict=True)])


def test_there_is_no_kernel_for_cuda() -> None:
    """By default the lax form runs on CUDA. A caller who demands kernels gets an error."""
    arrays = random_log_probs(reference.RNNT), T_B, U_B
    jax.export.export(jax.jit(jax_rnnt.alignment.lattice_best_path), platforms=["cuda"])(*arrays)
    insists = jax.jit(functools.partial(jax_rnnt.alignment.lattice_best_path, implementation="native"))
    with pytest.raises(NotImplementedError, match="lattice_best_path has no kernel for cuda"):
        jax.export.export(insists, platforms=["cuda"])(*arrays)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"`moves`.*2 arcs, got 3"):
        jax_rnnt.alignment.lattice_best_path(np.zeros((1, 2, 2, 2)), [2], [1], ((1, 0), (0, 1), (1, 1)))
    with pytest.raises(ValueError, match="`implementation`"):
        jax_rnnt.alignment.lattice_best_path(np.zeros((1, 2, 2, 2)), [2], [1], implementation="cuda")
