"""`node_labels`, and a loss of one label per frame built on it. Nothing beyond the lengths is ever read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import T, U, V, lengths, random_batch

import jax_rnnt
from jax_rnnt.core.node_labels import NodeLabels

B = 4
T_B, U_B = lengths(5, 3, 4, 0), lengths(3, 2, 1, 0)
_, TARGETS = random_batch("node_labels", blank=0)
SHAPE = (B, T, U + 1, V)
BEYOND = np.arange(U)[None] >= U_B[:, None]


def _expected(targets: np.ndarray, invalid: tuple[int, ...] = ()) -> np.ndarray:
    """The labels by the definition, node by node."""
    labels = np.full(SHAPE[:3], -2)
    for b in range(B):
        for t in range(T_B[b]):
            labels[b, t, : U_B[b] + 1] = [*targets[b, : U_B[b]], -1]
    labels[list(invalid)] = -3
    return labels


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_labels_of_all_nodes_by_any_integer_type(dtype) -> None:
    arrays = (x.astype(dtype) for x in (TARGETS, T_B, U_B))
    nodes = jax_rnnt.node_labels(*arrays, SHAPE, blanks=(0,))
    assert isinstance(nodes, NodeLabels)
    assert {x.dtype for x in nodes} == {jnp.dtype("int32")}
    np.testing.assert_array_equal(nodes.labels, _expected(TARGETS))
    np.testing.assert_array_equal(nodes.logit_lengths, T_B)
    np.testing.assert_array_equal(nodes.target_lengths, U_B)


INVALID = {
    "T_b > T": ("logit_lengths", 1, T + 1),
    "U_b > U": ("target_lengths", 1, U + 1),
    "T_b < 0": ("logit_lengths", 1, -1),
    "U_b < 0": ("target_lengths", 1, -1),
    "label < 0": ("targets", (1, 1), -1),
    "label = V": ("targets", (1, 1), V),
    "first blank": ("targets", (1, 1), 0),
    "second blank": ("targets", (1, 1), 1),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_examples(name: str) -> None:
    """Beyond U_b a label may be blank or out of range. Within U_b it makes its example invalid, and no other."""
    targets = np.where(BEYOND, -100, np.clip(TARGETS, 2, None))
    arrays = {"targets": targets, "logit_lengths": T_B.copy(), "target_lengths": U_B.copy()}
    argument, index, value = INVALID[name]
    arrays[argument][index] = value
    nodes = jax.jit(lambda arrays: jax_rnnt.node_labels(**arrays, shape=SHAPE, blanks=(0, 1 - V)))(arrays)
    np.testing.assert_array_equal(nodes.labels, _expected(targets, invalid=(1,)))
    np.testing.assert_array_equal(nodes.logit_lengths, [T_B[0], -1, T_B[2], T_B[3]])


MISTAKES = {
    "targets_shape": (
        {"targets": np.zeros((B, U + 1), np.int32)},
        ValueError,
        r"`targets`.*\(4, 3\).*`shape`.*\(4, 4\)",
    ),
    "targets_float": ({"targets": np.zeros((B, U))}, TypeError, "`targets`.*float64"),
    "lengths_batch": ({"logit_lengths": lengths(1, 2)}, ValueError, r"`logit_lengths`.*\(4,\).*\(2,\)"),
    "lengths_ragged": ({"target_lengths": [[1], [2, 3]]}, TypeError, "`target_lengths`.*list"),
    "shape_of_three": ({"shape": (B, T, U + 1)}, ValueError, r"`shape`.*\(B, T, U\+1, V\).*\(4, 5, 4\)"),
    "logits_for_shape": ({"shape": np.zeros(SHAPE)}, ValueError, r"`shape`.*float64.*\(4, 5, 4, 6\)"),
    "blanks_integer": ({"blanks": 0}, TypeError, "`blanks`.*sequence.*got 0"),
    "blank_out_of_range": ({"blanks": (0, V)}, ValueError, r"`blanks\[1\]`.*-6, 6.*got 6"),
    "blank_bool": ({"blanks": (True,)}, TypeError, r"`blanks\[0\]`.*True"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    change, error, match = MISTAKES[name]
    good = {"targets": TARGETS, "logit_lengths": T_B, "target_lengths": U_B, "shape": SHAPE, "blanks": (0,)}
    with pytest.raises(error, match=match):
        jax_rnnt.node_labels(**(good | change))


def test_traced_blanks_are_told_that_they_are_static() -> None:
    with pytest.raises(TypeError, match=r"`blanks\[0\]` must be static.*static_argnames='blanks'"):
        jax.jit(lambda blank: jax_rnnt.node_labels(TARGETS, T_B, U_B, SHAPE, (blank,)))(0)
