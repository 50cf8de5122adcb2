"""Logits that are the sum of an encoder's part and a predictor's part: a joint network without a layer of its own."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt import checks
from jax_rnnt.logits.additive_rows import AdditiveRows
from jax_rnnt.logits.source import Source
from jax_rnnt.logits.sum_norms import sum_norms, tops
from jax_rnnt.ops import arcs, lax_arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import INVALID, NO_LABEL, PADDING
from jax_rnnt.ops.masking import finite_sum
from jax_rnnt.xla.sharding import match_manual_axes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AdditiveLogits(Source):
    r"""The logits ``am[b, t] + lm[b, u]`` of the nodes (t, u): k2's "simple" joint network.

    .. math:: \log p(v | t, u) = am_{t,v} + lm_{u,v} - \log \sum_w e^{am_{t,w}} e^{lm_{u,w}}

    The sums are one matrix product of exponentials, and no array has both T U and V entries, forward or backward. In
    float32 the norms are as exact as those of a dense array, however far apart the largest entries of ``am[b, t]`` and
    ``lm[b, u]`` are. Where exponentials would underflow (a sum 65 nats below the maxima, at V = 500), the norms of that
    call are computed one frame at a time. That takes the time of dense logits, but not their memory.

    With ``lm_scale`` or ``am_scale`` the log-probability of an arc is a mean of three,

    .. math:: (1 - s_{lm} - s_{am}) \log p(v | t, u) + s_{lm} \log p(v | u) + s_{am} \log p(v | t)

    where :math:`p(v | u)` is the softmax of ``lm[b, u]``, :math:`p(v | t)` that of ``am[b, t] + log q``, and q the mean
    of :math:`p(v | u)` over the positions u of the utterance. This is k2's ``rnnt_loss_smoothed``, except for q. In k2,
    q is the mean over the batch, padding included. Here no utterance depends on another one. Entries outside of that
    softmax, TDT's durations and HAT's blank, stay plain sums.

    Args:
      am: ``[B, T, W]``, the encoder's part, float16, bfloat16, float32 or float64. Frames beyond T_b are not read, and
        their gradient is exactly 0.
      lm: ``[B, U+1, W]``, the predictor's part, of the dtype of ``am``. The same holds for positions beyond U_b.
      lm_scale: static, the weight of :math:`p(v | u)`.
      am_scale: static, the weight of :math:`p(v | t)`.

    ``clamp`` bounds the gradient with respect to each sum ``am[b, t] + lm[b, u]``. It computes the sums one frame at a
    time, and is refused where a scale is not 0.

    Raises:
      TypeError: in the loss, if a dtype is wrong, or a scale is not a static number.
      ValueError: in the loss, if a shape does not match, or with ``clamp`` and a scale.

    References:
      Kuang et al., Pruned RNN-T for fast, memory-efficient ASR training, 2022 (arXiv:2206.13236).

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> logits = jax_rnnt.AdditiveLogits(jnp.zeros((2, 4, 5)), jnp.zeros((2, 3, 5)))  # B = 2, T = 4, U = 2, V = 5
      >>> targets, lengths = jnp.array([[1, 2], [3, 0]]), (jnp.array([4, 3]), jnp.array([2, 1]))
      >>> [round(float(x), 3) for x in jax_rnnt.rnnt_loss(logits, targets, *lengths, reduction="none")]
      [7.354, 5.339]
    """

    am: Array
    lm: Array
    lm_scale: float = dataclasses.field(default=0.0, metadata={"static": True})
    am_scale: float = dataclasses.field(default=0.0, metadata={"static": True})

    _composes: ClassVar[bool] = True
    _refused_as: ClassVar[str] = "clamp"

    @property
    def shape(self) -> tuple[int, ...]:
        b, t, width = self.am.shape
        return (b, t, self.lm.shape[1], width)

    @property
    def dtype(self) -> np.dtype:
        return self.am.dtype

    def _batched(self) -> Array:
        return self.am

    def _check(self) -> None:
        checks.array("am", self.am)
        checks.array("lm", self.lm)
        checks.floating("am", self.am)
        checks.rank("am", self.am, "B, T, W")
        checks.rank("lm", self.lm, "B, U+1, W")
        b, _, width = self.am.shape
        checks.shape("lm", self.lm, (b, self.lm.shape[1], width), f"[B, U+1, W] for `am` of shape {self.am.shape}")
        if self.lm.dtype != self.am.dtype:
            raise TypeError(f"`lm` must have the dtype of `am`, {self.am.dtype.name}, got {self.lm.dtype.name}.")
        for name, scale in (("lm_scale", self.lm_scale), ("am_scale", self.am_scale)):
            checks.number(name, scale)
            if not 0 <= scale <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {scale}.")
        if self.lm_scale + self.am_scale > 1:
            raise ValueError(
                f"`lm_scale` and `am_scale` must add up to at most 1, got {self.lm_scale} and {self.am_scale}."
            )

    @property
    def _is_smoothed(self) -> bool:
        return self.lm_scale != 0 or self.am_scale != 0

    def _rows(self) -> AdditiveRows:
        if self._is_smoothed:
            raise ValueError(
                "Two models are compared by their logits, and with `lm_scale` or `am_scale` there are none, got "
                f"lm_scale={self.lm_scale} and am_scale={self.am_scale}."
            )
        return AdditiveRows(self)

    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        am, lm = (x.astype(compute_dtype(x.dtype)) for x in (self.am, self.lm))
        entries, norm = _sums(am, lm, labels, parameters)
        return (self._smoothed(entries, am, lm, labels, parameters) if self._is_smoothed else entries), norm

    def _smoothed(self, entries: Array, am: Array, lm: Array, labels: Array, parameters: ArcParameters) -> Array:
        first, stop = parameters.window
        if first >= stop:
            raise ValueError(
                "`lm_scale` and `am_scale` need logits that the loss normalises: `fused_log_softmax` must be True, got "
                "False."
            )
        label = _of_positions(labels)
        of_lm, norm = arcs.forward(lm, label, **parameters.asdict())
        mean = (1 - self.lm_scale - self.am_scale) * entries
        if self.lm_scale != 0:
            mean = finite_sum(mean, self.lm_scale * of_lm[:, None])
        if self.am_scale != 0:
            prior = jnp.broadcast_to(_log_mean(lm, norm, label)[:, None], lm.shape)
            mean = finite_sum(mean, self.am_scale * _sums(am, prior, labels, parameters)[0])
        normalised = np.array([*(first <= c < stop for c in parameters.columns), True])
        # A scale of 0 must not make NaN of -inf.
        return jnp.where((entries == -jnp.inf) | ~normalised[None, None, None], entries, mean)

    def _backward(
        self, labels: Array, kept: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> AdditiveLogits:
        if self._is_smoothed:
            raise ValueError(
                "`clamp` bounds the gradient of logits, and with `lm_scale` or `am_scale` there are none, got "
                f"lm_scale={self.lm_scale} and am_scale={self.am_scale}."
            )
        return _backward(parameters, self, labels, kept, cotangent, bound)


@functools.partial(jax.jit, static_argnums=0, inline=True)  # else JAX compiles the loop in every call outside of jit
def _backward(
    parameters: ArcParameters, logits: AdditiveLogits, labels: Array, kept: Array, cotangent: Array, bound: Array | None
) -> AdditiveLogits:
    """The gradient of the clamped sums, one frame at a time."""
    of_nodes = [labels, kept, cotangent, *(() if bound is None else (bound,))]
    am, lm, *of_nodes = match_manual_axes([logits.am, logits.lm, *of_nodes])
    wide = compute_dtype(logits.dtype)

    @jax.checkpoint
    def frame(carry: tuple[Array, Array], t: Array) -> tuple[tuple[Array, Array], None]:
        of_am, of_lm = carry
        label, *rest = (lax.dynamic_index_in_dim(x, t, 1, keepdims=False) for x in of_nodes)
        rows = lax.dynamic_index_in_dim(am, t, 1).astype(wide) + lm.astype(wide)
        (grad,) = arcs.backward(rows, label, *rest, clipped=bound is not None, **parameters.asdict())
        of_frame = jnp.sum(grad, axis=1, keepdims=True)
        return (lax.dynamic_update_index_in_dim(of_am, of_frame, t, 1), of_lm + grad), None

    # Zeros vary over no mesh axis with jax 0.6.
    zeros = jnp.zeros_like(am, wide), jnp.zeros_like(lm, wide)
    start = tuple(match_manual_axes([*zeros, am])[:2])
    frames = jnp.arange(am.shape[1], dtype=jnp.int32)
    of_am, of_lm = lax.scan(frame, start, frames)[0] if frames.size > 0 else start
    return AdditiveLogits(of_am.astype(logits.dtype), of_lm.astype(logits.dtype), logits.lm_scale, logits.am_scale)


def _of_positions(labels: Array) -> Array:
    """``[B, U+1]``: the label of a position is the same in every frame that is not padding."""
    return jnp.max(labels, axis=1, initial=INVALID)


def _sums(am: Array, lm: Array, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
    """The entries ``[B, T, U+1, K']`` and norms of ``am [B, T, W] + lm [B, U+1, W]``.

    The entries come from the distances to the maxima of the two parts: their sum would be rounded to its own size.
    """
    first, stop = parameters.window
    label = jnp.maximum(_of_positions(labels), 0)
    of_am, of_lm = [am[..., c] for c in parameters.columns], [lm[..., c] for c in parameters.columns]
    am_of_label = jnp.take_along_axis(am, label[:, None], axis=2)
    lm_of_label = jnp.take_along_axis(lm, label[..., None], axis=2)[..., 0]
    invalid = labels < PADDING
    log_sum = jnp.zeros(labels.shape, am.dtype)
    am_top, lm_top = jnp.zeros(am.shape[:2], am.dtype), jnp.zeros(lm.shape[:2], lm.dtype)
    if first < stop and labels.size > 0:
        real = labels != PADDING
        am, lm = am[..., first:stop], lm[..., first:stop]
        # Of NaN the maximum is NaN, which is not less than inf.
        good_am, good_lm = (lax.stop_gradient(jnp.max(x, axis=-1)) < jnp.inf for x in (am, lm))
        use_am, use_lm = good_am & jnp.any(real, axis=2), good_lm & jnp.any(real, axis=1)
        am_top, lm_top = tops(am, use_am), tops(lm, use_lm)
        log_sum = sum_norms(am, lm, use_am, use_lm)
        invalid |= real & ~(good_am[:, :, None] & good_lm[:, None])
    # Labels are in the window, if it is not empty.
    inside = [first <= c < stop for c in parameters.columns]
    picks = [
        finite_sum((a - am_top if normalised else a)[:, :, None], (b - lm_top if normalised else b)[:, None])
        for a, b, normalised in zip(of_am, of_lm, inside, strict=True)
    ]
    picks.append(finite_sum(am_of_label - am_top[..., None], (lm_of_label - lm_top)[:, None]))
    massless = log_sum == -jnp.inf
    log_sum = jnp.where(massless, 0, log_sum)
    entries = lax_arcs.assemble(
        picks,
        jnp.where(invalid, NO_LABEL, labels),
        jnp.stack([jnp.where(massless, -jnp.inf, 0).astype(log_sum.dtype), log_sum], axis=-1),
        parameters.columns,
        parameters.vocabulary,
        parameters.window,
    )
    # One number is enough where the sums themselves are rounded (`backward`). Apart, log_sum may be as small as top is
    # large.
    log_norm = jnp.where(massless, -jnp.inf, am_top[:, :, None] + lm_top[:, None] + log_sum)
    norm = jnp.stack([log_norm, jnp.zeros_like(log_norm)], axis=-1)
    # The derivatives are those of finite numbers, and NaN is added to the values alone: an example whose cotangent is 0
    # has a gradient of 0, and any other one NaN by its cotangents.
    poison = jnp.where(invalid, jnp.nan, 0).astype(entries.dtype)
    return entries + poison[..., None], norm + poison[..., None]


def _log_mean(lm: Array, norm: Array, label: Array) -> Array:
    """The log of the mean of the softmax of ``lm [B, U+1, W]`` over the positions that are not padding: ``[B, W]``."""
    counts = ((label != PADDING) & (norm[..., 0] > -jnp.inf))[..., None]
    x = jnp.where(counts, lax_arcs.normalised(lm, jnp.where(counts, norm, 0)[..., None, :]), -jnp.inf)
    top = lax.stop_gradient(jnp.max(x, axis=1))
    top = jnp.where(top == -jnp.inf, 0, top)
    total = jnp.sum(jnp.exp(x - top[:, None]), axis=1)
    number = jnp.maximum(jnp.sum(label != PADDING, axis=1, dtype=jnp.int32), 1).astype(lm.dtype)
    log_total = jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)), -jnp.inf)
    return log_total + top - jnp.log(number)[:, None]
