"""The RNN-T loss: arcs, then lattice, then a reduction."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.core import batch, vocabulary
from jax_rnnt.core.batch import Reduction
from jax_rnnt.core.node_labels import node_labels
from jax_rnnt.ops import arcs, lattice
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import RNNT_MOVES, resolve_column
from jax_rnnt.xla.primitive import Implementation
from jax_rnnt.xla.refusals import no_forward_mode


def rnnt_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = -1,
    clamp: float = -1.0,
    reduction: Reduction = "mean",
    fused_log_softmax: bool = True,
    *,
    implementation: Implementation = None,
    vocab_axis_name: str | None = None,
) -> Array:
    r"""The RNN transducer loss: minus the log-probability of the targets, summed over all alignments.

    .. math:: \mathrm{loss}_b = -\log \sum_{\pi} \prod_{(t,u) \to (t+1,u)} p(\varnothing | t, u)
                                \prod_{(t,u) \to (t,u+1)} p(y_{u+1} | t, u)

    over the paths :math:`\pi` from (0, 0) to :math:`(T_b, U_b)`. Names, order, defaults and meaning of the arguments
    are those of ``torchaudio.functional.rnnt_loss``, with fewer limits: lengths may all be shorter than T.

    Args:
      logits: ``[B, T, U+1, V]``, float16, bfloat16, float32 or float64: the joint network's output.
      targets: ``[B, U]``, any integer type, labels in [0, V) that are not blank. Read up to U_b only.
      logit_lengths: ``[B]``, any integer type, the frames T_b of each utterance, in [0, T].
      target_lengths: ``[B]``, any integer type, the labels U_b of each utterance, in [0, U].
      blank: static index of the blank in the vocabulary, in [-V, V); negative numbers count from the end.
      clamp: if > 0, each element of the gradient of one utterance's cost is clipped to [-clamp, clamp], before it is
        multiplied by the incoming cotangent (so with "mean" the bound is ``clamp / B``). A clipped gradient is no
        derivative: with ``clamp`` there is no forward mode (``jax.jvp``). Differentiating the clipped gradient works;
        its Jacobian J is not symmetric, so forward over reverse gives ``J v`` and reverse over reverse ``J^T v``.
      reduction: "none" gives costs ``[B]``; "sum" their sum; "mean" their sum divided by B.
      fused_log_softmax: whether the loss normalises ``logits`` over V. If False they must be log-probabilities; only
        the entries of blank and of the targets are read and have a gradient.
      implementation: None chooses by platform (compiled kernels where there are any, else the ``lax`` form); "native"
        insists on the kernels; "scan" is the ``lax`` form.
      vocab_axis_name: the mesh axis over which the vocabulary is divided (a tensor-parallel joint network). Inside
        ``shard_map``, ``logits`` are this device's ``[B, T, U+1, V / devices]``; elsewhere they are whole, in a mesh
        set by ``jax.set_mesh``, and are divided along that axis. ``blank`` and ``targets`` count in the whole one.
        No device sees another's logits; two sums of ``[B, T, U+1]`` cross the mesh. There is no forward
        mode and no second order.

    Returns:
      float32, float64 for float64 logits: a scalar, or ``[B]`` for "none". The gradient has the dtype of ``logits``.

      ======================================================== ========= ========================================
      case                                                     cost      gradient
      ======================================================== ========= ========================================
      U_b = 0                                                  T_b blanks as usual
      T_b = 0 and U_b = 0 (a filler row)                       0         0
      T_b = 0 and U_b > 0, or every path has a -inf arc        +inf      0
      NaN or +inf inside the lattice                           NaN       NaN, in that example's lattice only
      length or label out of range, label == blank             NaN       NaN, in that example only
      beyond T_b, U_b                                          not read  exactly 0
      ======================================================== ========= ========================================

    Raises:
      TypeError: if a dtype or the type of an option is wrong, or an option is traced.
      ValueError: if a rank or shape does not match, ``clamp`` is NaN, ``blank`` is out of range, or ``reduction`` or
        ``implementation`` is unknown.
      Values of arrays are not known while tracing; :func:`check_inputs` checks those of concrete ones.

    References:
      Graves, Sequence Transduction with Recurrent Neural Networks, 2012 (arXiv:1211.3711), equations 12-20.

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
    batch.check_options(blank, clamp, reduction, fused_log_softmax, implementation)
    logits, targets, t_b, u_b = batch.checked_arrays(logits, targets, logit_lengths, target_lengths)
    if vocab_axis_name is not None and vocabulary.is_undivided(vocab_axis_name):
        vocab_axis_name = None
    if vocab_axis_name is not None and not vocabulary.is_bound(vocab_axis_name):
        part = RNNTLoss(
            blank, clamp, reduction, fused_log_softmax, implementation=implementation, vocab_axis_name=vocab_axis_name
        )
        return vocabulary.over_mesh(part, vocab_axis_name)(logits, targets, t_b, u_b)
    parts = 1 if vocab_axis_name is None else jax.lax.psum(1, vocab_axis_name)
    size = logits.shape[-1] * parts
    column = resolve_column(blank, size, "blank")
    nodes = node_labels(targets, t_b, u_b, (*logits.shape[:-1], size), blanks=(column,))
    parameters = ArcParameters((column,), size, bool(fused_log_softmax), implementation)
    if vocab_axis_name is not None:
        costs = vocabulary.divided_costs(logits, *nodes, parameters, float(clamp), vocab_axis_name)
    elif clamp > 0:
        costs = _clamped_costs(no_forward_mode(logits, "clamp"), *nodes, parameters, float(clamp))
    else:
        costs = _costs(logits, *nodes, parameters)
    if reduction == "none":
        return costs
    total = jnp.sum(costs)
    # max(B, 1): the mean over an empty batch is 0, as a batch of filler rows has it, and not 0 / 0.
    return total if reduction == "sum" else total / max(costs.shape[0], 1)


