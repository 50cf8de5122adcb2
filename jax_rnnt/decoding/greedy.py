"""Greedy decoding: the most probable arc at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt.core.loss import Loss
from jax_rnnt.decoding.decoder import Decoder
from jax_rnnt.decoding.fusion import Fusion
from jax_rnnt.decoding.hypotheses import (
    Confidence,
    DecoderState,
    Hypotheses,
    ranked,
    with_bin,
    with_extra,
    with_histories,
    without_bin,
)
from jax_rnnt.decoding.hypothesis_rows import flat
from jax_rnnt.decoding.model_calls import Joint, Predictor


@dataclasses.dataclass(frozen=True)
class GreedyDecoder(Decoder):
    """:func:`greedy_decode` for audio that comes in pieces of any lengths: a static value, as :class:`Loss` is.

    Args:
      loss, predictor, joint, labels_per_frame, internal_lm_weight, blank_penalty: as in :func:`greedy_decode`.
      temperature, start, confidence, fusion: as in :func:`greedy_decode`.
      max_labels: as in :func:`greedy_decode`. T is that of the array that ``init`` sees. For longer audio give
        ``max_labels``.

    A decoder with a fusion is a pytree, whose leaves are the arrays of the fusion. To change these arrays without a
    further compilation, pass the decoder to your jitted function.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> decoder = jax_rnnt.decoding.GreedyDecoder(
      ...     jax_rnnt.MonotonicRNNTLoss(blank=0),
      ...     predictor=lambda params, state, label: (state, label),
      ...     joint=lambda params, encoded, predicted: encoded,
      ...     max_labels=8,
      ... )
      >>> frames = jax.nn.one_hot(jnp.array([[2, 0, 3]]), 4)  # B = 1, T = 3, V = 4
      >>> state = decoder.init(None, None, frames)
      >>> for piece in (frames[:, :2], frames[:, 2:]):
      ...     state = decoder.step(None, state, piece, jnp.array([piece.shape[1]]))
      >>> decoder.hypotheses(state).times
      Array([[ 0,  2, -1, -1, -1, -1, -1, -1]], dtype=int32)
    """

    def _advance(self, params: Any, state: DecoderState, x: Array, lengths: Array) -> DecoderState:
        """In each turn of the loop every utterance either emits a label or moves on.

        So utterances are at different frames, and the loop ends with the slowest utterance.
        """
        if x.shape[1] == 0:
            return state
        arcs = self._arcs(params, state, x)
        rows = jnp.arange(x.shape[0])
        room = state.labels.shape[-1]
        taken = jnp.array((*arcs.silent, *arcs.emitting), jnp.int32)

        def offset(state: DecoderState) -> Array:
            """The place of each utterance's frame in this piece."""
            return state.frontier.time[:, 0] - state.frames

        def turn(carry: tuple[DecoderState, Array]) -> tuple[DecoderState, Array]:
            state, here = carry
            going = offset(state) < lengths
            row = x[rows, jnp.clip(offset(state), 0, x.shape[1] - 1)]
            at = self._predict(params, state.frontier, going[:, None], arcs, row)
            found = arcs.read(self._logits(params, row, flat(at.predicted)), going, flat(at.extra))
            choices = arcs.choices(found, flat(at.extra), 1)
            closed, full = here >= self.labels_per_frame, at.length[:, 0] >= room
            lost = going & full & ~closed & found.prefers_a_label()
            emitting = jnp.where((closed | full)[:, None], -jnp.inf, choices.emitting[:, 0])
            scores = jnp.concatenate([found.silent, emitting], axis=-1).astype(at.score.dtype)
            arc = jnp.argmax(scores, axis=-1)
            score, frames = jnp.max(scores, axis=-1), taken[arc]
            emits = going & (arc >= len(arcs.silent))
            place = jnp.where(emits, at.length[:, 0], room)

            def written(history: Array, value: Array) -> Array:
                return history.at[rows, 0, place].set(value)

            confidence = None
            if choices.confidence is not None:
                of_arc = jnp.clip(arc - len(arcs.silent), 0, len(arcs.emitting) - 1)
                log_probs = jnp.take_along_axis(choices.confidence.log_probs[:, 0], of_arc[:, None], axis=-1)[:, 0]
                confidence = Confidence(log_probs, choices.confidence.entropy)
            label = jnp.where(emits, choices.labels[:, 0], at.label[:, 0])
            moves = jnp.where(going, frames, 0)
            frontier = at._replace(
                score=at.score + jnp.where(going, score, 0)[:, None],
                time=at.time + moves[:, None],
                length=at.length + emits[:, None].astype(jnp.int32),
                label=label[:, None],
                waits=at.waits | emits[:, None],
                truncated=at.truncated | lost[:, None],
                added=with_extra(at, jnp.zeros_like(at.label), jnp.where(emits[:, None], choices.labels, -1)),
            )
            new = label, at.time[:, 0], None if state.durations is None else frames, confidence
            state = with_histories(state._replace(frontier=frontier), written, new)
            return state, jnp.where(moves > 0, 0, here + emits.astype(jnp.int32))

        start = with_histories(state, with_bin), jnp.zeros_like(lengths)
        state, _ = lax.while_loop(lambda carry: jnp.any(offset(carry[0]) < lengths), turn, start)
        return with_histories(state, without_bin)._replace(frames=state.frames + lengths)

    def _found(self, state: DecoderState) -> Hypotheses:
        return jax.tree.map(lambda x: x[:, 0], ranked(state, 0.0, self._final(state)))


