"""What both decoders share: their options, the state that they start with, and the predictor's turn."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core.loss import Loss, checked_loss
from jax_rnnt.decoding import prefixes
from jax_rnnt.decoding.hypotheses import DecoderState, Frontier
from jax_rnnt.decoding.hypothesis_rows import flat, unflat, where_needed
from jax_rnnt.decoding.row_arcs import RowArcs, row_arcs
from jax_rnnt.losses.hat import HATLoss
from jax_rnnt.ops.dtypes import compute_dtype

Predictor = Callable[[Any, Any, Array], tuple[Any, Any]]
Joint = Callable[[Any, Array, Any], Array]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Static options, which :func:`greedy_decode` and :func:`beam_decode` describe."""

    loss: Loss
    predictor: Predictor
    joint: Joint
    _: dataclasses.KW_ONLY
    labels_per_frame: int = 5
    max_labels: int | None = None
    internal_lm_weight: float = 0.0
    start: int | None = None

    def __post_init__(self) -> None:
        checked_loss(self.loss)
        for name in ("predictor", "joint"):
            if not callable(getattr(self, name)):
                raise TypeError(f"`{name}` must be a function, got {checks.described(getattr(self, name))}.")
        for name, least in (("labels_per_frame", 1), ("max_labels", 0)):
            value = getattr(self, name)
            if value is not None and checks.static_index(name, value) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        checks.number("internal_lm_weight", self.internal_lm_weight)
        if self.internal_lm_weight != 0 and not isinstance(self.loss, HATLoss):
            raise ValueError(
                "`internal_lm_weight` is for models trained with HATLoss, whose labels are normalised by themselves; "
                f"got {self.internal_lm_weight} with {self.loss!r}."
            )

    @property
    def width(self) -> int:
        """The hypotheses of an utterance."""
        return 1

    def init(self, params: Any, state: Any, encoded: ArrayLike | jax.ShapeDtypeStruct) -> DecoderState:
        """The state before the first frame.

        Args:
          params: as in the decoding functions.
          state: the predictor's state before the first label, a pytree of ``[B, ...]``.
          encoded: ``[B, T, ...]``, or a ``jax.ShapeDtypeStruct``: only its shape and dtype are read.
        """
        shaped = encoded if isinstance(encoded, jax.ShapeDtypeStruct) else checks.as_array("encoded", encoded)
        if shaped.ndim < 2:
            raise ValueError(f"`encoded` must have shape [B, T, ...], got {shaped.shape}.")
        batch, n = shaped.shape[0], self.width
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != batch:
                raise ValueError(
                    f"`state` must hold arrays [B, ...] with B = {batch}, as `encoded` has it, "
                    f"got shape {jnp.shape(leaf)}{' at ' * bool(path)}{jax.tree_util.keystr(path)}."
                )
        memory = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[:, None], n, axis=1), state)
        label = jnp.zeros((batch, n), jnp.int32)
        rows = jax.ShapeDtypeStruct((batch * n, *shaped.shape[2:]), shaped.dtype)
        _, predicted, logits = jax.eval_shape(
            lambda row: self._first_logits(params, flat(memory), flat(label), row), rows
        )
        if logits.ndim != 2 or logits.shape[0] != batch * n:
            raise ValueError(f"`joint` must return logits [R, W] for R = {batch * n} rows, got shape {logits.shape}.")
        checks.floating("logits", logits)
        arcs = row_arcs(self.loss, logits.shape[-1])
        dtype = compute_dtype(logits.dtype)
        room = shaped.shape[1] * self._labels_a_frame(arcs) if self.max_labels is None else self.max_labels
        histories = jnp.full((batch, n, room), -1, jnp.int32)
        first = jnp.arange(n) == 0
        penalty = None
        if self.internal_lm_weight != 0:
            penalty = jnp.zeros((batch, n, arcs.topology.vocabulary), dtype)
        frontier = Frontier(
            score=jnp.broadcast_to(jnp.where(first, 0, -jnp.inf).astype(dtype)[None], (batch, n)),
            time=jnp.zeros((batch, n), jnp.int32),
            length=jnp.zeros((batch, n), jnp.int32),
            label=label + (arcs.topology.blanks[0] if self.start is None else checks.static_index("start", self.start)),
            waits=jnp.ones((batch, n), bool),
            prefix=prefixes.empty((batch, n)),
            memory=memory,
            predicted=jax.tree.map(lambda x: jnp.zeros((batch, n, *x.shape[1:]), x.dtype), predicted),
            penalty=penalty,
        )
        durations = histories if arcs.has_durations else None
        return DecoderState(jnp.zeros(batch, jnp.int32), frontier, histories, histories, durations)

    def _labels_a_frame(self, arcs: RowArcs) -> int:
        return self.labels_per_frame if arcs.stays else 1

    def _first_logits(self, params: Any, memory: Any, label: Array, rows: Array) -> tuple[Any, Any, Array]:
        memory, predicted = self.predictor(params, memory, label)
        return memory, predicted, self.joint(params, rows, predicted)

    def _arcs(self, params: Any, state: DecoderState, encoded: Array) -> RowArcs:
        rows = jax.ShapeDtypeStruct((state.frontier.label.size, *encoded.shape[2:]), encoded.dtype)
        predicted = jax.eval_shape(lambda: flat(state.frontier.predicted))
        return row_arcs(self.loss, jax.eval_shape(lambda r, p: self.joint(params, r, p), rows, predicted).shape[-1])

    def _checked(self, state: DecoderState, encoded: ArrayLike, lengths: ArrayLike) -> tuple[Array, Array]:
        x = checks.as_array("encoded", encoded)
        if x.ndim < 2 or x.shape[0] != state.frames.shape[0]:
            raise ValueError(f"`encoded` must have shape [B, T, ...] with B = {state.frames.shape[0]}, got {x.shape}.")
        t_b = checks.as_integers("lengths", lengths)
        checks.integer("lengths", t_b)
        checks.shape("lengths", t_b, (x.shape[0],), "[B]")
        return x, jnp.clip(checks.to_int32(t_b), 0, x.shape[1])

    def _predict(self, params: Any, at: Frontier, going: Array, arcs: RowArcs, row: Array) -> Frontier:
        """The predictor's turn: it sees the labels that wait, in the hypotheses that are ``going``, if there are any.

        Only the shape and the dtype of ``row [R, ...]``, a frame of the encoder for each, are used.
        """
        due = at.waits & going

        def run(rows: tuple[Any, Array]) -> tuple[Any, Any, Array | None]:
            memory, predicted = self.predictor(params, *rows)
            if at.penalty is None:
                return memory, predicted, None
            logits = self.joint(params, jnp.zeros((len(rows[1]), *row.shape[1:]), row.dtype), predicted)
            first, stop = arcs.topology.window
            scores = jax.nn.log_softmax(logits[:, first:stop].astype(at.penalty.dtype), axis=-1)
            outside = (0, 0), (first, arcs.topology.vocabulary - stop)
            return memory, predicted, self.internal_lm_weight * jnp.pad(scores, outside)

        now = flat((at.memory, at.predicted, at.penalty))
        new = where_needed(run, flat(due), flat((at.memory, at.label)), now)
        memory, predicted, penalty = unflat(new, due.shape)
        return at._replace(memory=memory, predicted=predicted, penalty=penalty, waits=at.waits & ~due)
