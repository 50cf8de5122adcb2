"""The multi-blank RNN-T loss: blanks that take several frames (Xu 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Unpack

from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core.batch import Logits
from jax_rnnt.core.loss import LogSoftmaxLoss, LossOptions, Reduction
from jax_rnnt.core.topology import Topology
from jax_rnnt.ops.labels import resolve_column, resolve_columns


@dataclasses.dataclass(frozen=True)
class MultiblankRNNTLoss(LogSoftmaxLoss):
    """:func:`multiblank_rnnt_loss` with its options set before the call; see :class:`Loss`."""

    _: dataclasses.KW_ONLY
    big_blanks: Sequence[int]
    durations: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("big_blanks", checks.static_integers("big_blanks", self.big_blanks))
        durations = checks.static_integers("durations", self.durations)
        if any(d < 1 for d in durations):
            raise ValueError(f"`durations` must be at least 1, got {durations}.")
        if len(durations) != len(self.big_blanks):
            raise ValueError(
                f"`durations` must hold one number for each of the {len(self.big_blanks)} `big_blanks`, "
                f"got {len(durations)}."
            )
        self._set("durations", durations)

    def topology(self, width: int) -> Topology:
        column = resolve_column(self.blank, width, "blank")
        blanks = (column, *resolve_columns(self.big_blanks, width, "big_blanks"))
        if len(set(blanks)) != len(blanks):
            raise ValueError(
                f"`blank` and `big_blanks` must be different entries, got the columns {blanks[0]} and {blanks[1:]}."
            )
        moves = ((1, 0), *((d, 0) for d in self.durations), (0, 1))
        return Topology(blanks, self.window(width), moves, width, blanks)


def multiblank_rnnt_loss(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = -1,
    clamp: float = -1.0,
    reduction: Reduction = "mean",
    fused_log_softmax: bool = True,
    *,
    big_blanks: Sequence[int],
    durations: Sequence[int],
    weights: ArrayLike | None = None,
    **options: Unpack[LossOptions],
) -> Array:
    r"""The multi-blank RNN transducer loss: besides the blank there are big blanks, and each takes several frames.

    .. math:: \mathrm{loss}_b = -\log \sum_{\pi} \prod_{(t,u) \to (t+1,u)} p(\varnothing | t, u)
                                \prod_{(t,u) \to (t+d_i,u)} p(\varnothing_i | t, u)
                                \prod_{(t,u) \to (t,u+1)} p(y_{u+1} | t, u)

    over the paths :math:`\pi` from (0, 0) that land exactly on :math:`(T_b, U_b)`. There is no ``wildcard``, because a
    wildcard stands beside a single blank.

    Args:
      logits: ``[B, T, U+1, V]``, as in :func:`rnnt_loss`; V counts the big blanks.
      targets: ``[B, U]``, as in :func:`rnnt_loss`; none of them may be a blank or a big blank.
      logit_lengths: ``[B]``, the frames T_b.
      target_lengths: ``[B]``, the labels U_b.
      blank: as in :func:`rnnt_loss`. The default is the last entry, as in NeMo.
      big_blanks: static vocabulary entries of the big blanks, each in [-V, V). NeMo's are the entries before the last
        one, counted backwards: ``big_blanks=(-2, -3, -4)`` with ``durations=(2, 4, 8)`` is its
        ``big_blank_durations=[2, 4, 8]``.
      durations: the frames that each of ``big_blanks`` takes, at least 1.
      clamp, reduction, fused_log_softmax, weights: as in :func:`rnnt_loss`.
      **options: as in :func:`rnnt_loss`. The paper trains with ``sigma=0.05``.

    Returns:
      As :func:`rnnt_loss`, with its table of corner cases.

    Raises:
      TypeError, ValueError: as :func:`rnnt_loss`; ValueError also if there are not as many ``durations`` as
        ``big_blanks``, if a duration is below 1, or if a blank is named twice.

    References:
      Xu et al., Multi-blank transducers for speech recognition, 2023 (arXiv:2211.03541).

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((1, 2, 1, 4))  # T = 2, U = 0, V = 4: two blanks, or one that takes two frames
      >>> targets, lengths = jnp.zeros((1, 0), int), (jnp.array([2]), jnp.array([0]))
      >>> loss = jax_rnnt.multiblank_rnnt_loss(logits, targets, *lengths, big_blanks=(-2,), durations=(2,))
      >>> jnp.exp(-loss)  # 1/16 + 1/4
      Array(0.3125, dtype=float32)
    """
    loss = MultiblankRNNTLoss(
        blank, clamp, reduction, fused_log_softmax, big_blanks=big_blanks, durations=durations, **options
    )
    return loss(logits, targets, logit_lengths, target_lengths, weights=weights)
