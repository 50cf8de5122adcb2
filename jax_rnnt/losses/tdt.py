"""The token-and-duration transducer, TDT (Xu 2023): the model also predicts how many frames each token takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core.arc_scores import Scheduled
from jax_rnnt.core.batch import Logits
from jax_rnnt.core.distributions import Distributions
from jax_rnnt.core.loss import LogSoftmaxLoss, Loss, LossOptions, Reduction
from jax_rnnt.core.topology import Topology
from jax_rnnt.losses.rnnt import RNNTLoss
from jax_rnnt.ops.labels import resolve_column
from jax_rnnt.ops.masking import finite_sum


@dataclasses.dataclass(frozen=True)
class TdtScores:
    """From the entries (blank, durations, label) to arcs: a blank with each duration above 0, a label with each."""

    durations: tuple[int, ...]
    normalize: bool

    def __call__(self, entries: Array, t_b: Array, u_b: Array) -> Array:
        blank, label = entries[..., :1], entries[..., -1:]
        durations = entries[..., 1:-1]
        if self.normalize:
            durations = _log_softmax(durations)
        blank_durations = jnp.concatenate(
            [durations[..., k : k + 1] for k, d in enumerate(self.durations) if d > 0], axis=-1
        )
        label_arcs = finite_sum(label, durations)
        # A path ends with a blank: no label leads to the end.
        t = lax.broadcasted_iota(jnp.int32, label_arcs.shape, 1)
        lands = t + jnp.array(self.durations, jnp.int32)[None, None, None]
        label_arcs = jnp.where(lands < t_b[:, None, None, None], label_arcs, -jnp.inf)
        return jnp.concatenate([finite_sum(blank, blank_durations), label_arcs], axis=-1)

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        return *((d, 0) for d in self.durations if d > 0), *((d, 1) for d in self.durations)


def _log_softmax(x: Array) -> Array:
    """``jax.nn.log_softmax`` over the last axis, but a row of -inf stays -inf, and a small result keeps its digits."""
    top = lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    shifted = finite_sum(x, -jnp.where(top == -jnp.inf, 0, top))
    # Of the first maximum, exp(0) - 1: nothing, but its derivative is that of exp.
    entry = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    first = jnp.min(jnp.where(x == top, entry, x.shape[-1]), axis=-1, keepdims=True)
    others = jnp.where((entry == first) & (top > -jnp.inf), jnp.expm1(shifted), jnp.exp(shifted))
    return shifted - jnp.log1p(jnp.sum(others, axis=-1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class TDTLoss(LogSoftmaxLoss):
    """:func:`tdt_loss` with its options set before the call; see :class:`Loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> loss = jax_rnnt.TDTLoss(durations=(0, 1, 2), sigma=0.05)
      >>> logits = jnp.zeros((1, 3, 2, 4 + 3))  # B = 1, T = 3, U = 1, V = 4 tokens, D = 3 durations
      >>> round(float(loss(logits, jnp.array([[0]]), jnp.array([3]), jnp.array([1]))), 4)
      4.1557
    """

    _: dataclasses.KW_ONLY
    durations: Sequence[int] = (0, 1, 2, 3, 4)
    omega: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        durations = checks.static_integers("durations", self.durations)
        if any(d < 0 for d in durations) or len(set(durations)) != len(durations) or not any(durations):
            raise ValueError(
                f"`durations` must be different numbers of at least 0, one of them above 0, got {durations}."
            )
        self._set("durations", durations)
        self._check_numbers("omega")
        if not 0 <= self.omega <= 1:
            raise ValueError(f"`omega` must be a probability, in [0, 1], got {self.omega}.")

    def topology(self, width: int) -> Topology:
        vocabulary = _tokens(width, len(self.durations))
        column = resolve_column(self.blank, vocabulary, "blank")
        scores = TdtScores(tuple(self.durations), self.fused_log_softmax)
        columns = (column, *range(vocabulary, width))
        return Topology(
            columns, self.window(vocabulary), scores.moves, vocabulary, (column,), scores, ends_with_blank=True
        )

    def distributions(self, width: int) -> Distributions:
        vocabulary = _tokens(width, len(self.durations))
        return Distributions(((0, vocabulary), (vocabulary, width)))

    def of_tokens(self) -> Loss:
        """The RNN-T loss of the token part of the same rows, with the same options except ``sigma``, as in NeMo."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(LogSoftmaxLoss)}
        return _TokenLoss(**(shared | {"sigma": 0.0}), num_durations=len(self.durations))

    def _costs(self, *batch: Any, key: Array | None) -> Array:
        if self.omega == 0:
            return super()._costs(*batch, key=key)
        if key is None:
            raise ValueError(f"`key` must be a JAX random key where `omega` is above 0 (omega={self.omega}), got None.")
        checks.random_key("key", key)

        def token_costs(source: Any, targets: Array, t_b: Array, u_b: Array, scheduled: Scheduled) -> Array:
            without_sigma = {name: x for name, x in scheduled.items() if name != "sigma"}
            return self.of_tokens()._costs(source, targets, t_b, u_b, without_sigma, key=None)

        tdt_costs = functools.partial(dataclasses.replace(self, omega=0.0)._costs, key=None)
        return jax.lax.cond(jax.random.bernoulli(key, self.omega), token_costs, tdt_costs, *batch)


@dataclasses.dataclass(frozen=True)
class _TokenLoss(RNNTLoss):
    """RNN-T on the tokens of rows of tokens and durations."""

    _: dataclasses.KW_ONLY
    num_durations: int

    def topology(self, width: int) -> Topology:
        return super().topology(_tokens(width, self.num_durations))


def _tokens(width: int, num_durations: int) -> int:
    if width <= num_durations:
        raise ValueError(
            f"`logits` must have V + D entries, at least one token and {num_durations} `durations`, got {width}."
        )
    return width - num_durations


def tdt_loss(
    logits: Logits,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = -1,
    clamp: float = -1.0,
    reduction: Reduction = "mean",
    fused_log_softmax: bool = True,
    *,
    durations: Sequence[int] = (0, 1, 2, 3, 4),
    omega: float = 0.0,
    weights: ArrayLike | None = None,
    key: Array | None = None,
    **options: Unpack[LossOptions],
) -> Array:
    r"""The token-and-duration transducer loss: a token and the number of frames that it takes are predicted together.

    .. math:: \mathrm{loss}_b = -\log \sum_{\pi} \prod_{(t,u) \to (t+d,u)} p(\varnothing | t, u)\, p(d | t, u)
                                \prod_{(t,u) \to (t+d,u+1)} p(y_{u+1} | t, u)\, p(d | t, u)

    over the paths :math:`\pi` from (0, 0) that land exactly on :math:`(T_b, U_b)`. A label may take any of the
    durations, and a blank those above 0. As in NeMo the last arc of a path is a blank. There is no ``wildcard``,
    because a wildcard stands beside a single blank.

    Args:
      logits: ``[B, T, U+1, V + D]``, as in :func:`rnnt_loss`: V tokens, then D durations, as NeMo's joint emits them.
        Each part is normalised by itself.
      targets: ``[B, U]``, labels in [0, V) that are not blank.
      logit_lengths: ``[B]``, the frames T_b.
      target_lengths: ``[B]``, the labels U_b.
      blank: static index of the blank among the V tokens, in [-V, V). The default is the last token, as in NeMo.
      durations: D static numbers of frames, different from each other, at least 0, one of them above 0.
      fused_log_softmax: whether the loss normalises the tokens and the durations. If False both must be
        log-probabilities.
      omega: the probability, in [0, 1], that a call computes the RNN-T loss of the token part instead, for the whole
        batch. As in NeMo, ``sigma`` does not lower the arcs of that loss.
      key: a JAX random key for that choice; required if ``omega`` is above 0.
      clamp, reduction, weights: as in :func:`rnnt_loss`.
      **options: as in :func:`rnnt_loss`. The paper trains with ``sigma=0.05``.

    Returns:
      As :func:`rnnt_loss`, with its table of corner cases.

    Raises:
      TypeError, ValueError: as :func:`rnnt_loss`; ValueError also if ``durations`` are negative, repeated or all 0, if
        there are no tokens beside them in ``logits``, if ``omega`` is not a probability, or if ``key`` is missing.

    References:
      Xu et al., Efficient sequence transduction by jointly predicting tokens and durations, 2023 (arXiv:2304.06795).

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jnp.zeros((1, 3, 2, 4 + 3))  # B = 1, T = 3, U = 1, V = 4 tokens, D = 3 durations
      >>> lengths = jnp.array([3]), jnp.array([1])
      >>> loss = jax_rnnt.tdt_loss(logits, jnp.array([[0]]), *lengths, durations=(0, 1, 2), sigma=0.05)
      >>> round(float(loss), 4)
      4.1557
    """
    loss = TDTLoss(blank, clamp, reduction, fused_log_softmax, durations=durations, omega=omega, **options)
    return loss(logits, targets, logit_lengths, target_lengths, weights=weights, key=key)
