"""Beam search, frame by frame: the most probable label sequences, each summed over the paths that were kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt.core.loss import Loss
from jax_rnnt.decoding.beam_arcs import (
    best_merged,
    emitting_arcs,
    joined,
    leaving,
    may_win,
    resting,
    silent_arcs,
    staying,
)
from jax_rnnt.decoding.beam_steps import Beam, after, after_labels, choices_that_may_win
from jax_rnnt.decoding.carry import Packed, packed
from jax_rnnt.decoding.decoder import Decoder
from jax_rnnt.decoding.fusion import Fusion
from jax_rnnt.decoding.hypotheses import (
    Confidence,
    DecoderState,
    Emitted,
    Frontier,
    Hypotheses,
    ranked,
    with_history,
)
from jax_rnnt.decoding.hypothesis_rows import flat, repeated, unflat, where_needed, zeros_of
from jax_rnnt.decoding.model_calls import Joint, Predictor
from jax_rnnt.decoding.row_arcs import Row, RowArcs
from jax_rnnt.xla.sharding import vary_alike

_Turn = tuple[Array, Packed, Array]
"""The labels emitted at this frame, what is done with it and what is open, and which utterances are spoilt."""


@dataclasses.dataclass(frozen=True)
class BeamDecoder(Decoder):
    """:func:`beam_decode` for audio that comes in pieces of any lengths: a static value, as :class:`Loss` is.

    Args:
      loss, predictor, joint, labels_per_frame, max_labels, internal_lm_weight: as in :class:`GreedyDecoder`.
      blank_penalty, temperature, start, confidence, fusion: as in :class:`GreedyDecoder`.
      beam, length_normalization: as in :func:`beam_decode`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> loss = jax_rnnt.MonotonicRNNTLoss(blank=0)
      >>> predictor, joint = lambda _, state, label: (state, label), lambda _, e, p: e
      >>> decoder = jax_rnnt.decoding.BeamDecoder(loss, predictor, joint, beam=2, max_labels=3)
      >>> one, two = jnp.array([[[0.0, 0, 2, 0]]]), jnp.array([[[0.0, 0, 0, 3]]])  # two pieces of one frame, V = 4
      >>> state = decoder.step(None, decoder.init(None, None, one), one, jnp.array([1]))
      >>> decoder.hypotheses(state).labels.tolist()  # so far
      [[[2, -1, -1], [-1, -1, -1]]]
      >>> decoder.hypotheses(decoder.step(None, state, two, jnp.array([1]))).labels.tolist()
      [[[2, 3, -1], [3, -1, -1]]]
    """

    _: dataclasses.KW_ONLY
    beam: int = 8
    length_normalization: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._make_static("beam", 1)
        self._make_number("length_normalization")

    @property
    def width(self) -> int:
        return self.beam

    def _advance(self, params: Any, state: DecoderState, x: Array, lengths: Array) -> DecoderState:
        arcs = self._arcs(params, state, x)
        room = state.labels.shape[-1]

        start, unpacked = packed(state.frontier)

        def frame(carry: Packed, piece: tuple[Array, Array]) -> tuple[Packed, Emitted]:
            at = unpacked(carry)
            c, row = piece
            here = (at.time == (state.frames + c)[:, None]) & (c < lengths)[:, None]
            spoilt = jnp.isnan(at.score[:, 0])
            comparable = at._replace(score=jnp.where(spoilt[:, None], -jnp.inf, at.score))
            beam, now_spoilt = self._frame(params, comparable, here, row, arcs, room)
            score = jnp.where((spoilt | now_spoilt)[:, None], jnp.nan, beam.at.score)
            return packed(beam.at._replace(score=score))[0], beam.emitted

        each = jnp.arange(x.shape[1], dtype=jnp.int32), jnp.moveaxis(x, 1, 0)
        end, steps = lax.scan(frame, start, each)
        return with_history(state, steps)._replace(frontier=unpacked(end), frames=state.frames + lengths)

    def _frame(
        self, params: Any, at: Frontier, here: Array, row: Array, arcs: RowArcs, room: int
    ) -> tuple[Beam, Array]:
        """From the hypotheses before a frame to those that have left it, those that wait at later ones among them.

        And which utterances ``[B]`` are spoilt by NaN. NaN cannot be compared, so the search goes on without it.

        In turn v of the loop hypotheses that are `open` have emitted v labels at this frame. Their arcs lead to
        hypotheses that are `done` with it, or to open ones of the next turn.
        """
        batch, n = here.shape
        most = self._labels_a_frame(arcs)
        rows = flat(repeated(row, n))
        some = arcs.labels(n)
        unused = jnp.full((batch, n, most), -1, jnp.int32)
        origin = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], (batch, n))
        confidence = None
        if arcs.confidence:
            confidence = Confidence(*(jnp.zeros(unused.shape, at.score.dtype) for _ in range(2)))
        first = Beam(at, Emitted(origin, unused, unused, confidence))

        def turn(carry: _Turn) -> _Turn:
            v, packed_beams, spoilt = carry
            done, open_ = unpacked(packed_beams)
            going = open_.at.score > -jnp.inf
            now = self._predict(params, open_.at, going, arcs, rows)

            def read(of: tuple[Array, Any, Array | None]) -> Row:
                row, predicted, extra = of
                return arcs.read(self._logits(params, row, predicted), jnp.ones(row.shape[0], bool), extra)

            inputs = rows, *flat((now.predicted, now.extra))
            nothing = zeros_of(read, inputs).closed()
            found = unflat(where_needed(read, flat(going), inputs, nothing), (batch, n))
            is_nan = jnp.isnan(found.silent[..., 0])
            spoilt = spoilt | jnp.any(is_nan, axis=1)
            closed, full = v >= most, now.length >= room
            lost = going & full & ~closed & found.prefers_a_label()
            now = now._replace(truncated=now.truncated | lost)
            open_ = open_._replace(at=now)
            score = jnp.where(is_nan, -jnp.inf, now.score)
            silent = jnp.where(is_nan[..., None], -jnp.inf, found.silent) + score[..., None]
            score = jnp.where(closed | full, -jnp.inf, score)
            best = jnp.where(score == -jnp.inf, -jnp.inf, jnp.max(found.best, axis=-1) + score)

            both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), done, open_)
            kept = joined([resting(done.at, arcs.confidence), silent_arcs(silent, arcs.silent, n, arcs.confidence)])
            best_kept = best_merged(both.at, kept, n)
            wins = flat(may_win(now, best, both.at, best_kept))
            choices = unflat(choices_that_may_win(arcs, flat((found, now.extra)), wins, some), (batch, n))
            shut = (score == -jnp.inf)[..., None, None]
            emitting = jnp.where(shut, -jnp.inf, choices.emitting + score[..., None, None])
            choices = choices._replace(emitting=emitting)
            moves = [k for k, frames in enumerate(arcs.emitting) if frames > 0]
            if moves:
                moving = emitting_arcs(choices, arcs.emitting, moves, n)
                best_kept = best_merged(both.at, joined([kept, leaving(both.at, moving, kept, n)]), n)
            done = after(both, best_kept, v)
            stays = [k for k, frames in enumerate(arcs.emitting) if frames == 0]
            if not stays:
                open_ = open_._replace(at=now._replace(score=jnp.full_like(now.score, -jnp.inf)))
                return v + 1, packed((done, open_))[0], spoilt
            following = staying(now, emitting_arcs(choices, arcs.emitting, stays, 0), done.at, n)
            return v + 1, packed((done, after_labels(open_, following, v)))[0], spoilt

        def going(carry: _Turn) -> Array:
            return jnp.any(unpacked(carry[1])[1].at.score > -jnp.inf)

        def only(mask: Array) -> Beam:
            return first._replace(at=at._replace(score=jnp.where(mask, at.score, -jnp.inf)))

        start, unpacked = packed((only(~here), only(here)))
        begin = jnp.zeros((), jnp.int32), start, jnp.zeros(batch, bool)
        _, end, spoilt = lax.while_loop(going, turn, vary_alike(begin))
        return unpacked(end)[0], spoilt

    def _found(self, state: DecoderState) -> Hypotheses:
        return ranked(state, self.length_normalization, self._final(state))


def beam_decode(
    loss: Loss,
    predictor: Predictor,
    joint: Joint,
    params: Any,
    state: Any,
    encoded: ArrayLike,
    lengths: ArrayLike,
    *,
    beam: int = 8,
    length_normalization: float = 0.0,
    labels_per_frame: int = 5,
    max_labels: int | None = None,
    internal_lm_weight: float = 0.0,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
    start: int | None = None,
    confidence: bool = False,
    fusion: Fusion | Sequence[Fusion] | None = None,
) -> Hypotheses:
    r"""Transducer beam search of a batch, frame by frame, in one compiled loop.

    All hypotheses see a frame before any hypothesis sees the next one. At a frame up to ``beam`` hypotheses try their
    arcs: those without a label, and those of their ``beam`` best labels. Arcs that lead to the same labels at the same
    frame become one hypothesis, and their probabilities are added. Then the ``beam`` best hypotheses are kept. The
    search tries further labels of a frame as long as one of their hypotheses is better than the worst one that has left
    the frame, or adds to one that has left it. A beam with room for every hypothesis gives exactly the probability of
    each label sequence.

    For RNN-T, monotonic and HAT that probability is exp(-loss) where no limit on labels applies. A limit takes the
    paths with more labels out of the sum and leaves the others as they are. For multi-blank and TDT one thing differs.
    In the loss a path must land on the end. Here a jump over the last frame ends the utterance too, and its probability
    counts. A decoder cannot know the end, because audio may come in pieces. So the losses' rules for the last frame
    (``last_blank``, the last blank of TDT) do not hold here.

    With ``beam=1`` and labels that all take frames the result is that of :func:`greedy_decode`. With other labels, a
    beam of 1 compares hypotheses that have left the frame, and the greedy search compares single arcs.

    Args:
      loss, predictor, joint, params, state, encoded, lengths: as in :func:`greedy_decode`. The functions see the rows
        of all hypotheses, R = B * ``beam``.
      labels_per_frame, max_labels, internal_lm_weight: as in :func:`greedy_decode`.
      blank_penalty, temperature, start, confidence, fusion: as in :func:`greedy_decode`.
      beam: N, how many hypotheses are kept.
      length_normalization: hypotheses are ranked by their score divided by (labels + 1) to this power. 0 ranks by the
        scores. The search itself compares scores, and the result holds scores, not quotients.

    Returns:
      :class:`Hypotheses`, the best first: labels, times and, for TDT, durations ``[B, N, L]``; lengths, scores and
      truncated ``[B, N]``. A score is the log-probability of the labels, summed over the paths that were kept. Times,
      ``truncated``, ``log_probs`` and ``entropy`` are those of the best path of a hypothesis. If there are fewer than
      N hypotheses, the others have a score of -inf and no labels. The rest is as in :func:`greedy_decode`.

    Raises:
      TypeError, ValueError: as :func:`greedy_decode`; ValueError also if ``beam`` is below 1.

    References:
      Graves, Sequence transduction with recurrent neural networks, 2012 (arXiv:1211.3711). Saon et al.,
      Alignment-length synchronous decoding for RNN transducer, 2020, which describes the time-synchronous search too.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> frames = jnp.log(jnp.array([[[0.6, 0.4], [0.6, 0.4]]]))  # B = 1, T = 2, V = 2: a blank and one label
      >>> found = jax_rnnt.decoding.beam_decode(
      ...     jax_rnnt.MonotonicRNNTLoss(blank=0),
      ...     lambda params, state, label: (state, label),
      ...     lambda params, encoded, predicted: encoded,
      ...     None, None, frames, jnp.array([2]), beam=3,
      ... )
      >>> found.lengths  # one label is the most probable: it may stand at either frame
      Array([[1, 0, 2]], dtype=int32)
      >>> jnp.exp(found.scores)
      Array([[0.48      , 0.35999998, 0.16      ]], dtype=float32)
    """
    decoder = BeamDecoder(
        loss,
        predictor,
        joint,
        labels_per_frame=labels_per_frame,
        max_labels=max_labels,
        internal_lm_weight=internal_lm_weight,
        blank_penalty=blank_penalty,
        temperature=temperature,
        start=start,
        confidence=confidence,
        fusion=fusion,
        beam=beam,
        length_normalization=length_normalization,
    )
    return decoder.hypotheses(decoder.step(params, decoder.init(params, state, encoded), encoded, lengths))
