"""The Pallas kernels of the lattice, by Pallas's interpreters on the CPU, against the oracle in float64.

The strict interpreter fills memory with NaN before a kernel writes it, refuses reads beyond arrays, and looks for races
between copies and arithmetic.
"""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tolerances
from jax.experimental.pallas import tpu as pltpu

import jax_rnnt
from jax_rnnt.ops import pallas_lattice, pallas_recursion
from jax_rnnt.xla import pallas

pytestmark = pytest.mark.host

MOVES = {
    "rnnt": reference.RNNT,
    "monotonic": reference.MONOTONIC,
    "multi_blank": reference.MULTI_BLANK,
    "tdt": reference.TDT,
}
BATCH, FRAMES, LABELS = 9, 20, 9  # two groups of utterances, the second one with one; two or four chunks of diagonals
# What may be wrong with an example; the others of its batch must not notice.
NAN, INF, TOO_MANY_FRAMES, NEGATIVE, EMPTY, NO_PATH = range(1, 7)


def strict() -> Any:
    known = inspect.signature(pltpu.InterpretParams).parameters
    wanted = {"detect_races": True, "uninitialized_memory": "nan", "out_of_bounds_reads": "raise"}
    return pltpu.InterpretParams(**{name: value for name, value in wanted.items() if name in known})


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels in programs for the CPU. Only the plain interpreter can be there."""
    monkeypatch.setattr(pallas, "interpreted", True)


@pytest.fixture
def no_races(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """The strict interpreter only prints what it finds."""
    yield
    assert "RACE DETECTED" not in capfd.readouterr().out


def batch(moves: reference.Moves, t: int = FRAMES, u: int = LABELS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(moves))
    log_probs = (2 * rng.normal(size=(BATCH, t, u + 1, len(moves))) - 2).astype(np.float32)
    log_probs[rng.random(log_probs.shape) < 0.03] = -np.inf
    t_b, u_b = rng.integers(2, t + 1, BATCH).astype(np.int32), rng.integers(0, u + 1, BATCH).astype(np.int32)
    t_b[0], u_b[0] = t, u
    log_probs[NAN, 1, 0, 0], log_probs[INF, 0, 0, 0] = np.nan, np.inf
    t_b[TOO_MANY_FRAMES], u_b[NEGATIVE] = t + 1, -1
    t_b[EMPTY], u_b[EMPTY] = 0, 0
    log_probs[NO_PATH, 0, 0] = -np.inf
    return log_probs, t_b, u_b


@functools.cache
def compiled(moves: reference.Moves, strictly: bool = False):
    interpret = strict() if strictly else True
    return jax.jit(functools.partial(pallas_lattice.lattice, moves=moves, posteriors=True, interpret=interpret))


def check(actual, expected, scale: float, steps: int) -> None:
    (cost, posteriors), (wanted, wanted_posteriors) = actual, expected
    allowed = tolerances.tolerance("float32", scale, steps, float(np.max(wanted, where=np.isfinite(wanted), initial=0)))
    np.testing.assert_allclose(cost, wanted, rtol=allowed.cost_rtol, atol=allowed.cost_atol)
    np.testing.assert_allclose(posteriors, wanted_posteriors, rtol=0, atol=allowed.gradient_atol)
    assert np.nanmax(posteriors) <= 1


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.full(name=["monotonic", "multi_blank", "tdt"])
@pytest.mark.parametrize("name", MOVES)
def test_good_and_bad_examples(name: str, no_races: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strictly. Those of RNN-T in long chunks, as small lattices have them; the others in short ones."""
    moves = MOVES[name]
    if name != "rnnt":
        monkeypatch.setattr(pallas_recursion, "_DEPTHS", (8,))
    arrays = batch(moves)
    actual, expected = compiled(moves, True)(*arrays), reference.lattice_cost(*arrays, moves)
    check(actual, expected, 8, FRAMES + LABELS)
    assert (np.asarray(actual[1])[expected[1] == 0] == 0).all(), "an arc that no path takes"


@pytest.mark.slow
@pytest.mark.once
def test_masks_beyond_the_range(no_races: None) -> None:
    """They run the lax form. One is crossed by every path, others by none that counts."""
    log_probs, t_b, u_b = batch(reference.RNNT)
    log_probs[0, 3:6, 2:] = -1e9
    log_probs[7, 0, 0] = -1e9
    cost, posteriors = reference.lattice_cost(log_probs, t_b, u_b)
    assert np.isfinite(cost[0])
    assert cost[7] > 9e8
    check(compiled(reference.RNNT, True)(log_probs, t_b, u_b), (cost, posteriors), 8, FRAMES + LABELS)


