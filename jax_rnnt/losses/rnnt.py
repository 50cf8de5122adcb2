"""The RNN-T loss (Graves 2012)."""

import dataclasses

from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.core.loss import Logits, transducer_loss
from jax_rnnt.core.options import Options, Reduction, Wildcard
from jax_rnnt.core.topology import Topology
from jax_rnnt.ops.labels import RNNT_MOVES, resolve_column
from jax_rnnt.xla.primitive import Implementation


@dataclasses.dataclass(frozen=True)
class RnntOptions(Options):
    """The options of :func:`rnnt_loss`."""

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
    weights: ArrayLike | None = None,
    fastemit_lambda: float = 0.0,
    delay_penalty: float = 0.0,
    sigma: float = 0.0,
    wildcard: Wildcard = None,
    wildcard_weight: float = 0.0,
    zero_infinity: bool = False,
    implementation: Implementation = None,
    vocab_axis_name: str | None = None,
) -> Array:
    r"""The RNN transducer loss: minus the log-probability of the targets, summed over all alignments.

    .. math:: \mathrm{loss}_b = -\log \sum_{\pi} \prod_{(t,u) \to (t+1,u)} p(\varnothing | t, u)
                                \prod_{(t,u) \to (t,u+1)} p(y_{u+1} | t, u)

    over the paths :math:`\pi` from (0, 0) to :math:`(T_b, U_b)`. Names, order, defaults and meaning of the arguments
    are those of ``torchaudio.functional.rnnt_loss``, with fewer limits: lengths may all be shorter than T.

    Args:
      logits: ``[B, T, U+1, V]``, float16, bfloat16, float32 or float64: the joint network's output. In place
        of the array, a :class:`JointLogits`, :class:`PackedLogits`, :class:`PrunedLogits` or :class:`AdditiveLogits`.
      targets: ``[B, U]``, any integer type, labels in [0, V) that are not blank. Read up to U_b only.
      logit_lengths: ``[B]``, any integer type, the frames T_b of each utterance, in [0, T].
      target_lengths: ``[B]``, any integer type, the labels U_b of each utterance, in [0, U].
      blank: static index of the blank in the vocabulary, in [-V, V); negative numbers count from the end. The default
        is the last one, as in torchaudio; it is 0 in warp-rnnt and k2, and the last one in NeMo.
      clamp: if > 0, each element of the gradient of one utterance's cost is clipped to [-clamp, clamp], before it is
        multiplied by the incoming cotangent (so with "mean" the bound is ``clamp / B``). A clipped gradient is no
        derivative: with ``clamp`` there is no forward mode (``jax.jvp``). Differentiating the clipped gradient works;
        its Jacobian J is not symmetric, so forward over reverse gives ``J v`` and reverse over reverse ``J^T v``.
      reduction: "none" gives costs ``[B]``; "sum" their sum; "mean" their sum divided by B; "mean_volume" their sum
        divided by that of all U_b (0 where there are no labels).
      fused_log_softmax: whether the loss normalises ``logits`` over V. If False they must be log-probabilities; only
        the entries of blank and of the targets are read and have a gradient.
      weights: ``[B]``, a factor for the cost of each example. "mean" then divides by their sum, and "mean_volume" by
        the sum of ``weights * U_b`` (0, with derivatives of 0, where that sum is 0). An example of weight 0 counts for
        nothing, even where its cost is NaN. The derivative with respect to such a weight is that of any other weight,
        but 0 where the cost is NaN or +inf.
      fastemit_lambda: at least 0; FastEmit multiplies the gradient of the label arcs by ``1 + fastemit_lambda``, so
        that labels are emitted earlier. The cost is unchanged, as in warp-rnnt; NeMo multiplies it too. So the gradient
        is no derivative of the cost; forward mode agrees with the gradient.
      delay_penalty: the score of a label at frame t grows by ``delay_penalty * ((T_b - 1) / 2 - t)``, as in k2.
      sigma: logit under-normalisation: the score of every arc is lowered by this number. All paths of this loss have
        the same number of arcs, so it adds a constant to the cost and does not change the gradient. With a ``wildcard``
        it does: the scores of jumps and of passed frames are not lowered.
      wildcard: for transcripts that lack words; None, "ends" (W-transducer: words before the first and after the last
        label) or "anywhere" (words between any two labels). With "ends" a path may jump from (0, 0) to any frame before
        the first label, and from any frame behind the last label to the last frame; without labels only the first jump
        is there. With "anywhere" every frame may be passed in place of its blank.
      wildcard_weight: the score of such a jump, or of each frame passed. 0 costs nothing.
      zero_infinity: whether costs that are +inf or NaN count as 0 and have a gradient of 0. (In ``torch.nn.CTCLoss``
        this concerns +inf only.) :func:`check_inputs` finds the bad values that cause such costs.
      implementation: None chooses by platform (compiled kernels where they exist, otherwise the ``lax`` form); "native"
        requires the kernels; "scan" is the ``lax`` form.
      vocab_axis_name: the mesh axis over which the vocabulary is divided (a tensor-parallel joint network). Inside
        ``shard_map``, ``logits`` are this device's ``[B, T, U+1, V / devices]``; elsewhere they are whole, in a mesh
        set by ``jax.set_mesh``, and are divided along that axis. ``blank`` and ``targets`` are indices into the whole
        vocabulary. No device sees another device's logits; two sums of ``[B, T, U+1]`` cross the mesh. There is no
        forward mode and no second derivative.

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
      Graves, Sequence Transduction with Recurrent Neural Networks, 2012 (arXiv:1211.3711), equations 12-20. Yu et al.,
      FastEmit, 2021 (arXiv:2010.11148). Kang et al., Delay-penalized transducer, 2023 (arXiv:2211.00490).
      Xu et al., Multi-blank transducers, 2023 (arXiv:2211.03541; sigma). Laptev et al., Powerful and
      extensible WFST framework for RNN-transducer losses, 2023 (arXiv:2303.10384; W-transducer).

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
    options = RnntOptions(
        blank,
        clamp,
        reduction,
        fused_log_softmax,
        fastemit_lambda=fastemit_lambda,
        delay_penalty=delay_penalty,
        sigma=sigma,
        wildcard=wildcard,
        wildcard_weight=wildcard_weight,
        zero_infinity=zero_infinity,
        implementation=implementation,
        vocab_axis_name=vocab_axis_name,
    )
    return transducer_loss(logits, targets, logit_lengths, target_lengths, options, weights)
