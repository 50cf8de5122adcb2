"""Properties that hold for every input, on examples that hypothesis picks: the same ones in every run.

All examples share a few shapes, so that they share compiled functions. Content, scale and lengths vary.
"""

import numpy as np
import pytest
import runner
from cases import T, U, V, random_batch
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.once
B = 4
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([0.0, 1e-3, 1.0, 5.0, 40.0])
T_B = st.lists(st.integers(0, T), min_size=B, max_size=B)
U_B = st.lists(st.integers(0, U), min_size=B, max_size=B)


def _batch(seed: int, scale: float, t_b: list[int], u_b: list[int]) -> tuple[np.ndarray, ...]:
    return (*random_batch(seed, B, scale=scale), np.array(t_b, np.int32), np.array(u_b, np.int32))


@given(seed=SEEDS, scale=SCALES, t_b=T_B, u_b=U_B)
def test_oracle(implementation: str, seed: int, scale: float, t_b: list[int], u_b: list[int]) -> None:
    """Compares any content, scale and lengths, empty ones too, with the oracle, in two precisions."""
    arrays = _batch(seed, scale, t_b, u_b)
    for dtype in ("float64", "float32"):
        result = runner.evaluate(implementation, *arrays, dtype=dtype)
        runner.assert_matches_oracle(result, *arrays, dtype=dtype)


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
