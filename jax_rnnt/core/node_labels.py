"""The label of every node of a lattice. Only this file decides what is a label, padding or an invalid example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.ops.labels import INVALID, NO_LABEL, PADDING, resolve_columns


class NodeLabels(NamedTuple):
    """What :func:`node_labels` returns: ``labels`` for :func:`arc_log_probs`, the lengths for :func:`lattice_cost`."""

    labels: Array  #: ``[B, T, U+1]``
    logit_lengths: Array  #: ``[B]``
    target_lengths: Array  #: ``[B]``


def node_labels(
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    shape: Sequence[int],
    blanks: Sequence[int] = (-1,),
) -> NodeLabels:
    """The label of every node (t, u) for :func:`arc_log_probs`, and the lengths for :func:`lattice_cost`.

    With these labels and lengths the operations read nothing beyond T_b and U_b, in ``targets`` or in the logits. An
    example with a bad length or label costs NaN. No other example is affected.

    Args:
      targets: ``[B, U]``, any integer type. Read up to U_b only.
      logit_lengths: ``[B]``, any integer type, the frames T_b of each utterance, in [0, T].
      target_lengths: ``[B]``, any integer type, the labels U_b of each utterance, in [0, U].
      shape: static ``(B, T, U+1, V)``, the shape of the logits. V is the size of the vocabulary that labels come from,
        even where a row of logits is wider.
      blanks: static integers in [-V, V), the entries that no label may equal; negative numbers count from the end.

    Returns:
      A named tuple of int32 arrays. An example is invalid if a length is out of range, or if one of its labels is
      outside [0, V) or a blank.

      * ``labels``: ``[B, T, U+1]``: ``targets[b, u]`` where t < T_b and u < U_b; -1 (no label) where u = U_b; -2
        (padding) beyond T_b or U_b; -3 throughout an invalid example.
      * ``logit_lengths``: ``[B]``: T_b; -1 for an invalid example.
      * ``target_lengths``: ``[B]``: U_b.

    Raises:
      TypeError: if a dtype is wrong, or ``blanks`` are not static integers.
      ValueError: if a shape does not match, or a blank is outside the vocabulary.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> targets = jnp.array([[1, -100], [3, 0]])  # the second example holds a blank
      >>> nodes = jax_rnnt.node_labels(targets, jnp.array([1, 2]), jnp.array([1, 2]), (2, 2, 3, 5), blanks=(0,))
      >>> nodes.labels.tolist()
      [[[1, -1, -2], [-2, -2, -2]], [[-3, -3, -3], [-3, -3, -3]]]
      >>> nodes.logit_lengths.tolist(), nodes.target_lengths.tolist()
      ([1, -1], [1, 2])
    """
    labels = checks.as_integers("targets", targets)
    t_b = checks.as_integers("logit_lengths", logit_lengths)
    u_b = checks.as_integers("target_lengths", target_lengths)
    if not isinstance(shape, Sequence) or len(shape) != 4:
        raise ValueError(f"`shape` must be (B, T, U+1, V), the shape of the logits, got {checks.described(shape)}.")
    b, t_max, u1, v = shape
    checks.integer("targets", labels)
    checks.shape("targets", labels, (b, u1 - 1), f"[B, U] for `shape` [B, T, U+1, V] = {tuple(shape)}")
    checks.lengths(b, t_b, u_b, "shape[0]")
    columns = resolve_columns(blanks, v, "blanks")

    labels, t_b, u_b = (checks.to_int32(x) for x in (labels, t_b, u_b))
    u = jnp.arange(u1, dtype=jnp.int32)[None]
    padded = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=NO_LABEL)
    wrong = (padded < 0) | (padded >= v)
    for column in columns:
        wrong |= padded == column
    used = u < u_b[:, None]
    invalid = (t_b < 0) | (t_b > t_max) | (u_b < 0) | (u_b >= u1) | jnp.any(used & wrong, axis=1)
    label = jnp.where(used, padded, jnp.where(u == u_b[:, None], NO_LABEL, PADDING))
    inside = jnp.arange(t_max, dtype=jnp.int32)[None, :, None] < t_b[:, None, None]
    nodes = jnp.where(inside, label[:, None, :], PADDING)
    return NodeLabels(jnp.where(invalid[:, None, None], INVALID, nodes), jnp.where(invalid, -1, t_b), u_b)
