"""What both decoders share: their options, the state that they start with, and the predictor's turn."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core import debug
from jax_rnnt.core.loss import Loss, checked_loss
from jax_rnnt.decoding import fusion as fusions
from jax_rnnt.decoding import prefixes, programs
from jax_rnnt.decoding.fusion import Fusion
from jax_rnnt.decoding.hypotheses import Confidence, DecoderState, Frontier, Hypotheses, Start, cleared, with_histories
from jax_rnnt.decoding.hypothesis_rows import flat, repeated, select, unflat, where_needed
from jax_rnnt.decoding.model_calls import Joint, Predictor, logits_of, with_state
from jax_rnnt.decoding.row_arcs import RowArcs, row_arcs
from jax_rnnt.losses.hat import HATLoss
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.xla.sharding import explicit_batch_axes


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
    blank_penalty: float = 0.0
    temperature: float = 1.0
    start: int | None = None
    confidence: bool = False
    fusion: Fusion | Sequence[Fusion] | None = None

    def __init_subclass__(cls) -> None:
        jax.tree_util.register_pytree_node(cls, _flattened, _unflattened)

    def __post_init__(self) -> None:
        checked_loss(self.loss)
        for name in ("predictor", "joint"):
            function = getattr(self, name)
            if not callable(function):
                raise TypeError(f"`{name}` must be a function, got {checks.described(function)}.")
            try:
                hash(function)
            except TypeError as error:
                raise TypeError(
                    f"`{name}` must be hashable, because compiled programs are found by it, got "
                    f"{checks.described(function)}. Pass a plain function, and the arrays that it needs as `params`."
                ) from error
        object.__setattr__(self, "fusion", fusions.checked(self.fusion))
        for name, least in (("labels_per_frame", 1), ("max_labels", 0), ("start", None)):
            self._make_static(name, least)
        for name in ("internal_lm_weight", "blank_penalty", "temperature"):
            self._make_number(name)
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}.")
        checks.boolean("confidence", self.confidence)
        if self.internal_lm_weight != 0 and not isinstance(self.loss, HATLoss):
            raise ValueError(
                "`internal_lm_weight` is for models trained with HATLoss, whose labels are normalised by themselves; "
                f"got {self.internal_lm_weight} with {self.loss!r}."
            )

    def _make_static(self, name: str, least: int | None) -> None:
        """Makes an integer of JAX or NumPy one of Python: these are compared and hashed alike."""
        value = getattr(self, name)
        if value is None:
            return
        index = checks.static_index(name, value)
        if least is not None and index < least:
            raise ValueError(f"`{name}` must be at least {least}, got {index}.")
        object.__setattr__(self, name, index)

    def _make_number(self, name: str) -> None:
        checks.number(name, getattr(self, name))
        object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def width(self) -> int:
        """The number of hypotheses per utterance."""
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
        batch = shaped.shape[0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if jnp.ndim(leaf) < 1 or jnp.shape(leaf)[0] != batch:
                raise ValueError(
                    f"`state` must hold arrays [B, ...] with B = {batch}, as `encoded` has it, "
                    f"got shape {jnp.shape(leaf)}{' at ' * bool(path)}{jax.tree_util.keystr(path)}."
                )
        axes = explicit_batch_axes(shaped) if isinstance(shaped, Array) else ()
        return programs.init(*programs.parts(self, params, axes, shaped.shape, np.dtype(shaped.dtype)), state)

    def step(self, params: Any, state: DecoderState, encoded: ArrayLike, lengths: ArrayLike) -> DecoderState:
        """Decodes the next piece, ``encoded [B, C, ...]`` of ``lengths [B]`` frames; 0 for utterances that have ended.

        After a length outside of [0, C], the scores of that utterance are NaN.
        """
        x = checks.as_array("encoded", encoded)
        if x.ndim < 2 or x.shape[0] != state.frames.shape[0]:
            raise ValueError(f"`encoded` must have shape [B, T, ...] with B = {state.frames.shape[0]}, got {x.shape}.")
        t_b = checks.as_integers("lengths", lengths)
        checks.integer("lengths", t_b)
        checks.shape("lengths", t_b, (x.shape[0],), "[B]")
        debug.check_on_host(functools.partial(_check_lengths, x.shape[1]), t_b)
        return programs.step(*programs.parts(self, params, explicit_batch_axes(x)), state, x, t_b)

    def reset(self, state: DecoderState, where: ArrayLike) -> DecoderState:
        """The state before the first frame for the utterances ``where [B]``, booleans; the others go on.

        So a stream may begin its next utterance while the other streams of the batch go on. A program that serves
        streams decides by itself where an utterance ends, for example if no label came in the last second: compare
        ``state.frames`` with the last of a hypothesis's ``times``. Ask for the hypotheses first.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> import jax_rnnt
          >>> decoder = jax_rnnt.decoding.GreedyDecoder(
          ...     jax_rnnt.MonotonicRNNTLoss(blank=0),
          ...     predictor=lambda params, state, label: (state, label),
          ...     joint=lambda params, encoded, predicted: encoded,
          ...     max_labels=4,
          ... )
          >>> frames = jax.nn.one_hot(jnp.array([[2, 0, 0], [3, 3, 1]]), 4)  # B = 2, T = 3, V = 4
          >>> state = decoder.step(None, decoder.init(None, None, frames), frames, jnp.array([3, 3]))
          >>> found = decoder.hypotheses(state)
          >>> ended = state.frames - jnp.max(found.times, axis=-1) > 2
          >>> ended.tolist()
          [True, False]
          >>> state = decoder.reset(state, ended)
          >>> state.frames.tolist(), decoder.hypotheses(state).labels.tolist()
          ([0, 3], [[-1, -1, -1, -1], [3, 3, 1, -1]])
        """
        mask = checks.as_array("where", where)
        if mask.dtype != bool:
            raise TypeError(f"`where` must be an array of booleans, got {mask.dtype.name}.")
        checks.shape("where", mask, state.frames.shape, "[B]")
        return programs.reset(*programs.parts(self, None, explicit_batch_axes(state.frames)), state, mask)

    def hypotheses(self, state: DecoderState) -> Hypotheses:
        """The best found so far, ``[B, N, L]`` and ``[B, N]``; without N if the decoder is greedy."""
        return programs.hypotheses(*programs.parts(self, None, explicit_batch_axes(state.frames)), state)

    @property
    def fusions(self) -> tuple[Fusion, ...]:
        return cast(tuple[Fusion, ...], self.fusion)

    def _start(self, shape: tuple[int, ...], dtype: np.dtype, params: Any, state: Any) -> DecoderState:
        batch, n = shape[0], self.width
        memory = jax.tree.map(jnp.copy, state)
        label = jnp.zeros((batch, n), jnp.int32)
        rows = jax.ShapeDtypeStruct((batch * n, *shape[2:]), dtype)

        def first(row: Array) -> tuple[Any, Array]:
            _, predicted = self._predicted(params, flat(repeated(memory, n)), flat(label))
            return predicted, self._logits(params, row, predicted)

        predicted, logits = jax.eval_shape(first, rows)
        arcs = self._row_arcs(logits)
        of_scores = compute_dtype(logits.dtype)
        room = shape[1] * self._labels_a_frame(arcs) if self.max_labels is None else self.max_labels
        first_label = arcs.topology.blanks[0] if self.start is None else self.start
        start = Start(jnp.full(batch, first_label, jnp.int32), memory)
        extra = None
        if self.internal_lm_weight != 0 or self.fusions:
            extra = jnp.zeros((batch, n, arcs.topology.vocabulary), of_scores)
        nothing = jax.tree.map(lambda x: jnp.zeros((batch, n, *x.shape[1:]), x.dtype), predicted)
        frontier = self._first(start, jnp.zeros((batch, n), of_scores), nothing, extra)
        labels, times, durations = (jnp.full((batch, n, room), -1, jnp.int32) for _ in range(3))
        confidence = None
        if self.confidence:
            confidence = Confidence(*(jnp.zeros((batch, n, room), of_scores) for _ in range(2)))
        frames = jnp.zeros(batch, jnp.int32)
        return DecoderState(
            frames, frontier, labels, times, durations if arcs.has_durations else None, confidence, start
        )

    def _first(self, start: Start, zero: Array, predicted: Any, extra: Array | None) -> Frontier:
        """The hypotheses before the first frame; all arrays but those of ``start`` are zeros."""
        batch, n = zero.shape
        label, memory = repeated((start.label, start.memory), n)
        is_first = (jnp.arange(n) == 0)[None]
        return Frontier(
            score=jnp.where(is_first, zero, -jnp.inf),
            time=jnp.zeros((batch, n), jnp.int32),
            length=jnp.zeros((batch, n), jnp.int32),
            label=label,
            waits=jnp.ones((batch, n), bool),
            truncated=jnp.zeros((batch, n), bool),
            prefix=prefixes.empty((batch, n)),
            memory=memory,
            predicted=predicted,
            fused=fusions.begun(self.fusions, batch, n),
            extra=extra,
            added=None if extra is None else zero,
        )

    def _again(self, state: DecoderState, where: Array) -> DecoderState:
        """``state``, where ``where [B]`` as it was before the first frame."""
        at = state.frontier
        zeros = jax.tree.map(jnp.zeros_like, (at.score, at.predicted, at.extra))
        frontier, frames = select(where, (self._first(state.start, *zeros), state.frames * 0), (at, state.frames))
        state = state._replace(frontier=frontier, frames=frames)
        return with_histories(state, lambda x: cleared(x, ~where[:, None, None]))

    def _advance(self, params: Any, state: DecoderState, x: Array, lengths: Array) -> DecoderState:
        """The step of this kind of decoder, for ``lengths`` that are in [0, C]."""
        raise NotImplementedError

    def _found(self, state: DecoderState) -> Hypotheses:
        raise NotImplementedError

    def _final(self, state: DecoderState) -> Array | None:
        """What fusions add to hypotheses that end, ``[B, N]``."""
        at = state.frontier
        return fusions.final_scores(self.fusions, at.fused, at.label, at.waits, at.score.dtype)

    def _labels_a_frame(self, arcs: RowArcs) -> int:
        return self.labels_per_frame if arcs.stays else 1

    def _predicted(self, params: Any, memory: Any, label: Array) -> tuple[Any, Any]:
        """The predictor's turn for rows."""
        return with_state("predictor", "predicted", self.predictor, params, memory, label)

    def _logits(self, params: Any, rows: Array, predicted: Any) -> Array:
        logits = logits_of(self.joint, params, rows, predicted)
        return logits if self.temperature == 1 else logits.astype(compute_dtype(logits.dtype)) / self.temperature

    def _arcs(self, params: Any, state: DecoderState, x: Array) -> RowArcs:
        rows = jax.ShapeDtypeStruct((state.frontier.label.size, *x.shape[2:]), x.dtype)
        predicted = jax.eval_shape(lambda: flat(state.frontier.predicted))
        return self._row_arcs(jax.eval_shape(lambda r, p: self._logits(params, r, p), rows, predicted))

    def _row_arcs(self, logits: jax.ShapeDtypeStruct) -> RowArcs:
        return row_arcs(self.loss, logits.shape[-1], self.blank_penalty, self.confidence)

    def _predict(self, params: Any, at: Frontier, going: Array, arcs: RowArcs, row: Array) -> Frontier:
        """The predictor's turn, and the fusions': they see the labels that wait, in the hypotheses that are ``going``.

        Only the shape and the dtype of ``row [R, ...]``, a frame of the encoder for each, are used.
        """
        due = at.waits & going

        def run(rows: tuple[Any, Any, Array]) -> tuple[Any, Any, Any, Array | None]:
            memory, fused, label = rows
            memory, predicted = self._predicted(params, memory, label)
            if at.extra is None:
                return memory, predicted, (), None
            extra = jnp.zeros((label.shape[0], arcs.topology.vocabulary), at.extra.dtype)
            if self.internal_lm_weight != 0:
                nothing = jnp.zeros((label.shape[0], *row.shape[1:]), row.dtype)
                logits = self._logits(params, nothing, predicted)
                first, stop = arcs.topology.window
                scores = jax.nn.log_softmax(logits[:, first:stop].astype(extra.dtype), axis=-1)
                extra = extra.at[:, first:stop].add(-self.internal_lm_weight * scores)
            return memory, predicted, *fusions.advanced(self.fusions, fused, label, extra)

        now = flat((at.memory, at.predicted, at.fused, at.extra))
        new = where_needed(run, flat(due), flat((at.memory, at.fused, at.label)), now)
        memory, predicted, fused, extra = unflat(new, due.shape)
        return at._replace(memory=memory, predicted=predicted, fused=fused, extra=extra, waits=at.waits & ~due)


def _check_lengths(most: int, lengths: Array) -> None:
    for b, n in enumerate(np.asarray(lengths).tolist()):
        if not 0 <= n <= most:
            raise ValueError(f"`lengths[{b}]` must be in [0, T] = [0, {most}], got {n}.")


def _flattened(decoder: Decoder) -> tuple[tuple[Any], Decoder]:
    return (decoder.fusion,), dataclasses.replace(decoder, fusion=())


def _unflattened(static: Decoder, children: tuple[Any]) -> Decoder:
    decoder = copy.copy(static)
    object.__setattr__(decoder, "fusion", children[0])  # without checks: JAX puts other things in place of arrays
    return decoder
