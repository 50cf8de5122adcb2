"""Losses that compare two models node by node: a student with its teacher, or two views of one utterance."""

from __future__ import annotations

from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.core.batch import Logits
from jax_rnnt.core.loss import Loss, Reduction
from jax_rnnt.core.two_models import NodeReduction, TwoModels


def distillation_loss(
    loss: Loss,
    student: Logits,
    teacher: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    *,
    node_weights: ArrayLike | None = None,
    temperature: float = 1.0,
    collapsed: bool = False,
    node_reduction: NodeReduction = "mean",
    reduction: Reduction = "mean",
    weights: ArrayLike | None = None,
) -> Array:
    r"""How far a student is from its teacher at the nodes of the lattice: the divergence of their rows of logits.

    .. math:: D_b = \frac{\tau^2}{\sum_{t,u} w_{b,t,u}} \sum_{t,u} w_{b,t,u} \,
                    KL\big(p^{\mathrm{teacher}}_{b,t,u} \,\|\, p^{\mathrm{student}}_{b,t,u}\big), \qquad
              p_{b,t,u} = \mathrm{softmax}(x_{b,t,u} / \tau)

    over the nodes t < T_b, u <= U_b. The teacher is a constant: no gradient reaches it. Add the result, times a factor
    of your choice, to the loss of the student.

    Both rows are made in tiles, and again in the backward pass. With :class:`JointLogits` on both sides no array of the
    size of the logits exists. In float32 the error of a divergence is at most 2e-5 of itself, however near the two
    models are, and no divergence is negative.

    Args:
      loss: the loss that the rows are for, such as ``TDTLoss(blank=0)``. It says which distributions a row holds.
        The divergences of TDT's tokens and durations are added. HAT's is that of the blank, plus that of the labels
        times the teacher's probability of a label. Options that do not concern the distributions have no effect,
        ``reduction`` included. ``vocab_axis_name`` is refused.
      student: ``[B, T, U+1, W]``, an array or another form of logits, as in :func:`rnnt_loss`. The
        ``gradient_budget`` of :class:`JointLogits` bounds the share of this loss's gradient that is left out.
      teacher: the same shape; its form and dtype may be others.
      targets, logit_lengths, target_lengths: ``[B, U]``, ``[B]`` and ``[B]``, as in :func:`rnnt_loss`. They say which
        nodes there are. ``targets`` are also the labels of ``collapsed``.
      node_weights: ``[B, T, U+1]``, any dtype, at least 0, without a gradient; None: 1. **A node of weight 0 is not
        read and costs nothing**, forward and backward.
      temperature: static, tau, above 0.
      collapsed: whether only the blanks, the label of the node and the sum of all other classes are compared.
      node_reduction: "mean", as above, or "sum", without the divisor. With the teacher's occupancies as weights, the
        sum is the expected divergence along a path of the teacher.
      reduction, weights: as in :func:`rnnt_loss`, for the D_b of the utterances.

    Returns:
      A scalar, or ``[B]`` for "none": float64 if one side is, else float32. The gradient has the dtype of the student.

      ========================================================== ============ ========================================
      case                                                       D_b          gradient
      ========================================================== ============ ========================================
      no node, or all weights are 0                              0            0
      both rows have -inf in an entry                            finite       0 in that entry
      the teacher has -inf in an entry                           finite       finite
      the student has -inf where the teacher's probability > 0   +inf         finite
      a distribution of the teacher has nothing but -inf         it counts 0  0
      NaN or +inf in one of two rows                             NaN          NaN in that row only
      length or label out of range, label == blank               NaN          NaN, in that example only
      weight 0, or beyond T_b, U_b                               not read     exactly 0
      a node that one side lacks (:class:`PrunedLogits`)         not read     exactly 0
      ========================================================== ============ ========================================

      There is no forward mode and no second derivative. ``vmap`` runs the elements of the mapped axis one after
      another.

    Raises:
      TypeError, ValueError: as :func:`rnnt_loss`; ValueError also if the shapes of the two models differ, for
        ``temperature`` and ``node_reduction`` out of range, and for logits of which no device has whole rows.

    References:
      Hinton et al., Distilling the knowledge in a neural network, 2015 (arXiv:1503.02531). Panchapagesan et al.,
      Efficient knowledge distillation for RNN-transducer models, 2020 (arXiv:2011.06110; ``collapsed``).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> teacher = jnp.zeros((1, 3, 2, 2)).at[..., 0].set(1.0986)  # at each node 3/4 and 1/4; the student 1/2 and 1/2
      >>> batch = jnp.array([[1]]), jnp.array([3]), jnp.array([1])
      >>> loss = jax_rnnt.RNNTLoss(blank=0)
      >>> round(float(jax_rnnt.distillation_loss(loss, jnp.zeros((1, 3, 2, 2)), teacher, *batch)), 4)
      0.1308
      >>> round(float(0.75 * jnp.log(0.75 / 0.5) + 0.25 * jnp.log(0.25 / 0.5)), 4)
      0.1308
    """
    static = TwoModels(
        "distillation_loss", ("student", "teacher"), False, loss, temperature, collapsed, node_reduction, reduction
    )
    return static(student, teacher, targets, logit_lengths, target_lengths, node_weights, weights)


def consistency_loss(
    loss: Loss,
    first: Logits,
    second: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    *,
    node_weights: ArrayLike | None = None,
    collapsed: bool = False,
    node_reduction: NodeReduction = "mean",
    reduction: Reduction = "mean",
    weights: ArrayLike | None = None,
) -> Array:
    r"""How far two views of an utterance are apart; each of them learns, with the other one as a constant target.

    The views are the outputs of one model for two masks of the features or two draws of dropout, or for the whole
    utterance and for a stream of it. The result is half the sum of two :func:`distillation_loss` at temperature 1: with
    ``first`` as the student of ``second``, and the other way round. It makes the rows of both views once.

    Args:
      loss: as in :func:`distillation_loss`.
      first, second: ``[B, T, U+1, W]`` both, as ``student`` and ``teacher`` of :func:`distillation_loss`. A node is
        left out for a ``gradient_budget`` only if both sides have one that allows it.
      targets, logit_lengths, target_lengths, node_weights, collapsed, node_reduction, reduction, weights: as in
        :func:`distillation_loss`.

    Returns:
      As :func:`distillation_loss`, whose table of cases holds in both directions.

    Raises:
      TypeError, ValueError: as :func:`distillation_loss`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> views = 0.1 * jax.random.normal(jax.random.key(0), (2, 1, 3, 2, 5))
      >>> batch = jnp.array([[1]]), jnp.array([3]), jnp.array([1])
      >>> step = jax.value_and_grad(lambda x: jax_rnnt.consistency_loss(jax_rnnt.RNNTLoss(blank=0), *x, *batch))
      >>> value, (of_first, of_second) = step(tuple(views))
      >>> bool(value > 0), bool(jnp.allclose(of_first, -of_second))
      (True, True)
    """
    static = TwoModels("consistency_loss", ("first", "second"), True, loss, 1.0, collapsed, node_reduction, reduction)
    return static(first, second, targets, logit_lengths, target_lengths, node_weights, weights)
