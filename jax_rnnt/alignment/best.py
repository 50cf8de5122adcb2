"""The lattice of a loss, and the best path through it: the frames of the labels."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.core.loss import Logits, checked_batch, example_lattices
from jax_rnnt.core.pipeline import Lattice
from jax_rnnt.losses.family import options_of
from jax_rnnt.losses.rnnt import rnnt_loss
from jax_rnnt.ops.best_path import BestPath, lattice_best_path


def loss_lattice(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    loss: Callable[..., Array] = rnnt_loss,
    **options: Any,
) -> Lattice:
    """The lattice that a loss sums over: the scores of its arcs, the lengths and the moves.

    ``lattice_cost(*loss_lattice(...))`` is the cost of the loss. The same lattice has posteriors and a best path.

    Args:
      logits, targets, logit_lengths, target_lengths: the arguments of the loss.
      loss: a loss of this library, such as :func:`tdt_loss`, or a :class:`Loss` or :class:`RNNTLoss` made of one.
      **options: options of the loss by name; they override those of the object. Scores do not depend on ``clamp``,
        ``reduction``, ``fastemit_lambda``, ``zero_infinity`` and ``omega``.

    Returns:
      A :class:`Lattice`: ``arcs [B, T, U+1, K]`` (float32; float64 for float64 logits), ``logit_lengths [B]`` and
      ``target_lengths [B]`` (int32), and the static ``moves``. It unpacks into these four. An invalid example has a
      logit length of -1, so its cost and its posteriors are NaN. The arcs can be differentiated as the loss can be.

    Raises:
      TypeError, ValueError: as the loss; TypeError also if ``loss`` is not from this library, or has no such option.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((1, 3, 2, 4))  # B = 1, T = 3, U = 1, V = 4: three paths of three arcs
      >>> batch = logits, jnp.array([[2]]), jnp.array([3]), jnp.array([1])
      >>> lattice = jax_rnnt.loss_lattice(*batch, jax_rnnt.monotonic_rnnt_loss, blank=0)
      >>> cost, posteriors = jax_rnnt.lattice_posteriors(*lattice)
      >>> posteriors[0, :, 0, 1].round(3)  # the label may be at any frame
      Array([0.333, 0.333, 0.333], dtype=float32)
    """
    chosen = options_of(loss, options)
    return example_lattices(*checked_batch(logits, targets, logit_lengths, target_lengths), chosen)


def best_alignment(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    loss: Callable[..., Array] = rnnt_loss,
    **options: Any,
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
      >>> jax_rnnt.best_alignment(*batch, blank=0).frames
      Array([[1, 2]], dtype=int32)
      >>> loss = jax_rnnt.Loss(jax_rnnt.monotonic_rnnt_loss, blank=0)
      >>> jax_rnnt.best_alignment(*batch, loss).durations
      Array([[1, 1]], dtype=int32)
    """
    chosen = options_of(loss, options)
    lattice = example_lattices(*checked_batch(logits, targets, logit_lengths, target_lengths), chosen)
    return lattice_best_path(*lattice, implementation=chosen.implementation)
