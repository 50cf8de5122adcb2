"""The hybrid autoregressive transducer, HAT (Variani 2020). Its blank is not part of the softmax over labels."""

from __future__ import annotations

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core.batch import Logits
from jax_rnnt.core.distributions import Distributions
from jax_rnnt.core.loss import LossOptions, Reduction, Wildcard, WildcardLoss
from jax_rnnt.core.topology import Topology
from jax_rnnt.ops import arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import NO_LABEL, RNNT_MOVES, resolve_column
from jax_rnnt.ops.masking import finite_sum


@dataclasses.dataclass(frozen=True)
class HatScores:
    """Computes the scores of both arcs from the blank's logit and the label's log-probability among the labels."""

    def __call__(self, entries: Array, t_b: Array, u_b: Array) -> Array:
        blank, label = entries[..., 0], entries[..., 1]
        # log(1 - sigmoid(x)) is log_sigmoid(-x), which is exact where 1 - sigmoid(x) would be 0.
        return jnp.stack([jax.nn.log_sigmoid(blank), finite_sum(jax.nn.log_sigmoid(-blank), label)], axis=-1)


def _label_window(blank: int, width: int) -> tuple[int, tuple[int, int]]:
    """The blank's column, and the labels' entries."""
    column = resolve_column(blank, width, "blank")
    if column not in (0, width - 1):
        raise ValueError(
            "`blank` of HAT must be the first or the last entry of the vocabulary, so that the labels are neighbours: "
            f"0 or {width - 1} for {width} entries, got {blank}."
        )
    return column, (1, width) if column == 0 else (0, width - 1)


@dataclasses.dataclass(frozen=True)
class HATLoss(WildcardLoss):
    """:func:`hat_loss` with its options set before the call; see :class:`Loss`."""

    def topology(self, width: int) -> Topology:
        column, window = _label_window(self.blank, width)
        return Topology((column,), window, RNNT_MOVES, width, (column,), HatScores())

    def distributions(self, width: int) -> Distributions:
        column, window = _label_window(self.blank, width)
        return Distributions((window,), gate=column)

    def internal_lm_scores(self, logits: ArrayLike, targets: ArrayLike, target_lengths: ArrayLike) -> Array:
        r"""The log-probability of each label under HAT's internal language model.

        .. math:: \log \frac{e^{x_{u,y_{u+1}}}}{\sum_{v \ne \varnothing} e^{x_{u,v}}}

        The internal language model is the joint network without its encoder: ``logits`` are the joint's outputs for the
        predictor's outputs, with the encoder's output set to 0. Decoders subtract these scores when they add another
        language model.

        Args:
          logits: ``[B, U+1, V]``, float16, bfloat16, float32 or float64.
          targets: ``[B, U]``, any integer type, labels in [0, V) that are not blank. Read up to U_b only.
          target_lengths: ``[B]``, any integer type, the labels U_b of each utterance, in [0, U].

        Returns:
          ``[B, U]``, float32 (float64 for float64 logits): 0 beyond U_b, NaN throughout an example whose labels or
          length are out of range. It can be differentiated.

        Raises:
          TypeError, ValueError: as :func:`hat_loss`.

        References:
          Variani et al., Hybrid autoregressive transducer (HAT), 2020 (arXiv:2003.07705).

        Example:
          >>> import jax.numpy as jnp
          >>> import jax_rnnt
          >>> scores = jax_rnnt.HATLoss().internal_lm_scores(jnp.zeros((1, 3, 5)), jnp.array([[1, 0]]), jnp.array([1]))
          >>> jnp.exp(scores)
          Array([[0.25, 1.  ]], dtype=float32)
        """
        x = checks.as_array("logits", logits)
        labels, u_b = checks.as_integers("targets", targets), checks.as_integers("target_lengths", target_lengths)
        checks.floating("logits", x)
        checks.rank("logits", x, "B, U+1, V")
        b, u1, v = x.shape
        checks.integer("targets", labels)
        checks.shape("targets", labels, (b, u1 - 1), f"[B, U] for logits [B, U+1, V] = {x.shape}")
        checks.integer("target_lengths", u_b)
        checks.shape("target_lengths", u_b, (b,), "[B]")
        column, window = _label_window(self.blank, v)
        labels, u_b = checks.to_int32(labels), checks.to_int32(u_b)
        used = jnp.arange(u1 - 1, dtype=jnp.int32)[None] < u_b[:, None]
        wrong = used & ((labels < 0) | (labels >= v) | (labels == column))
        invalid = (u_b < 0) | (u_b >= u1) | jnp.any(wrong, axis=1)
        padded = jnp.pad(jnp.where(used & ~wrong, labels, NO_LABEL), ((0, 0), (0, 1)), constant_values=NO_LABEL)
        entries, _ = arcs.forward(x, padded, **ArcParameters((), v, window, self.implementation).asdict())
        scores = jnp.where(used, entries[:, :-1, 0], 0)
        return jnp.where(invalid[:, None], jnp.nan, scores)


def hat_loss(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = -1,
    clamp: float = -1.0,
    reduction: Reduction = "mean",
    *,
    wildcard: Wildcard = None,
    wildcard_weight: float = 0.0,
    weights: ArrayLike | None = None,
    **options: Unpack[LossOptions],
) -> Array:
    r"""The loss of the hybrid autoregressive transducer: it decides first whether to emit a label, then which label.

    .. math:: p(\varnothing | t, u) = \sigma(x_{t,u,\varnothing}), \qquad
              p(y | t, u) = (1 - \sigma(x_{t,u,\varnothing}))
                            \frac{e^{x_{t,u,y}}}{\sum_{v \ne \varnothing} e^{x_{t,u,v}}}

    The sum runs over the paths of :func:`rnnt_loss`. There is no ``fused_log_softmax``, because the two normalisations
    define the loss.

    Args:
      logits: ``[B, T, U+1, V]``, as in :func:`rnnt_loss`.
      targets: ``[B, U]``, as in :func:`rnnt_loss`.
      logit_lengths: ``[B]``, the frames T_b.
      target_lengths: ``[B]``, the labels U_b.
      blank: the blank, the first or the last entry of the vocabulary. The default is the last one; it is 0 in k2.
      clamp, reduction, wildcard, wildcard_weight, weights: as in :func:`rnnt_loss`.
      **options: as in :func:`rnnt_loss`.

    Returns:
      As :func:`rnnt_loss`, with its table of corner cases.

    Raises:
      TypeError, ValueError: as :func:`rnnt_loss`; ValueError also if ``blank`` is neither the first nor the last entry.

    References:
      Variani et al., Hybrid autoregressive transducer (HAT), 2020 (arXiv:2003.07705).

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((1, 1, 2, 5))  # T = 1, U = 1: a label (1/2 * 1/4), then blank (1/2)
      >>> jnp.exp(-jax_rnnt.hat_loss(logits, jnp.array([[2]]), jnp.array([1]), jnp.array([1])))
      Array(0.0625, dtype=float32)
    """
    loss = HATLoss(blank, clamp, reduction, wildcard=wildcard, wildcard_weight=wildcard_weight, **options)
    return loss(logits, targets, logit_lengths, target_lengths, weights=weights)
