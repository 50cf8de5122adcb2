"""Logits without padding: the rows of the nodes of all utterances, one after the other."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.logits.array_rows import ArrayRows
from jax_rnnt.logits.source import Source
from jax_rnnt.ops import arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.dtypes import copied
from jax_rnnt.ops.labels import PADDING
from jax_rnnt.xla.sharding import explicit_batch_axes

_OF_NO_DEVICE = (
    "Packed rows belong to no particular device, so a mesh cannot divide them over the batch. Use `jax.shard_map`, "
    "where each device packs its own utterances."
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PackedLogits(Source):
    """The rows of the nodes inside of the lengths, utterance after utterance, in place of a dense array with padding.

    Utterance b has T_b (U_b + 1) rows: those of its first frame, those of its second one, and so on. Memory is N W in
    place of B T (U+1) W. :meth:`pack` gives the inputs of a joint network in this order.

    Args:
      rows: ``[N, W]``, float16, bfloat16, float32 or float64, with N at least the sum of all T_b (U_b + 1). Rows beyond
        that sum are not read, and their gradient is exactly 0.
      logit_lengths: ``[B]``, any integer type, the frames T_b, as the loss gets them.
      target_lengths: ``[B]``, any integer type, the labels U_b, as the loss gets them.
      num_frames: static, T. An utterance has no rows if a length is negative, or above T or U.
      num_labels: static, U, the width of the targets.

    An utterance costs NaN if it does not fit into N rows, or if the loss gets other lengths.

    On a mesh, use it inside ``shard_map``: each device then packs its own utterances.

    Raises:
      TypeError: in the loss, if a dtype is wrong.
      ValueError: in the loss, if a shape does not match, or ``num_frames`` or ``num_labels`` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> lengths = jnp.array([4, 3]), jnp.array([2, 1])  # 4 * 3 + 3 * 2 = 18 rows
      >>> logits = jax_rnnt.PackedLogits(jnp.zeros((18, 5)), *lengths, num_frames=4, num_labels=2)
      >>> targets = jnp.array([[1, 2], [3, 0]])
      >>> [round(float(x), 3) for x in jax_rnnt.rnnt_loss(logits, targets, *lengths, reduction="none")]
      [7.354, 5.339]
    """

    rows: Array
    logit_lengths: Array
    target_lengths: Array
    num_frames: int = dataclasses.field(metadata={"static": True})
    num_labels: int = dataclasses.field(metadata={"static": True})

    _composes: ClassVar[bool] = True
    _refused_as: ClassVar[str] = "clamp"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.logit_lengths.shape[0], self.num_frames, self.num_labels + 1, self.rows.shape[-1])

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    def _batched(self) -> Array:
        return self.logit_lengths

    def _check(self) -> None:
        for name in ("rows", "logit_lengths", "target_lengths"):
            checks.array(name, getattr(self, name))
        checks.floating("rows", self.rows)
        checks.rank("rows", self.rows, "N, W")
        _check_lengths(self.logit_lengths, self.target_lengths, self.num_frames, self.num_labels)

    def _partition_specs(self, axes: tuple[str, ...]) -> Any:
        raise TypeError(f"`batch_axis_names` are {axes}. {_OF_NO_DEVICE}")

    def _layout(self) -> _Layout:
        return _layout(self.logit_lengths, self.target_lengths, self.num_frames, self.num_labels, self.rows.shape[0])

    def _rows(self) -> ArrayRows:
        return ArrayRows(self.rows, self._with_rows_alone, self._layout().row.reshape(-1))

    def _with_rows_alone(self, rows: Array) -> PackedLogits:
        return jax.tree.unflatten(jax.tree.structure(self), [rows, None, None])

    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        layout = self._layout()
        entries, norm = arcs.forward(self.rows, layout.of_rows(labels, PADDING), **parameters.asdict())
        absent = (layout.row == self.rows.shape[0]) & (labels != PADDING)
        of_nodes = _rows_at(entries, layout.row, -jnp.inf)
        return jnp.where(absent[..., None], jnp.nan, of_nodes), norm

    def _backward(
        self, labels: Array, kept: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> PackedLogits:
        layout = self._layout()
        of_rows = [layout.of_rows(x, 0) for x in (cotangent, *(() if bound is None else (bound,)))]
        (grad,) = arcs.backward(
            self.rows,
            layout.of_rows(labels, PADDING),
            kept,
            *of_rows,
            clipped=bound is not None,
            **parameters.asdict(),
        )
        return self._with_rows_alone(grad)

    @staticmethod
    def pack(
        encoded: ArrayLike,
        predicted: ArrayLike,
        logit_lengths: ArrayLike,
        target_lengths: ArrayLike,
        num_rows: int,
    ) -> tuple[Array, Array]:
        """The inputs of a joint network for the nodes inside of the lengths, in the order of :class:`PackedLogits`.

        Args:
          encoded: ``[B, T, De]``, the encoder's output.
          predicted: ``[B, U+1, Dp]``, the predictor's output.
          logit_lengths: ``[B]``, any integer type, the frames T_b.
          target_lengths: ``[B]``, any integer type, the labels U_b.
          num_rows: static, N: at least the sum of all T_b (U_b + 1), or the last utterances do not fit and cost NaN.
            Under ``jit`` use one number for all batches, such as the largest sum of the data set.

        Returns:
          ``[N, De]`` and ``[N, Dp]``: the frame and the position of each row's node. Rows beyond the last utterance are
          0. Gradients are added up in float32 at least, and have the dtypes of the arguments.

        Raises:
          TypeError: if a dtype is wrong or ``num_rows`` is not static.
          ValueError: if a shape does not match.

        Example:
          >>> import jax.numpy as jnp
          >>> import jax_rnnt
          >>> encoded, predicted = jnp.ones((2, 4, 8)), jnp.ones((2, 3, 8))  # B = 2, T = 4, U = 2
          >>> e, p = jax_rnnt.PackedLogits.pack(encoded, predicted, jnp.array([2, 1]), jnp.array([1, 0]), num_rows=6)
          >>> (e + p)[:, 0].tolist()  # 5 rows and a spare one
          [2.0, 2.0, 2.0, 2.0, 2.0, 0.0]
        """
        e, p = checks.as_array("encoded", encoded), checks.as_array("predicted", predicted)
        t_b, u_b = (
            checks.as_integers("logit_lengths", logit_lengths),
            checks.as_integers("target_lengths", target_lengths),
        )
        checks.rank("encoded", e, "B, T, De")
        checks.rank("predicted", p, "B, U+1, Dp")
        (b, frames, _), (_, positions, _) = e.shape, p.shape
        checks.shape("predicted", p, (b, max(positions, 1), p.shape[2]), "[B, U+1, Dp]")
        checks.lengths(b, t_b, u_b, "encoded.shape[0]")
        _check_lengths(t_b, u_b, frames, positions - 1)
        if checks.static_index("num_rows", num_rows) < 0:
            raise ValueError(f"`num_rows` must be at least 0, got {num_rows}.")
        node = _layout(t_b, u_b, frames, positions - 1, num_rows).node
        frame = node // positions
        position = frame // max(frames, 1) * positions + node % positions
        rows_of_e, rows_of_p = e.reshape(b * frames, e.shape[2]), p.reshape(b * positions, p.shape[2])
        return copied(lambda x: _rows_at(x, frame, 0), rows_of_e), copied(lambda x: _rows_at(x, position, 0), rows_of_p)

    @staticmethod
    def offsets(logit_lengths: ArrayLike, target_lengths: ArrayLike, num_frames: int, num_labels: int) -> Array:
        """Where the rows of each utterance begin in :class:`PackedLogits`.

        Args:
          logit_lengths, target_lengths, num_frames, num_labels: as in :class:`PackedLogits`.

        Returns:
          ``[B + 1]``, int32: utterance b has the rows ``offsets[b]`` to ``offsets[b + 1] - 1``. The last number is the
          number of all rows, the least N.

        Raises:
          TypeError, ValueError: as :class:`PackedLogits`.

        Example:
          >>> import jax.numpy as jnp
          >>> import jax_rnnt
          >>> jax_rnnt.PackedLogits.offsets(jnp.array([4, 3]), jnp.array([2, 1]), num_frames=4, num_labels=2).tolist()
          [0, 12, 18]
        """
        lengths = (
            checks.as_integers("logit_lengths", logit_lengths),
            checks.as_integers("target_lengths", target_lengths),
        )
        _check_lengths(*lengths, num_frames, num_labels)
        t_b, width = _sizes(*lengths, num_frames, num_labels)
        return jnp.pad(jnp.cumsum(t_b * width, dtype=jnp.int32), (1, 0))


class _Layout(NamedTuple):
    """Which row belongs to which node; a place beyond the end means that there is none."""

    row: Array  # [B, T, U+1], of each node
    node: Array  # [N], of each row, among the flat [B T (U+1)]

    def of_rows(self, of_nodes: Array, fill: int) -> Array:
        """``[B, T, U+1, ...]`` in the order of rows: ``[N, ...]``."""
        return _rows_at(of_nodes.reshape(-1, *of_nodes.shape[3:]), self.node, fill)


def _rows_at(x: Array, place: Array, fill: float) -> Array:
    """``x[place]``, and ``fill`` beyond its end."""
    if x.shape[0] == 0:  # gathers refuse it
        return jnp.full((*place.shape, *x.shape[1:]), fill, x.dtype)
    return x.at[place].get(mode="fill", fill_value=fill)


def _layout(logit_lengths: Array, target_lengths: Array, frames: int, labels: int, rows: int) -> _Layout:
    t_b, width = _sizes(logit_lengths, target_lengths, frames, labels)
    stop = jnp.cumsum(t_b * width, dtype=jnp.int32)
    t_b, width, start, fits = (x[:, None, None] for x in (t_b, width, stop - t_b * width, stop <= rows))
    t = jnp.arange(frames, dtype=jnp.int32)[None, :, None]
    u = jnp.arange(labels + 1, dtype=jnp.int32)[None, None]
    row = jnp.where((t < t_b) & (u < width) & fits, start + t * width + u, rows)
    nodes = jnp.arange(row.size, dtype=jnp.int32)
    node = jnp.full((rows,), row.size, jnp.int32).at[row.reshape(-1)].set(nodes, mode="drop")
    return _Layout(row, node)


def _sizes(logit_lengths: Array, target_lengths: Array, frames: int, labels: int) -> tuple[Array, Array]:
    """T_b and U_b + 1; T_b is 0 where a length is out of range, so that other utterances stay where they are."""
    t_b, u_b = (
        checks.to_int32(checks.as_integers(name, x))
        for name, x in (("logit_lengths", logit_lengths), ("target_lengths", target_lengths))
    )
    if explicit_batch_axes(t_b) or explicit_batch_axes(u_b):
        raise TypeError(f"The mesh has explicit axes. {_OF_NO_DEVICE}")
    valid = (t_b >= 0) & (t_b <= frames) & (u_b >= 0) & (u_b <= labels)
    return jnp.where(valid, t_b, 0), jnp.where(valid, u_b + 1, 1)


def _check_lengths(logit_lengths: Array, target_lengths: Array, frames: int, labels: int) -> None:
    for name, x in (("num_frames", frames), ("num_labels", labels)):
        if not checks.is_symbolic(x) and checks.static_index(name, x) < 0:
            raise ValueError(f"`{name}` must be at least 0, got {x}.")
    checks.rank("logit_lengths", logit_lengths, "B")
    b = logit_lengths.shape[0]
    checks.lengths(b, logit_lengths, target_lengths, "logit_lengths.shape[0]")
    if checks.exceeds(b * frames * (labels + 1), np.iinfo(np.int32).max):
        raise ValueError(
            f"B * T * (U + 1) must be less than 2^31, the number of nodes that an int32 can count, got "
            f"{b} * {frames} * {labels + 1} = {b * frames * (labels + 1)}."
        )