@pytest.mark.slow
@pytest.mark.once
def test_masks_within_the_range(no_races: None) -> None:
    """Paths through masks keep the digits that distinguish them."""
    log_probs, t_b, u_b = batch(reference.RNNT)
    log_probs[0, 4] = np.where(np.isfinite(log_probs[0, 4]), log_probs[0, 4] - 2e4, -np.inf)
    expected = reference.lattice_cost(log_probs, t_b, u_b)
    assert expected[0][0] > 1e4
    check(compiled(reference.RNNT, True)(log_probs, t_b, u_b), expected, 2e4, FRAMES + LABELS)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.full
def test_more_than_one_tile_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the cost alone, whose kernel has one direction."""
    monkeypatch.setattr(pallas_recursion, "_DEPTHS", (8,))
    arrays = batch(reference.RNNT, 6, 140)
    arrays[1][:] = np.minimum(arrays[1], 7)
    cost_only = functools.partial(pallas_lattice.lattice, moves=reference.RNNT, posteriors=False, interpret=True)
    (cost,) = jax.jit(cost_only)(*arrays)
    expected = reference.lattice_cost(*arrays)
    np.testing.assert_allclose(cost, expected[0], rtol=1e-6)
    check(compiled(reference.RNNT)(*arrays), expected, 8, 146)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.full
def test_a_jump_that_lands_on_few_diagonals(monkeypatch: pytest.MonkeyPatch) -> None:
    """All paths go by one move of 8 frames: numbers must be brought back to their range on the way."""
    monkeypatch.setattr(pallas_recursion, "_DEPTHS", (8,))
    moves, count = ((8, 0), (9, 0)), 300
    t = 8 * count
    log_probs = np.full((1, t, 1, 2), -0.34, np.float32)  # a factor of 0.71 each time, and no exponent
    log_probs[..., 1] = -np.inf
    arrays = log_probs, np.array([t], np.int32), np.array([0], np.int32)
    (cost,) = jax.jit(functools.partial(pallas_lattice.lattice, moves=moves, posteriors=False, interpret=True))(*arrays)
    np.testing.assert_allclose(cost, reference.lattice_cost(*arrays, moves)[0], rtol=1e-6)


@pytest.mark.full
def test_the_gradient_of_a_loss(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pallas_recursion, "_DEPTHS", (8,))
    logits = jax.random.normal(jax.random.key(0), (2, 3, 3, 5), jnp.float32)
    arrays = jnp.array([[1, 2], [3, 1]]), jnp.array([3, 2]), jnp.array([2, 1])

    def value_and_grad(implementation):
        loss = functools.partial(jax_rnnt.rnnt_loss, blank=0, implementation=implementation)
        return jax.jit(jax.value_and_grad(loss))(logits, *arrays)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6), value_and_grad("pallas"), value_and_grad("lax")
    )


def test_programs_for_tpus_have_the_kernels() -> None:
    """Also with 64 bits, as the suite has them, and under vmap. A program needs neither a TPU nor libtpu."""
    run = jax.vmap(functools.partial(jax_rnnt.lattice_posteriors, implementation="pallas"))
    lengths = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    traced = jax.jit(run).trace(jax.ShapeDtypeStruct((2, 3, 5, 4, 2), jnp.float32), lengths, lengths)
    assert traced.lower(lowering_platforms=("tpu",)).as_text().count("@tpu_custom_call") == 3


def test_on_other_platforms_it_is_an_error() -> None:
    arrays = jnp.zeros((1, 2, 3, 2), jnp.float32), jnp.array([2]), jnp.array([2])
    for function in (jax_rnnt.lattice_cost, jax_rnnt.lattice_posteriors):
        with pytest.raises(NotImplementedError, match=r"'pallas' was asked for.*for TPUs; this program is for cpu"):
            function(*arrays, implementation="pallas")


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 2, 3, 2), "float64", "computes in float32, got float64"),
        ((1, 2, 4000, 2), "float32", r"U\+1 = 4000 positions with 2 arcs each need 21757952 bytes .* 12582912 at most"),
    ],
)
def test_what_the_kernels_do_not_take(shape, dtype, reason, interpreted: None) -> None:
    lengths = jnp.array([1], jnp.int32)
    with pytest.raises(NotImplementedError, match=reason):
        jax_rnnt.lattice_cost(jnp.zeros(shape, dtype), lengths, lengths, implementation="pallas")
