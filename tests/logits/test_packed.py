"""Packed logits: offsets, inputs of the joint, and rows that do not fit."""

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest
import sources
from losses import RNNT, T, U

import jax_rnnt

pytestmark = pytest.mark.once

T_B = np.array([3, 0, 5, 2, T + 1, -1, 4, 2**31 - 1, 1], np.int32)
U_B = np.array([2, 0, 0, U, 1, 2, -(2**31), 0, U + 1], np.int32)


def _nodes() -> list[tuple[int, int, int]]:
    return list(sources.nodes_of(T_B, U_B))


def test_offsets_count_the_rows_before() -> None:
    wanted = [sum(node[0] < b for node in _nodes()) for b in range(len(T_B) + 1)]
    assert np.diff(wanted).tolist() == [9, 0, 5, 8, 0, 0, 0, 0, 0]
    offsets = jax_rnnt.PackedLogits.offsets(T_B, U_B, T, U)
    assert offsets.dtype == jnp.int32
    assert offsets.tolist() == wanted
    assert jax.jit(jax_rnnt.PackedLogits.offsets, static_argnums=(2, 3))(T_B, U_B, T, U).tolist() == wanted
    assert jax_rnnt.PackedLogits.offsets(T_B[:0], U_B[:0], T, U).tolist() == [0]


def test_pack_gathers_the_pairs_of_nodes() -> None:
    rng = np.random.default_rng(0)
    encoded, predicted = rng.normal(size=(len(T_B), T, 2)), rng.normal(size=(len(T_B), U + 1, 3))
    nodes, spare = _nodes(), 4
    e, p = jax_rnnt.PackedLogits.pack(encoded, predicted, T_B, U_B, num_rows=len(nodes) + spare)
    np.testing.assert_array_equal(e[:-spare], [encoded[b, t] for b, t, _ in nodes])
    np.testing.assert_array_equal(p[:-spare], [predicted[b, u] for b, _, u in nodes])
    assert not e[-spare:].any()
    assert not p[-spare:].any()


def test_gradient_through_pack_is_the_dense_one() -> None:
    """NaN in entries that no node reads does no harm, and neither does NaN in spare rows."""
    rng = np.random.default_rng(1)
    t_b, u_b = np.array([4, 2]), np.array([1, 3])
    encoded, predicted, kernel = rng.normal(size=(2, T, 3)), rng.normal(size=(2, U + 1, 3)), rng.normal(size=(3, 6))
    targets = rng.integers(0, 5, (2, U))

    def packed(encoded, predicted, kernel):
        e, p = jax_rnnt.PackedLogits.pack(encoded, predicted, t_b, u_b, num_rows=25)
        logits = jax_rnnt.PackedLogits(jnp.tanh(e + p) @ kernel, t_b, u_b, num_frames=T, num_labels=U)
        return jax_rnnt.rnnt_loss(logits, targets, t_b, u_b, implementation=losses.QUICK)

    def dense(encoded, predicted, kernel):
        logits = jnp.tanh(encoded[:, :, None] + predicted[:, None]) @ kernel
        return jax_rnnt.rnnt_loss(logits, targets, t_b, u_b, implementation=losses.QUICK)

    wanted = jax.block_until_ready(losses.jit(jax.grad(dense, (0, 1, 2)))(encoded, predicted, kernel))
    encoded[0, 4:], encoded[1, 2:], predicted[0, 2:] = np.nan, np.nan, np.nan
    actual = losses.jit(jax.grad(packed, (0, 1, 2)))(encoded, predicted, kernel)
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def _run(rows, lengths, of_loss):
    targets = np.ones((len(lengths[0]), U), np.int32)

    def costs(rows):
        logits = jax_rnnt.PackedLogits(rows, *lengths, num_frames=T, num_labels=U)
        return RNNT.costs(logits, targets, *of_loss, implementation=losses.QUICK)

    @losses.jit
    def step(rows):
        cost, pull = jax.vjp(costs, rows)
        return cost, pull(jnp.ones_like(cost))[0]

    return step(rows)


@pytest.mark.parametrize(("rows", "fit"), [(23, 2), (8, 0), (0, 0)])
def test_utterances_that_do_not_fit_cost_nan(rows: int, fit: int) -> None:
    """The first has 9 rows, the second 5, the third 10. The last utterance has none, so it always fits."""
    lengths = np.array([3, 5, 5, 0]), np.array([2, 0, 1, 0])
    x = np.random.default_rng(2).normal(size=(24, losses.V))
    whole, gradient = _run(x, lengths, lengths)
    cost, part = _run(x[:rows], lengths, lengths)
    assert np.isnan(cost).tolist() == [b >= fit for b in range(3)] + [False]
    np.testing.assert_allclose(cost[:fit], whole[:fit], rtol=1e-12)
    stop = (0, 9, 14, 24)[fit]
    np.testing.assert_allclose(part[:stop], gradient[:stop], rtol=1e-12, atol=1e-14)


def test_lengths_that_differ_from_those_of_the_loss_cost_nan() -> None:
    t_b, u_b = np.array([3, 4, 2]), np.array([2, 1, 3])
    x = np.random.default_rng(3).normal(size=(25, losses.V))
    cost, _ = _run(x, (t_b, u_b), (np.array([3, 5, 2]), u_b))
    assert np.isnan(cost).tolist() == [False, True, False]
    cost, _ = _run(x, (t_b, u_b), (t_b, np.array([3, 1, 3])))
    assert np.isnan(cost).tolist() == [True, False, False]


REFUSED = [
    ({"rows": np.zeros((4, 2, 3))}, ValueError, r"`rows` must have 2 dimensions \[N, W\].*\(4, 2, 3\)"),
    ({"rows": np.zeros((4, 3), np.int32)}, TypeError, "`rows` must be one of float16.*int32"),
    ({"logit_lengths": np.array([1.0, 2.0])}, TypeError, "`logit_lengths` must have an integer dtype, got float64"),
    ({"num_frames": -1}, ValueError, "`num_frames` must be at least 0, got -1"),
    ({"num_frames": 2**29}, ValueError, r"B \* T \* \(U \+ 1\) must be less than 2\^31.*4294967296"),
    ({"num_labels": 2}, ValueError, r"`logits` of shape \[B, T, U\+1, V\] = \(2, 4, 3, 3\) needs `targets`"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refusals_name_the_argument(changes: dict, error: type, message: str) -> None:
    good = {"rows": np.zeros((9, 3)), "logit_lengths": np.array([2, 1]), "target_lengths": np.array([2, 1])}
    logits = jax_rnnt.PackedLogits(**(good | {"num_frames": 4, "num_labels": 3} | changes))
    with pytest.raises(error, match=message):
        jax_rnnt.rnnt_loss(logits, np.zeros((2, 3), np.int32), np.array([2, 1]), np.array([2, 1]))


def test_pack_refuses_other_shapes() -> None:
    lengths = np.array([1, 1]), np.array([1, 1])
    with pytest.raises(ValueError, match=r"`predicted` must have shape \(2, 3, 4\) .*\(3, 3, 4\)"):
        jax_rnnt.PackedLogits.pack(np.zeros((2, 5, 4)), np.zeros((3, 3, 4)), *lengths, num_rows=4)
    with pytest.raises(TypeError, match="`num_rows` must be static"):
        jax.jit(jax_rnnt.PackedLogits.pack)(np.zeros((2, 5, 4)), np.zeros((2, 3, 4)), *lengths, 4)