def greedy_decode(
    loss: Loss,
    predictor: Predictor,
    joint: Joint,
    params: Any,
    state: Any,
    encoded: ArrayLike,
    lengths: ArrayLike,
    *,
    labels_per_frame: int = 5,
    max_labels: int | None = None,
    internal_lm_weight: float = 0.0,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    start: int | None = None,
    confidence: bool = False,
    fusion: Fusion | Sequence[Fusion] | None = None,
) -> Hypotheses:
    r"""Greedy transducer decoding of a batch: the most probable arc at every step, in one compiled loop.

    The loss that a model was trained with says which arcs there are: labels and blanks, the frames that they take, and
    how a row of logits is normalised. An arc that takes several frames skips them. A jump over the last frame ends the
    utterance.

    Args:
      loss: the loss that the model was trained with, such as ``TDTLoss(blank=0)``. The decoder uses the options that
        say which arcs there are: ``blank``, ``fused_log_softmax``, ``durations``, ``big_blanks``. It ignores those that
        regularise the training.
      predictor: ``predictor(params, state, label) -> (state, predicted)`` for rows: ``label [R]`` int32, and pytrees of
        arrays ``[R, ...]``. It is called where a label was emitted, and before the first frame, for the start symbol.
      joint: ``joint(params, encoded, predicted) -> logits [R, W]`` for rows ``encoded [R, ...]``.
      params: a pytree, which both functions get. Its arrays may change from call to call. Other leaves must be
        hashable. If they change, the loop is compiled again.
      state: the predictor's state before the start symbol, a pytree of arrays ``[B, ...]``.
      encoded: ``[B, T, ...]``: the encoder's output. Layers of the joint that do not depend on labels are best applied
        here.
      lengths: ``[B]``, any integer type, the frames T_b of each utterance. Frames beyond T_b do not matter. An
        utterance whose length is outside of [0, T] has a score of NaN and no labels.
      labels_per_frame: how many labels a frame may emit. After that, labels are closed until an arc takes a frame. It
        has no effect if all labels take frames.
      max_labels: L, how many labels an utterance may emit. After that, labels are closed. None: as many as T frames may
        emit.
      internal_lm_weight: for :class:`HATLoss`: this times the label's score under the internal language model is
        subtracted from the label's score. The internal language model is the joint with an encoder of zeros
        (:meth:`HATLoss.internal_lm_scores`).
      blank_penalty: this is subtracted from the score of every arc without a label. Where a model leaves out labels,
        a value above 0 brings some of them back.
      temperature: above 0. The logits of the joint network are divided by it. A value above 1 makes an overconfident
        model less sure.
      start: the label that the predictor sees first; None: the blank.
      confidence: whether to return how sure the model was of each label.
      fusion: a :class:`Fusion`, or several: scores that are added to those of labels, such as a language model's.

    Returns:
      :class:`Hypotheses`: labels, times and, for TDT, durations ``[B, L]``; lengths, scores and truncated ``[B]``. A
      score is the log-probability of the path: float64 for float64 logits, else float32. With ``blank_penalty`` it is
      lower by that for each arc without a label.

      With ``fusion`` or ``internal_lm_weight``, ``scores`` count what they add, and ``model_scores [B]`` do not.

      With ``confidence``, ``log_probs`` and ``entropy`` ``[B, L]`` say how sure the model was of each label.
      ``log_probs`` are the log-probabilities of the arcs, for TDT of the label and its duration. ``entropy`` is that of
      what comes next at the label's node, one of the labels or a blank, divided by the largest possible one, log(V). So
      it is in [0, 1], and 0 is sure. Both are the model's own, with ``temperature``. Fusions, penalties and the
      internal language model do not count.

    Raises:
      TypeError: if ``loss`` is not a :class:`Loss`, a function is not hashable, or a dtype is wrong.
      ValueError: if an option is out of its range, or a shape does not match. Errors of the two functions are raised
        again, with the shapes that the functions were called with.

    References:
      Graves, Sequence transduction with recurrent neural networks, 2012 (arXiv:1211.3711). Xu et al., Efficient
      sequence transduction by jointly predicting tokens and durations, 2023 (arXiv:2304.06795).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> def predictor(params, state, label):  # no memory but the last label
      ...     return state, params["predictor"][label]
      >>> def joint(params, encoded, predicted):
      ...     return encoded + predicted
      >>> never_twice = {"predictor": -9.0 * jnp.eye(4).at[0, 0].set(0)}
      >>> frames = 5.0 * jax.nn.one_hot(jnp.array([[2, 0, 3, 1]]), 4)  # B = 1, T = 4, V = 4
      >>> loss = jax_rnnt.RNNTLoss(blank=0)
      >>> found = jax_rnnt.decoding.greedy_decode(
      ...     loss, predictor, joint, never_twice, None, frames, jnp.array([3]), max_labels=3
      ... )
      >>> found.labels, found.times
      (Array([[ 2,  3, -1]], dtype=int32), Array([[ 0,  2, -1]], dtype=int32))
    """
    decoder = GreedyDecoder(
        loss,
        predictor,
        joint,
        max_labels=max_labels,
        labels_per_frame=labels_per_frame,
        internal_lm_weight=internal_lm_weight,
        blank_penalty=blank_penalty,
        temperature=temperature,
        start=start,
        confidence=confidence,
        fusion=fusion,
    )
    return decoder.hypotheses(decoder.step(params, decoder.init(params, state, encoded), encoded, lengths))
