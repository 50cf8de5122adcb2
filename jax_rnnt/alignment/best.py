"""The lattice of a loss, and the best path through it: the frames of the labels."""

from __future__ import annotations

from jax.typing import ArrayLike

from jax_rnnt.core import pipeline
from jax_rnnt.core.batch import Logits, checked_batch
from jax_rnnt.core.loss import Loss, checked_loss, on_lattices
from jax_rnnt.core.pipeline import Lattice
from jax_rnnt.ops.best_path import BestPath, lattice_best_path


def loss_lattice(
    loss: Loss, logits: Logits, targets: ArrayLike, logit_lengths: ArrayLike, target_lengths: ArrayLike
) -> Lattice:
    """The lattice that a loss sums over: the scores of its arcs, the lengths and the moves.

    ``lattice_cost(*loss_lattice(...))`` is the cost of the loss. The same lattice has posteriors and a best path.

    Args:
      loss: a loss with its options, such as ``TDTLoss(blank=0)``. Scores do not depend on ``clamp``, ``reduction``,
        ``fastemit_lambda``, ``zero_infinity`` and ``omega``.
      logits, targets, logit_lengths, target_lengths: the arguments of the loss.

    Returns:
      A :class:`Lattice`: ``arcs [B, T, U+1, K]`` (float32; float64 for float64 logits), ``logit_lengths [B]`` and
      ``target_lengths [B]`` (int32), and the static ``moves``. It unpacks into these four. An invalid example has a
      logit length of -1, so its cost and its posteriors are NaN. The arcs can be differentiated as the loss can be.

    Raises:
      TypeError, ValueError: as the loss; TypeError also if ``loss`` is not a :class:`Loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((1, 3, 2, 4))  # B = 1, T = 3, U = 1, V = 4: three paths of three arcs
      >>> batch = logits, jnp.array([[2]]), jnp.array([3]), jnp.array([1])
      >>> loss = jax_rnnt.MonotonicRNNTLoss(blank=0)
      >>> lattice = jax_rnnt.alignment.loss_lattice(loss, *batch)
      >>> cost, posteriors = jax_rnnt.lattice_posteriors(*lattice)
      >>> posteriors[0, :, 0, 1].round(3)  # the label may be at any frame
      Array([0.333, 0.333, 0.333], dtype=float32)
    """
    batch = checked_batch(logits, targets, logit_lengths, target_lengths)
    return on_lattices(pipeline.lattices, checked_loss(loss), *batch, {})


def best_alignment(
    loss: Loss, logits: Logits, targets: ArrayLike, logit_lengths: ArrayLike, target_lengths: ArrayLike
) -> BestPath:
    """The most probable alignment of the targets with the frames, under any loss.

    It is ``lattice_best_path(*loss_lattice(...))``. Arguments and errors are those of these two functions.

    Returns:
      A :class:`BestPath`:

      * ``cost [B]``: minus the log-probability of the alignment; at least the cost of the loss. +inf where there is no
        path, NaN where the example is invalid.
      * ``frames [B, U]``: int32, the frame at which each label is emitted, in [0, T_b).
      * ``durations [B, U]``: int32, the frames that the label takes: 0 for RNN-T, multi-blank and HAT, 1 for the
        monotonic RNN-T, and for TDT the duration of the label's arc.
      * ``arcs [B, T+U]``: int32, the arc of every step, an index into the moves of the loss.

      All three are -1 beyond U_b, in an example without a path, and in an invalid example.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((1, 4, 3, 5)).at[0, 1, 0, 3].set(5.0).at[0, 2, 1, 1].set(5.0)  # 3 at frame 1, 1 at frame 2
      >>> batch = logits, jnp.array([[3, 1]]), jnp.array([4]), jnp.array([2])
      >>> jax_rnnt.alignment.best_alignment(jax_rnnt.RNNTLoss(blank=0), *batch).frames
      Array([[1, 2]], dtype=int32)
      >>> jax_rnnt.alignment.best_alignment(jax_rnnt.MonotonicRNNTLoss(blank=0), *batch).durations
      Array([[1, 1]], dtype=int32)
    """
    lattice = loss_lattice(loss, logits, targets, logit_lengths, target_lengths)
    return lattice_best_path(*lattice, implementation=loss.implementation)
