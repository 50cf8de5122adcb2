"""Hidden rows and their backward: values, derivatives, dropout's bits; the kernel and the lax form agree."""

import jax
import jax.numpy as jnp
import numpy as np
import philox
import pytest
from implementations import CUDA_ON_CPU

from jax_rnnt.ops import dropout_bits, hidden_rows
from jax_rnnt.ops.activations import ACTIVATIONS

B, T, P, D, N = 3, 4, 5, 19, 16
FORMS = [None, "lax"] if CUDA_ON_CPU else ["lax"]  # None: the kernel, where there is one
SEED = np.array([7, 2**32 - 9], np.uint32)


def _tile():
    """The second tile of the nodes of a mask: its places, filled up, and the rows of all nodes."""
    mask = np.random.default_rng(0).random((B, T, P)) < 0.45
    places = np.flatnonzero(mask)
    assert N < len(places) < 2 * N
    row = np.where(mask.ravel(), np.cumsum(mask) - 1, -1).reshape(B, T, P)
    own = places[N:]
    return np.concatenate([own, np.full(N - len(own), own[-1])]).astype(np.int32), row.astype(np.int32), len(own)


PLACE, ROW, REAL = _tile()


def _operands(dtype: str = "float64"):
    rng = np.random.default_rng(1)
    width = hidden_rows.columns_of(D, np.dtype(jnp.dtype(dtype)))
    shapes = (B, T, width), (B, P, width), (N, width)
    return [jnp.asarray(rng.normal(0, 2, shape), dtype) for shape in shapes]


def _expected_rows(encoded, predicted, activation: str):
    function = {
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "gelu": jax.nn.gelu,
        "sigmoid": jax.nn.sigmoid,
        "identity": lambda x: x,
    }[activation]
    nodes = encoded[:, :, None].astype("float64") + predicted[:, None].astype("float64")
    return function(nodes).reshape(B * T * P, -1)[PLACE]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_and_sums(activation: str, form: str | None) -> None:
    encoded, predicted, d_hidden = _operands()
    rows = hidden_rows.hidden_rows(encoded, predicted, PLACE, SEED, activation=activation, implementation=form)
    wanted, pull = jax.vjp(lambda *x: _expected_rows(*x, activation), encoded, predicted)
    np.testing.assert_allclose(rows, wanted, rtol=1e-12, atol=1e-12)
    before = jnp.ones_like(encoded), jnp.full_like(predicted, 2)
    operands = *before, d_hidden, encoded, predicted, PLACE, ROW, SEED
    sums = hidden_rows.hidden_rows_backward(*operands, activation=activation, implementation=form)
    of_real = jnp.where((jnp.arange(N) < REAL)[:, None], d_hidden, 0)
    for got, start, added in zip(sums, before, pull(of_real), strict=True):
        np.testing.assert_allclose(got, start + added, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_types(dtype: str, form: str | None) -> None:
    """Rows have the type of the activations, rounded once. Sums are float32."""
    encoded, predicted, d_hidden = _operands(dtype)
    rows = hidden_rows.hidden_rows(encoded, predicted, PLACE, SEED, activation="tanh", implementation=form)
    assert rows.dtype == encoded.dtype
    wanted = _expected_rows(encoded, predicted, "tanh")
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(rows.astype("float64"), wanted, rtol=max(2e-6, eps / 2 + 2**-11 * (eps > 1e-6)))
    zeros = jnp.zeros(encoded.shape, "float32"), jnp.zeros(predicted.shape, "float32")
    operands = *zeros, d_hidden, encoded, predicted, PLACE, ROW, SEED
    sums = hidden_rows.hidden_rows_backward(*operands, activation="tanh", implementation=form)
    slope = 1 - wanted**2
    each = np.where(np.arange(N)[:, None] < REAL, d_hidden.astype("float64") * slope, 0)
    of_frames = np.zeros((B * T, slope.shape[1]))
    np.add.at(of_frames, PLACE // P, each)
    assert sums[0].dtype == jnp.float32
    np.testing.assert_allclose(sums[0].reshape(of_frames.shape), of_frames, atol=2e-2 if eps > 1e-6 else 1e-5)


def test_known_answers_of_philox() -> None:
    """The answers that Random123, the library of the authors, gives for Philox4x32-10."""
    known = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    counters, keys, answers = (np.array(x, np.uint32).T for x in zip(*known, strict=True))
    got = dropout_bits.philox(tuple(map(jnp.asarray, counters)), tuple(map(jnp.asarray, keys)))
    np.testing.assert_array_equal(np.stack(got), answers)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dropout(dtype: str) -> None:
    """Every form has the mask of the definition, bit by bit, forward and backward, in whatever tile a node stands."""
    dropped = 20000
    encoded, predicted, d_hidden = _operands(dtype)
    encoded, predicted = jnp.ones_like(encoded), jnp.zeros_like(predicted)
    width = encoded.shape[-1]
    stays = philox.bits_of_nodes(SEED, *np.unravel_index(PLACE, (B, T, P)), width) >= dropped
    assert 0.5 < stays.mean() < 0.85
    for form in FORMS:
        options = {"activation": "identity", "dropped": dropped, "implementation": form}
        rows = hidden_rows.hidden_rows(encoded, predicted, PLACE, SEED, **options)
        np.testing.assert_array_equal(np.asarray(rows != 0), stays)
        scale = jnp.asarray(65536 / (65536 - dropped), dtype)
        np.testing.assert_array_equal(rows, jnp.where(stays, scale, 0))
        alone = hidden_rows.hidden_rows(encoded, predicted, PLACE[3:4], SEED, **options)
        np.testing.assert_array_equal(alone[0], rows[3])
        wide = "float64" if dtype == "float64" else "float32"
        zeros = jnp.zeros(encoded.shape, wide), jnp.zeros(predicted.shape, wide)
        operands = *zeros, jnp.ones_like(d_hidden), encoded, predicted, PLACE, ROW, SEED
        of_frames, _ = hidden_rows.hidden_rows_backward(*operands, **options)
        counts = np.zeros((B * T, width))
        np.add.at(counts, PLACE[:REAL] // P, stays[:REAL])
        np.testing.assert_allclose(of_frames.reshape(counts.shape), counts * 65536 / (65536 - dropped), rtol=1e-6)


def test_the_dropped_share() -> None:
    """Bits are uniform: of 10^6 entries the share is off by less than five standard deviations, in each column."""
    n, width, dropped = 50_000, 20, 6554
    node = jnp.arange(n, dtype=jnp.int32)
    stays = dropout_bits.kept(jnp.asarray(SEED), node // 1000, node // 50 % 20, node % 50, width, dropped)
    rate, counts = dropped / 65536, n - np.asarray(stays).sum(0)
    assert (np.abs(counts - n * rate) < 5 * np.sqrt(n * rate * (1 - rate))).all()
    correlation = np.corrcoef(np.asarray(stays, float).T) - np.eye(width)
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