def _costs(logits: Array, labels: Array, t_b: Array, u_b: Array, parameters: ArcParameters) -> Array:
    log_probs, _ = arcs.forward(logits, labels, **parameters.asdict())
    return lattice.costs(log_probs, t_b, u_b, moves=RNNT_MOVES, implementation=parameters.implementation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _clamped_costs(logits, labels, t_b, u_b, parameters: ArcParameters, clamp: float):
    return _costs(logits, labels, t_b, u_b, parameters)


def _clamped_fwd(logits, labels, t_b, u_b, parameters: ArcParameters, clamp: float):
    log_probs, log_norm = arcs.forward(logits, labels, **parameters.asdict())
    costs, posterior = lattice.posteriors(
        log_probs, t_b, u_b, moves=RNNT_MOVES, implementation=parameters.implementation
    )
    return costs, (logits, labels, log_norm, posterior)


def _clamped_bwd(parameters: ArcParameters, clamp: float, residuals, cotangent):
    logits, labels, log_norm, posterior = residuals
    # Clipping the unit gradient to clamp and scaling it by ct is clipping the scaled gradient to clamp * |ct|.
    bound = jnp.broadcast_to(clamp * jnp.abs(cotangent)[:, None, None], log_norm.shape)
    arc_cotangent = jnp.where(cotangent[:, None, None, None] == 0, 0, -posterior * cotangent[:, None, None, None])
    (grad,) = arcs.backward(logits, labels, log_norm, arc_cotangent, bound, clipped=True, **parameters.asdict())
    return grad, None, None, None


_clamped_costs.defvjp(_clamped_fwd, _clamped_bwd)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RNNTLoss:
    """:func:`rnnt_loss` with its options set beforehand: a static value, for fields of Flax modules and jit arguments.

    It holds no parameters, so it is no ``nn.Module``. Options mean what they mean in :func:`rnnt_loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> loss = jax_rnnt.RNNTLoss(blank=0, reduction="sum")
      >>> loss(jnp.zeros((1, 2, 2, 4)), jnp.array([[3]]), jnp.array([2]), jnp.array([1])).round(4)
      Array(3.4657, dtype=float32)
    """

    blank: int = -1
    clamp: float = -1.0
    reduction: Reduction = "mean"
    fused_log_softmax: bool = True
    _: dataclasses.KW_ONLY
    implementation: Implementation = None
    vocab_axis_name: str | None = None

    def __post_init__(self) -> None:
        batch.check_options(self.blank, self.clamp, self.reduction, self.fused_log_softmax, self.implementation)

    def __call__(
        self, logits: ArrayLike, targets: ArrayLike, logit_lengths: ArrayLike, target_lengths: ArrayLike
    ) -> Array:
        """The loss of ``logits [B, T, U+1, V]`` and ``targets [B, U]``; see :func:`rnnt_loss`."""
        return rnnt_loss(
            logits,
            targets,
            logit_lengths,
            target_lengths,
            self.blank,
            self.clamp,
            self.reduction,
            self.fused_log_softmax,
            implementation=self.implementation,
            vocab_axis_name=self.vocab_axis_name,
        )
