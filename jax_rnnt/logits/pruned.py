"""Logits of a few positions per frame, and the choice of these positions (Kuang 2022)."""

from __future__ import annotations

import dataclasses
import warnings
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.logits.array_rows import ArrayRows
from jax_rnnt.logits.source import Source
from jax_rnnt.ops import arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.dtypes import copied
from jax_rnnt.ops.labels import PADDING


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PrunedLogits(Source):
    """The logits of S neighbouring positions of each frame; no path visits the others.

    Node (t, u) exists where ``ranges[b, t] <= u < ranges[b, t] + S``. The cost is at least that of all positions, and
    equals it where S is U + 1. :meth:`best_ranges` chooses the positions, and :meth:`prune` gives the inputs of a joint
    network for them.

    Args:
      rows: ``[B, T, S, W]``, float16, bfloat16, float32 or float64. Rows of positions beyond U_b and of frames beyond
        T_b are not read, and their gradient is exactly 0.
      ranges: ``[B, T]``, any integer type, the first position of each frame. An utterance costs NaN if such a position
        is outside of [0, U] at a frame before T_b.
      num_labels: static, U, the width of the targets.

    Raises:
      TypeError: in the loss, if a dtype is wrong.
      ValueError: in the loss, if a shape does not match, or ``num_labels`` is negative.

    References:
      Kuang et al., Pruned RNN-T for fast, memory-efficient ASR training, 2022 (arXiv:2206.13236).

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> rows, ranges = jnp.zeros((1, 3, 2, 5)), jnp.array([[0, 0, 1]])  # B = 1, T = 3, S = 2, V = 5
      >>> logits = jax_rnnt.PrunedLogits(rows, ranges, num_labels=2)
      >>> loss = jax_rnnt.rnnt_loss(logits, jnp.array([[1, 2]]), jnp.array([3]), jnp.array([2]))
      >>> round(float(jnp.exp(-loss) * 5**5))  # of the 6 paths the two that emit both labels within two frames are left
      2
    """

    rows: Array
    ranges: Array
    num_labels: int = dataclasses.field(metadata={"static": True})

    _composes: ClassVar[bool] = True
    _refused_as: ClassVar[str] = "clamp"

    @property
    def shape(self) -> tuple[int, ...]:
        b, t, _, width = self.rows.shape
        return (b, t, self.num_labels + 1, width)

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    def _batched(self) -> Array:
        return self.rows

    def _check(self) -> None:
        checks.array("rows", self.rows)
        checks.array("ranges", self.ranges)
        checks.floating("rows", self.rows)
        checks.rank("rows", self.rows, "B, T, S, W")
        if self.rows.shape[2] < 1:
            raise ValueError(f"`rows` must have S >= 1 positions of each frame, got shape {self.rows.shape}.")
        checks.integer("ranges", self.ranges)
        checks.shape("ranges", self.ranges, self.rows.shape[:2], f"[B, T] for `rows` of shape {self.rows.shape}")
        if checks.static_index("num_labels", self.num_labels) < 0:
            raise ValueError(f"`num_labels` must be at least 0, got {self.num_labels}.")

    def _first(self) -> Array:
        """``ranges``, with U + 1 in place of a position that is out of range: then the frame has no node."""
        first = checks.to_int32(checks.as_integers("ranges", self.ranges))
        return jnp.where((first >= 0) & (first <= self.num_labels), first, self.num_labels + 1)

    def _of_rows(self, of_nodes: Array, fill: int) -> Array:
        """``[B, T, U+1, ...]`` in the order of rows, ``[B, T, S, ...]``."""
        u = self._first()[:, :, None] + jnp.arange(self.rows.shape[2], dtype=jnp.int32)[None, None]
        return _take(of_nodes, u, fill)

    def _nodes(self) -> Array:
        u = jnp.arange(self.num_labels + 1, dtype=jnp.int32)[None, None]
        first = self._first()[:, :, None]
        # In a frame whose range is wrong all nodes exist, and they are NaN.
        return ((u >= first) & (u < first + self.rows.shape[2])) | (first > self.num_labels)

    def _rows(self) -> ArrayRows:
        b, frames, kept, width = self.rows.shape
        first = self._first()[:, :, None]
        s = jnp.arange(self.num_labels + 1, dtype=jnp.int32)[None, None] - first
        start = kept * jnp.arange(b * frames, dtype=jnp.int32).reshape(b, frames, 1)
        row = jnp.where((s >= 0) & (s < kept), start + s, b * frames * kept)
        return ArrayRows(
            self.rows.reshape(-1, width), lambda x: self._with_rows_alone(x.reshape(self.rows.shape)), row.reshape(-1)
        )

    def _with_rows_alone(self, rows: Array) -> PrunedLogits:
        return jax.tree.unflatten(jax.tree.structure(self), [rows, None])

    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        entries, norm = arcs.forward(self.rows, self._of_rows(labels, PADDING), **parameters.asdict())
        first, kept = self._first()[:, :, None], self.rows.shape[2]
        place = jnp.arange(self.num_labels + 1, dtype=jnp.int32)[None, None] - first
        of_nodes = _take(entries, jnp.where(place < 0, kept, place), -jnp.inf)
        wrong = (first > self.num_labels) & (labels != PADDING)
        return jnp.where(wrong[..., None], jnp.nan, of_nodes), norm

    def _backward(
        self, labels: Array, kept: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> PrunedLogits:
        of_rows = [self._of_rows(x, 0) for x in (cotangent, *(() if bound is None else (bound,)))]
        (grad,) = arcs.backward(
            self.rows,
            self._of_rows(labels, PADDING),
            kept,
            *of_rows,
            clipped=bound is not None,
            **parameters.asdict(),
        )
        return self._with_rows_alone(grad)

    @staticmethod
    def prune(encoded: ArrayLike, predicted: ArrayLike, ranges: ArrayLike, s_range: int) -> tuple[Array, Array]:
        """The inputs of a joint network for the positions that :class:`PrunedLogits` keeps.

        Args:
          encoded: ``[B, T, De]``, the encoder's output.
          predicted: ``[B, U+1, Dp]``, the predictor's output.
          ranges: ``[B, T]``, any integer type, the first position of each frame.
          s_range: static, S.

        Returns:
          ``[B, T, S, De]`` and ``[B, T, S, Dp]``; 0 at positions outside of [0, U]. Their gradients are added up in
          float32 at least, and have the dtypes of the arguments.

        Raises:
          TypeError: if a dtype is wrong or ``s_range`` is not static.
          ValueError: if a shape does not match, or ``s_range`` is below 1.

        Example:
          >>> import jax.numpy as jnp
          >>> import jax_rnnt
          >>> encoded, predicted = jnp.zeros((1, 3, 8)), jnp.arange(3.0).reshape(1, 3, 1)  # B = 1, T = 3, U = 2
          >>> e, p = jax_rnnt.PrunedLogits.prune(encoded, predicted, jnp.array([[0, 0, 1]]), s_range=2)
          >>> e.shape, p[0, :, :, 0].tolist()
          ((1, 3, 2, 8), [[0.0, 1.0], [0.0, 1.0], [1.0, 2.0]])
        """
        e, p = checks.as_array("encoded", encoded), checks.as_array("predicted", predicted)
        first = checks.as_integers("ranges", ranges)
        checks.rank("encoded", e, "B, T, De")
        checks.rank("predicted", p, "B, U+1, Dp")
        checks.integer("ranges", first)
        b, frames, width = e.shape
        checks.shape("predicted", p, (b, *p.shape[1:]), f"[B, U+1, Dp] for `encoded` of shape {e.shape}")
        checks.shape("ranges", first, (b, frames), f"[B, T] for `encoded` of shape {e.shape}")
        kept = checks.static_index("s_range", s_range)
        if kept < 1:
            raise ValueError(f"`s_range` must be at least 1, got {kept}.")
        u = checks.to_int32(first)[:, :, None] + jnp.arange(kept, dtype=jnp.int32)[None, None]
        place = jnp.where(u < 0, p.shape[1], u)

        def of_positions(x: Array) -> Array:
            return jnp.take_along_axis(x[:, None], place[..., None], axis=2, mode="fill", fill_value=0)

        def of_frames(x: Array) -> Array:
            return jnp.broadcast_to(x[:, :, None], (b, frames, kept, width))

        return copied(of_frames, e), copied(of_positions, p)

    @staticmethod
    def best_ranges(
        posteriors: ArrayLike,
        logit_lengths: ArrayLike,
        target_lengths: ArrayLike,
        s_range: int,
        max_step: int | None = None,
    ) -> Array:
        r"""Which S positions of each frame to keep: those through which the paths of a simple loss go.

        In each frame they are the S neighbours with the largest sum of posteriors. In the last frame they are the S
        neighbours that end with U_b. Then the positions are moved, so that they begin at 0, never go back, and never
        advance by more than ``max_step`` from one frame to the next. They move first back to where a later frame
        begins, and then on as far as a later frame needs.

        Args:
          posteriors: ``[B, T, U+1, K]``, as :func:`lattice_posteriors` gives them; the arcs of a node are added up.
          logit_lengths: ``[B]``, any integer type, the frames T_b.
          target_lengths: ``[B]``, any integer type, the labels U_b.
          s_range: static, S, at least 1.
          max_step: static, at least 1. None: S - 1, so that neighbouring frames share a position. 1 for
            :func:`monotonic_rnnt_loss`, whose paths emit at most one label per frame.

        Returns:
          ``[B, T]``, int32, the first position of each frame, in [0, max(U + 1 - S, 0)]. The last frame reaches U_b
          where ``S + (T_b - 1) * max_step > U_b``. Otherwise no choice reaches U_b, and the pruned cost is +inf.
          Outside of ``jit`` a warning then names the least S that suffices. S is static, so it cannot grow by itself.
          There is no gradient.

        Raises:
          TypeError: if a dtype is wrong, or ``s_range`` or ``max_step`` is not a static integer.
          ValueError: if a shape does not match, or ``s_range`` or ``max_step`` is too small.

        References:
          Kuang et al., Pruned RNN-T for fast, memory-efficient ASR training, 2022 (arXiv:2206.13236).

        Example:
          >>> import jax.numpy as jnp
          >>> import jax_rnnt
          >>> log_probs = jnp.zeros((1, 4, 4, 2))  # T = 4, U = 3: all paths are equally probable
          >>> _, posteriors = jax_rnnt.lattice_posteriors(log_probs, jnp.array([4]), jnp.array([3]))
          >>> jax_rnnt.PrunedLogits.best_ranges(posteriors, jnp.array([4]), jnp.array([3]), s_range=2).tolist()
          [[0, 1, 2, 2]]
        """
        x = lax.stop_gradient(checks.as_array("posteriors", posteriors))
        t_b, u_b = (
            checks.as_integers("logit_lengths", logit_lengths),
            checks.as_integers("target_lengths", target_lengths),
        )
        checks.floating("posteriors", x)
        checks.rank("posteriors", x, "B, T, U+1, K")
        b, frames, positions, _ = x.shape
        checks.lengths(b, t_b, u_b, "posteriors.shape[0]")
        kept = checks.static_index("s_range", s_range)
        step = kept - 1 if max_step is None else checks.static_index("max_step", max_step)
        if kept < 1 or (max_step is None and kept < 2):
            raise ValueError(f"`s_range` must be at least 2, or 1 where `max_step` is given, got {kept}.")
        if step < 1:
            raise ValueError(f"`max_step` must be at least 1, got {step}.")

        _warn_where_no_path_fits(t_b, u_b, frames, positions - 1, kept, step if max_step is not None else None)
        kept = min(kept, positions)
        sums = lax.reduce_window(jnp.sum(x, axis=-1), np.zeros((), x.dtype), lax.add, (1, 1, kept), (1, 1, 1), "VALID")
        t_b, u_b = checks.to_int32(t_b)[:, None], checks.to_int32(u_b)[:, None]
        last = jnp.clip(u_b, kept - 1, positions - 1) - (kept - 1)
        t = jnp.arange(frames, dtype=jnp.int32)[None]
        best = jnp.where(t < t_b - 1, jnp.argmax(sums, axis=-1).astype(jnp.int32), last)
        forward = lax.cummin(jnp.minimum(best, last), axis=1, reverse=True)
        needed = lax.cummax(forward - step * t, axis=1, reverse=True) + step * t
        return jnp.minimum(needed, step * t)


def _take(x: Array, place: Array, fill: float) -> Array:
    """``x [B, T, n, ...]`` at places ``[B, T, m]`` of its third axis; ``fill`` beyond its end."""
    place = place.reshape(*place.shape, *(1,) * (x.ndim - 3))
    return jnp.take_along_axis(x, place, axis=2, mode="fill", fill_value=fill)


def _warn_where_no_path_fits(t_b: Array, u_b: Array, frames: int, labels: int, kept: int, max_step: int | None) -> None:
    """Names the least ``s_range`` with which the last frame of every utterance reaches U_b, where values are known."""
    if checks.is_tracer(t_b) or checks.is_tracer(u_b):
        return
    t, u = np.asarray(t_b).astype(np.int64), np.asarray(u_b).astype(np.int64)
    t, u = (x[(t > 0) & (t <= frames) & (u >= 0) & (u <= labels)] for x in (t, u))
    least = u + 1 - (t - 1) * max_step if max_step is not None else -(-u // np.maximum(t, 1)) + 1
    if least.max(initial=0) > kept:
        b = np.argmax(least)
        warnings.warn(
            f"`s_range` is {kept}, and {np.count_nonzero(least > kept)} of the utterances need more: with T_b = {t[b]} "
            f"frames and U_b = {u[b]} labels, the last frame reaches U_b only if `s_range` is at least {least[b]}. The "
            "cost of such an utterance is +inf.",
            RuntimeWarning,
            stacklevel=3,
        )
