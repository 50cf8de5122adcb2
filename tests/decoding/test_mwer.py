"""Edit distances against the plain recursion, and expected errors by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from losses import jit

import jax_rnnt

ROOM = 6
sequences = st.lists(st.integers(0, 2), max_size=ROOM)


def plain_distance(a, b) -> int:
    d = np.zeros((len(a) + 1, len(b) + 1), int)
    d[:, 0], d[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (x != y))
    return d[-1, -1]


def padded(lists, room: int):
    """Pads the lists with numbers, which must not matter."""
    rows = [[*x, *range(room - len(x))] for x in lists]
    return np.array(rows, np.int32).reshape(len(lists), room), np.array([len(x) for x in lists], np.int32)


distance = jit(jax_rnnt.decoding.edit_distance)


@given(st.lists(sequences, min_size=4, max_size=4), st.lists(sequences, min_size=2, max_size=2))
def test_distance_is_that_of_the_recursion(found, targets):
    labels, lengths = padded(found, ROOM)
    reference, reference_lengths = padded(targets, ROOM + 1)
    got = distance(labels.reshape(2, 2, ROOM), reference[:, None], lengths.reshape(2, 2), reference_lengths[:, None])
    wanted = [[plain_distance(x, targets[b]) for x in found[2 * b : 2 * b + 2]] for b in range(2)]
    assert got.tolist() == wanted


def test_distance_of_nothing():
    nothing = np.zeros((2, 0), np.int64)
    labels, lengths = np.array([[1, 2], [3, 4]]), np.array([2, 1])
    assert jax_rnnt.decoding.edit_distance(nothing, labels, 0 * lengths, lengths).tolist() == [2, 1]
    assert jax_rnnt.decoding.edit_distance(labels, nothing, lengths, 0 * lengths).tolist() == [2, 1]


def test_expected_errors_and_their_gradient():
    # Three hypotheses count, with probabilities 0.4, 0.2 and 0.2. The fourth has no path, and the fifth does not exist.
    p = np.array([[0.4, 0.2, 0.2, 0.0, 0.3], [0.0, 0.0, 0.0, 0.0, 0.5]])
    errors = np.array([[1, 0, 4, 9, 9], [2, 2, 2, 2, 2]])
    there = np.array([[True, True, True, True, False]] * 2)
    with np.errstate(divide="ignore"):
        costs = jnp.asarray(-np.log(p))
    costs = costs.at[0, 4].set(jnp.nan)
    value, gradient = jax.value_and_grad(
        lambda c: jax_rnnt.decoding.mwer_loss(c, errors, where=there, reduction="sum")
    )(costs)
    mean = (0.4 * 1 + 0.2 * 4) / 0.8
    np.testing.assert_allclose(value, mean)
    weights = np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(gradient[0, :3], -weights * (errors[0, :3] - mean), atol=1e-15)
    assert (gradient[0, 3:] == 0).all()
    assert (gradient[1] == 0).all()
    each = jax_rnnt.decoding.mwer_loss(costs, errors, where=there, reduction="none")
    np.testing.assert_allclose(each, [mean, 0])
    np.testing.assert_allclose(jax_rnnt.decoding.mwer_loss(costs, errors, where=there), mean / 2)


def test_a_cost_of_nan_makes_its_utterance_nan():
    costs = jnp.array([[1.0, jnp.nan], [0.0, 0.0], [1.0, jnp.nan]])
    errors, there = np.array([[1.0, 2.0], [1.0, 3.0], [7.0, np.nan]]), np.array([[1, 1], [1, 1], [1, 0]], bool)

    def each(costs):
        return jax_rnnt.decoding.mwer_loss(costs, errors, where=there, reduction="none")

    np.testing.assert_array_equal(each(costs), [np.nan, 2.0, 7.0])
    gradient = jax.grad(lambda costs: each(costs).sum())(costs)
    assert jnp.isnan(gradient[0]).all()
    np.testing.assert_allclose(gradient[1:], [[0.5, -0.5], [0.0, 0.0]])


def test_without_hypotheses_nothing_is_lost_and_no_nan_is_made():
    costs, errors = jnp.array([[jnp.inf, 1.0, 2.0], [jnp.inf] * 3, [1.0, 2.0, 3.0]]), np.ones((3, 3))
    there = np.array([[True] * 3, [True] * 3, [False] * 3])
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(lambda c: jax_rnnt.decoding.mwer_loss(c, errors, where=there))(costs)
    np.testing.assert_allclose(value, 1 / 3)
    np.testing.assert_allclose(gradient, np.zeros((3, 3)), atol=1e-15)
    empty = jnp.zeros((2, 0))
    assert jax_rnnt.decoding.mwer_loss(empty, empty, reduction="none").tolist() == [0.0, 0.0]
    assert jax.grad(jax_rnnt.decoding.mwer_loss)(empty, empty).shape == (2, 0)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint64"])
def test_labels_of_every_width_are_told_apart(dtype):
    info = np.iinfo(dtype)
    a = np.array([info.max, info.max - 1, info.max // 2, 1], dtype)
    b = np.array([info.max, info.max - 2, info.max // 2, 1 - 2 * (info.min < 0)], dtype)
    other = np.array([-1, -2, -1, 1], np.int64)
    for convert in (np.asarray, jnp.asarray):
        assert jax_rnnt.decoding.edit_distance(convert(a), convert(b), 4, 4) == 1 + (info.min < 0)
        assert jax_rnnt.decoding.edit_distance(convert(a), convert(other), 4, 4) == 3
    with jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(False):
        assert jax_rnnt.decoding.edit_distance(a, b, np.int32(4), np.int32(4)) == 1 + (info.min < 0)


def test_lengths_out_of_range_have_no_distance():
    labels = np.array([[1, 2]] * 5)
    found = jax_rnnt.decoding.edit_distance(labels, labels, np.array([2, 3, -1, 2, 2]), np.array([2, 2, 2, 3, -1]))
    assert found.tolist() == [0, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.zeros(3), np.zeros(3)), ValueError, r"`costs` must have 2 dimensions \[B, N\], got 1"),
        ((np.zeros((2, 3)), np.zeros(2)), ValueError, r"`errors` must have shape \(2, 3\)"),
        ((np.zeros((2, 3), int), np.zeros((2, 3))), TypeError, "`costs` must be one of float16"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))), TypeError, "`where` must be an array of booleans"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), None, "mean_volume"), ValueError, "`reduction` must be one of"),
    ],
)
def test_errors_name_the_argument(arguments, error, words):
    costs, errors, *rest = arguments
    options = dict(zip(("where", "reduction"), rest, strict=False))
    with pytest.raises(error, match=words):
        jax_rnnt.decoding.mwer_loss(costs, errors, **options)


def test_errors_of_distances():
    with pytest.raises(TypeError, match="`targets` must have an integer dtype, got float64"):
        jax_rnnt.decoding.edit_distance(np.zeros(2, int), np.zeros(2), np.array(1), np.array(1))
    with pytest.raises(ValueError, match=r"must fit together, got `hypotheses` \(2, 3\), `targets` \(3, 3\)"):
        jax_rnnt.decoding.edit_distance(np.zeros((2, 3), int), np.zeros((3, 3), int), np.array(1), np.array(1))
    with pytest.raises(ValueError, match=r"`targets` must have shape \[..., L\], got a scalar"):
        jax_rnnt.decoding.edit_distance(np.zeros((2, 3), int), np.array(1), np.array(1), np.array(1))
