"""The RNN-T loss (Graves 2012)."""

from __future__ import annotations

import dataclasses
from typing import Unpack

from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.core.batch import Logits
from jax_rnnt.core.loss import LogSoftmaxLoss, LossOptions, Reduction, Wildcard, WildcardLoss
from jax_rnnt.core.topology import Topology
from jax_rnnt.ops.labels import RNNT_MOVES, resolve_column


@dataclasses.dataclass(frozen=True)
class RNNTLoss(LogSoftmaxLoss, WildcardLoss):
    """:func:`rnnt_loss` with its options set before the call.

    Names, order and defaults of the first options are those of ``torchaudio.transforms.RNNTLoss``: ``blank``,
    ``clamp``, ``reduction`` and ``fused_log_softmax``. All options are those of :func:`rnnt_loss` and :class:`Loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> loss = jax_rnnt.RNNTLoss(blank=0, reduction="sum")
      >>> loss(jnp.zeros((1, 2, 2, 4)), jnp.array([[3]]), jnp.array([2]), jnp.array([1])).round(4)
      Array(3.4657, dtype=float32)
    """

    def topology(self, width: int) -> Topology:
        column = resolve_column(self.blank, width, "blank")
        return Topology((column,), self.window(width), RNNT_MOVES, width, (column,))


def rnnt_loss(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = -1,
    clamp: float = -1.0,
    reduction: Reduction = "mean",
    fused_log_softmax: bool = True,
    *,
    wildcard: Wildcard = None,
    wildcard_weight: float = 0.0,
    weights: ArrayLike | None = None,
    **options: Unpack[LossOptions],
) -> Array:
    r"""The RNN transducer loss: minus the log-probability of the targets, summed over all alignments.

    .. math:: \mathrm{loss}_b = -\log \sum_{\pi} \prod_{(t,u) \to (t+1,u)} p(\varnothing | t, u)
                                \prod_{(t,u) \to (t,u+1)} p(y_{u+1} | t, u)

    over the paths :math:`\pi` from (0, 0) to :math:`(T_b, U_b)`. Names, order, defaults and meaning of the arguments
    are those of ``torchaudio.functional.rnnt_loss``, but all lengths may be shorter than T.

    Args:
      logits: ``[B, T, U+1, V]``, float16, bfloat16, float32 or float64: the joint network's output. In place
        of the array, a :class:`JointLogits`, :class:`PackedLogits`, :class:`PrunedLogits` or :class:`AdditiveLogits`.
      targets: ``[B, U]``, any integer type, labels in [0, V) that are not blank. Read up to U_b only.
      logit_lengths: ``[B]``, any integer type, the frames T_b of each utterance, in [0, T].
      target_lengths: ``[B]``, any integer type, the labels U_b of each utterance, in [0, U].
      blank, clamp, reduction: static options, which :class:`Loss` describes.
      fused_log_softmax: whether the loss normalises ``logits`` over V. If False, ``logits`` must be log-probabilities.
        Then only the entries of blank and of the targets are read and have a gradient.
      wildcard: for transcripts that lack words; None, "ends" (words before the first and after the last label),
        "anywhere" or "star" (words between any two labels).

        With "ends", the W-transducer, a path may jump from (0, 0) to any (t, 0), and from any (t, U_b) to
        (T_b - 1, U_b), the last frame. Without labels only the first jump exists. With "anywhere" and "star" a path
        may pass a frame in place of its blank. With w = ``wildcard_weight`` the blank's probability becomes

        .. math:: p(\varnothing | t, u) + e^w \quad \mbox{"anywhere": for all } t; \qquad
                  \mbox{"star": for } t < T_b - 1

        "star" is the Star-Transducer: the last frame takes its blank. A jump may pass over nodes that
        :class:`PrunedLogits` leave out, but no jump and no passed frame begins or ends at such a node.
      wildcard_weight: the score of such a jump, or of each frame passed. 0 costs nothing.
      weights: ``[B]``, a factor for the cost of each example. "mean" then divides by the sum of the weights, and
        "mean_volume" by the sum of ``weights * U_b``. Where the divisor is 0, the result and its derivatives are 0. An
        example of weight 0 counts for nothing, even where its cost is NaN. The derivative with respect to such a weight
        is as for any other weight, but 0 where the cost is NaN or +inf.
      **options: the further static options of every loss, by name: ``fastemit_lambda``, ``delay_penalty``, ``sigma``,
        ``zero_infinity``, ``implementation`` and ``vocab_axis_name``. :class:`Loss` describes them.

    Returns:
      A scalar, or ``[B]`` for "none": float64 for float64 logits, else float32. The gradient has the dtype of the
      logits.

      ======================================================== ========= ========================================
      case                                                     cost      gradient
      ======================================================== ========= ========================================
      U_b = 0                                                  blanks    as usual
      T_b = 0 and U_b = 0 (a filler row)                       0         0
      T_b = 0 and U_b > 0, or every path has a -inf arc        +inf      0
      NaN or +inf inside the lattice                           NaN       NaN, in that example's lattice only
      length or label out of range, label == blank             NaN       NaN, in that example only
      beyond T_b, U_b                                          not read  exactly 0
      ======================================================== ========= ========================================

    Raises:
      TypeError: if a dtype or the type of an option is wrong, or an option is traced.
      ValueError: if a rank or shape does not match, or an option is out of its range or unknown. Values of arrays are
        not known while tracing: :func:`check_inputs` checks those of concrete arrays.

    References:
      Graves, Sequence Transduction with Recurrent Neural Networks, 2012 (arXiv:1211.3711), equations 12-20.
      Laptev et al., Powerful and extensible WFST framework for RNN-transducer losses, 2023 (arXiv:2303.10384;
      W-transducer).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((2, 4, 3, 5))  # B = 2, T = 4, U = 2, V = 5
      >>> targets = jnp.array([[1, 2], [3, 0]])
      >>> lengths = jnp.array([4, 3]), jnp.array([2, 1])
      >>> [round(float(x), 3) for x in jax_rnnt.rnnt_loss(logits, targets, *lengths, blank=4, reduction="none")]
      [7.354, 5.339]
      >>> jax.grad(jax_rnnt.rnnt_loss)(logits, targets, *lengths).shape
      (2, 4, 3, 5)
    """
    loss = RNNTLoss(
        blank, clamp, reduction, fused_log_softmax, wildcard=wildcard, wildcard_weight=wildcard_weight, **options
    )
    return loss(logits, targets, logit_lengths, target_lengths, weights=weights)
