"""The monotonic RNN-T loss: at most one label per frame (Tripathi 2019)."""

from __future__ import annotations

import dataclasses
from typing import Unpack

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt.core.batch import Logits
from jax_rnnt.core.loss import LogSoftmaxLoss, LossOptions, Reduction, Wildcard, WildcardLoss
from jax_rnnt.core.topology import Topology
from jax_rnnt.ops.labels import Moves, resolve_column

MONOTONIC_MOVES: Moves = ((1, 0), (1, 1))
"""The moves of the monotonic RNN-T: blank takes (t, u) to (t + 1, u), a label takes it to (t + 1, u + 1)."""


@dataclasses.dataclass(frozen=True)
class LastFrameIsBlank:
    """Closes the arc of the label at the last frame."""

    def __call__(self, entries: Array, t_b: Array, u_b: Array) -> Array:
        t = lax.broadcasted_iota(jnp.int32, entries.shape, 1)
        arc = lax.broadcasted_iota(jnp.int32, entries.shape, 3)
        return jnp.where((arc == 1) & (t == t_b[:, None, None, None] - 1), -jnp.inf, entries)


@dataclasses.dataclass(frozen=True)
class MonotonicRNNTLoss(LogSoftmaxLoss, WildcardLoss):
    """:func:`monotonic_rnnt_loss` with its options set before the call; see :class:`Loss`."""

    _: dataclasses.KW_ONLY
    last_blank: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_booleans("last_blank")

    def topology(self, width: int) -> Topology:
        column = resolve_column(self.blank, width, "blank")
        scores = LastFrameIsBlank() if self.last_blank else None
        return Topology(
            (column,), self.window(width), MONOTONIC_MOVES, width, (column,), scores, ends_with_blank=self.last_blank
        )


def monotonic_rnnt_loss(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = -1,
    clamp: float = -1.0,
    reduction: Reduction = "mean",
    fused_log_softmax: bool = True,
    *,
    last_blank: bool = False,
    wildcard: Wildcard = None,
    wildcard_weight: float = 0.0,
    weights: ArrayLike | None = None,
    **options: Unpack[LossOptions],
) -> Array:
    r"""The monotonic RNN transducer loss: a label takes one frame, as a blank does.

    .. math:: \mathrm{loss}_b = -\log \sum_{\pi} \prod_{(t,u) \to (t+1,u)} p(\varnothing | t, u)
                                \prod_{(t,u) \to (t+1,u+1)} p(y_{u+1} | t, u)

    over the paths :math:`\pi` from (0, 0) to :math:`(T_b, U_b)`. It is k2's ``rnnt_type="modified"``.

    Args:
      logits: ``[B, T, U+1, V]``, as in :func:`rnnt_loss`.
      targets: ``[B, U]``, as in :func:`rnnt_loss`.
      logit_lengths: ``[B]``, the frames T_b. U_b of them emit a label, so U_b > T_b has no path: its cost is +inf.
      target_lengths: ``[B]``, the labels U_b.
      blank: as in :func:`rnnt_loss`. The default is the last entry; in k2 and optimized_transducer it is 0.
      last_blank: whether the last frame must be a blank, as in optimized_transducer. In k2 it may emit the last label.
      clamp, reduction, fused_log_softmax, wildcard, wildcard_weight, weights: as in :func:`rnnt_loss`.
      **options: as in :func:`rnnt_loss`.

    Returns:
      As :func:`rnnt_loss`, with its table of corner cases.

    Raises:
      TypeError, ValueError: as :func:`rnnt_loss`.

    References:
      Tripathi et al., Monotonic recurrent neural network transducer and decoding strategies, 2019.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((1, 3, 2, 4))  # B = 1, T = 3, U = 1, V = 4: three paths of three arcs
      >>> lengths = jnp.array([3]), jnp.array([1])
      >>> loss = jax_rnnt.monotonic_rnnt_loss(logits, jnp.array([[2]]), *lengths, blank=0)
      >>> round(float(loss), 4)  # 3 log 4 - log 3
      3.0603
    """
    loss = MonotonicRNNTLoss(
        blank,
        clamp,
        reduction,
        fused_log_softmax,
        last_blank=last_blank,
        wildcard=wildcard,
        wildcard_weight=wildcard_weight,
        **options,
    )
    return loss(logits, targets, logit_lengths, target_lengths, weights=weights)
