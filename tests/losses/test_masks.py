"""Masked arcs of every size: large finite masks in some or all arcs, -inf among them, and masked rows of a loss."""

import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import jax_rnnt
from jax_rnnt.ops.masking import finite_sum
from jax_rnnt.xla import native

pytestmark = pytest.mark.once

MOVE_SETS = {"rnnt": reference.RNNT, "monotonic": reference.MONOTONIC, "tdt": reference.TDT}
SMALLEST = float(np.finfo(np.float32).min)
MASKS = (-1e4, -1e5, -1e6, -1e7, -1e8, -1e9, -1e12, -1e20, -1e30, SMALLEST)
B, T, U = 4, 4, 3
LENGTHS = np.array([4, 3, 4, 1], np.int32), np.array([3, 2, 1, 1], np.int32)


@functools.cache
def compiled(implementation: str, moves: reference.Moves):
    def run(arcs, ct):
        options = {"moves": moves, "implementation": implementation}
        both = jax_rnnt.lattice_posteriors(arcs, *LENGTHS, **options)
        alone, pull = jax.vjp(lambda x: jax_rnnt.lattice_cost(x, *LENGTHS, **options), arcs)
        return alone, *both, pull(ct)[0]

    return jax.jit(run)


@pytest.mark.full(implementation="lax", name="monotonic")
@pytest.mark.parametrize("name", MOVE_SETS)
@given(
    mask=st.sampled_from(MASKS),
    where=st.sampled_from(("some", "most", "one column", "all", "added to all")),
    infinite=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_masks(name: str, implementation: str, mask: float, where: str, infinite: bool, seed: int) -> None:
    moves = MOVE_SETS[name]
    rng = np.random.default_rng(seed)
    arcs = rng.normal(size=(B, T, U + 1, len(moves))) - 1.5
    chosen = rng.random(arcs.shape) < {"some": 0.15, "most": 0.7}.get(where, 1.0)
    if where == "one column":
        chosen[..., 1:] = False
    arcs = np.where(chosen, arcs + mask if where == "added to all" else mask, arcs)
    if infinite:
        arcs[rng.random(arcs.shape) < 0.1] = -np.inf
    with np.errstate(over="ignore"):
        arcs = np.where(np.isfinite(arcs), np.maximum(arcs, SMALLEST), arcs).astype(np.float32)
    exact = [reference.exact_lattice(*row, moves) for row in zip(arcs, *LENGTHS, strict=True)]
    # A cost that float32 can't hold becomes the largest float32, because +inf says that there is no path.
    costs = np.array([c if np.isinf(c) else min(c, -SMALLEST) for c, _ in exact])
    posteriors = np.array([p for _, p in exact])
    alone, cost, actual, gradient = compiled(implementation, moves)(arcs, np.ones(B, np.float32))
    np.testing.assert_allclose(alone, costs, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(cost, alone)
    actual = np.asarray(actual)
    assert ((actual >= 0) & (actual <= 1)).all()
    np.testing.assert_allclose(actual, posteriors, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(gradient, -actual)


@pytest.mark.parametrize("name", MOVE_SETS)
def test_float64_masks(name: str) -> None:
    moves = MOVE_SETS[name]
    arcs = np.random.default_rng(0).normal(size=(B, T, U + 1, len(moves)))
    arcs[1, ..., 0], arcs[2], arcs[3] = -1e9, -1e300, np.finfo(np.float64).min
    _, cost, posteriors, _ = compiled(losses.QUICK, moves)(arcs, np.ones(B))
    exact = [reference.exact_lattice(*row, moves) for row in zip(arcs[:2], *(x[:2] for x in LENGTHS), strict=True)]
    np.testing.assert_allclose(cost[:2], [c for c, _ in exact], rtol=1e-12)
    np.testing.assert_allclose(posteriors[:2], [p for _, p in exact], rtol=1e-6, atol=1e-12)
    assert np.isfinite(cost).all()
    assert ((posteriors >= 0) & (posteriors <= 1)).all()


# --- masks of a loss that are added to each other ---------------------------------------------------------------------

ONE = np.array([[1]], np.int32), np.array([2], np.int32), np.array([1], np.int32)  # T = 2 frames, U = 1 label


def test_two_masks_on_all_paths_of_hat(implementation: str) -> None:
    """The blank is certain, and the label masked: log(1 - p(blank)) and the label's score are the lowest float32.

    Both paths are equally probable. The cost is the largest float32, because +inf says that there is no path.
    """
    x = np.zeros((1, 2, 2, 4), np.float32)
    x[..., 0], x[..., 1] = -SMALLEST, SMALLEST
    loss = functools.partial(jax_rnnt.hat_loss, blank=0, reduction="sum", implementation=implementation)
    cost, gradient = jax.jit(jax.value_and_grad(loss))(x, *ONE)
    assert cost == -SMALLEST
    expected = np.zeros(x.shape)
    expected[:, :, 0] = [0.5, -0.5, 0.25, 0.25]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


SUMS = (jax_rnnt.rnnt_loss, jax_rnnt.tdt_loss)


@pytest.mark.parametrize("loss", SUMS, ids=lambda loss: loss.__name__)
def test_two_masks_on_all_paths_of_a_sum(loss) -> None:
    """Both parts of `AdditiveLogits` mask the label, and one of TDT's parts masks a duration too.

    The result is that of a dense array which holds the lowest float32 in place of the sum.
    """
    am, lm = np.random.default_rng(0).normal(size=(2, 1, 2, 6)).astype(np.float32)
    am[..., 1] = lm[..., 1] = am[..., -1] = SMALLEST
    exact = am[:, :, None].astype(np.float64) + lm[:, None].astype(np.float64)
    sums = np.maximum(exact, SMALLEST).astype(np.float32)
    options = {"blank": 0, "reduction": "sum"} | ({"durations": (1, 0)} if loss is jax_rnnt.tdt_loss else {})

    @jax.jit
    def run(am, lm, sums):
        with_parts = jax.value_and_grad(lambda p: loss(jax_rnnt.AdditiveLogits(*p), *ONE, **options))((am, lm))
        return with_parts, jax.value_and_grad(lambda x: loss(x, *ONE, **options))(sums)

    (cost, (of_am, of_lm)), (whole, of_sums) = run(am, lm, sums)
    assert cost == whole == -SMALLEST
    np.testing.assert_allclose(of_am, of_sums.sum(2), atol=1e-6)
    np.testing.assert_allclose(of_lm, of_sums.sum(1), atol=1e-6)
    assert np.abs(of_sums).max() > 0.4


def test_a_sum_of_finite_numbers_is_finite() -> None:
    low, high = SMALLEST, -SMALLEST
    pairs = np.array(
        [[low, low], [high, high], [low, high], [low, -np.inf], [np.inf, low], [np.nan, 1], [2, 3]], np.float32
    )
    total, slopes = jax.jvp(jax.jit(finite_sum), tuple(pairs.T), tuple(np.ones(pairs.T.shape, np.float32)))
    np.testing.assert_array_equal(total, np.array([low, high, 0, -np.inf, np.inf, np.nan, 5], np.float32))
    assert (slopes == 2).all()


def test_gradient_of_the_cost_half_needs_no_scan() -> None:
    """The derivative of the cost that comes with the posteriors runs the kernel, not the `lax` form."""
    if not native.native_available():
        pytest.skip("the compiled module is not usable")
    arcs = jnp.zeros((B, T, U + 1, 2))

    def total(x):
        return jax_rnnt.lattice_posteriors(x, *LENGTHS)[0].sum()

    text = jax.jit(jax.grad(total)).lower(arcs).compile().as_text()
    assert "jax_rnnt_lattice_posteriors" in text
    assert "while" not in text
