"""Losses that compare two models node by node: a student with its teacher, or two views of one utterance."""

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
    return TwoModels(
        "distillation_loss", ("student", "teacher"), False, loss, temperature, collapsed, node_reduction, reduction
    )(student, teacher, targets, logit_lengths, target_lengths, node_weights, weights)


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
    return TwoModels("consistency_loss", ("first", "second"), True, loss, 1.0, collapsed, node_reduction, reduction)(
        first, second, targets, logit_lengths, target_lengths, node_weights, weights
    )
