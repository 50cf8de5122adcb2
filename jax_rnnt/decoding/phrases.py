"""Phrases that a decoder prefers: names, commands, hot words."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.decoding import backoff
from jax_rnnt.decoding.backoff import State
from jax_rnnt.decoding.fusion import Fusion

_Phrase = Sequence[int]
_Scores = float | Sequence[float]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "state", "weight"], meta_fields=["step", "final"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class PhraseBoost(Fusion):
    r"""A :class:`Fusion` that makes phrases more probable: names, commands, hot words.

    The labels of a hypothesis are searched for phrases from left to right. At each label the longest phrase that begins
    there counts. The search goes on behind it, or else at the next label. So each label counts once at most, also if
    phrases contain each other or overlap. A phrase of n labels adds n times its score.

    A match earns its scores as it goes, label by label, or else the search would drop the hypothesis before the phrase
    is complete. When the match fails, what it has earned is taken back, except for the phrases that are complete. The
    same happens at the end of the utterance. If an open match may still become several phrases, it earns the highest of
    their scores.

    :meth:`from_phrases` and :meth:`from_lists` make one. Its arrays grow with the phrases, not with the vocabulary
    times the phrases. Their sizes are rounded up to powers of two, so lists of similar sizes share a compiled program.

    References:
      Aho and Corasick, Efficient string matching: an aid to bibliographic search, 1975. Zhao et al., Shallow-fusion
      end-to-end contextual biasing, Interspeech 2019.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> boost = jax_rnnt.decoding.PhraseBoost.from_phrases([[2, 3]], vocab_size=4, score=1.5)
      >>> frames = jnp.log(jnp.array([[[0.1, 0.5, 0.3, 0.1], [0.1, 0.6, 0.1, 0.2]]]))  # B = 1, T = 2, V = 4
      >>> model = (
      ...     jax_rnnt.MonotonicRNNTLoss(blank=0),
      ...     lambda params, state, label: (state, label),
      ...     lambda params, encoded, predicted: encoded,
      ... )
      >>> found = jax_rnnt.decoding.beam_decode(*model, None, None, frames, jnp.array([2]), beam=3, fusion=boost)
      >>> found.labels[0, 0]
      Array([2, 3], dtype=int32)
    """

    @classmethod
    def from_phrases(
        cls, phrases: Iterable[_Phrase], vocab_size: int, *, score: _Scores = 1.0, weight: ArrayLike = 1.0
    ) -> PhraseBoost:
        """The same phrases for all utterances.

        Args:
          phrases: sequences of label ids, each of one label or more. A phrase may occur more than once: its highest
            score counts.
          vocab_size: V, the number of label ids, with the blank.
          score: what each label of a phrase adds to the score of a hypothesis: a number, or one per phrase. A negative
            score makes a phrase less probable.
          weight: all scores are multiplied by it. ``dataclasses.replace`` changes it without another compilation.

        Raises:
          TypeError: if a label is not an integer or a score is not a number.
          ValueError: if a phrase is empty, a label is outside of [0, V), a score is not finite, or there are not as
            many scores as phrases.
        """
        automaton = backoff.compiled([_states(_scored(phrases, vocab_size, score))], vocab_size, _power_of_two)
        return cls(backoff.step, automaton, _begin(np.zeros(1, np.int32)), weight, backoff.final)

    @classmethod
    def from_lists(
        cls,
        lists: Iterable[Iterable[_Phrase]],
        vocab_size: int,
        *,
        score: float | Sequence[_Scores] = 1.0,
        weight: ArrayLike = 1.0,
    ) -> PhraseBoost:
        """Phrases of their own for each utterance of a batch.

        Args:
          lists: B lists of phrases, in the order of the batch. A list may be empty.
          vocab_size, weight: as in :meth:`from_phrases`.
          score: a number, or for each list what :meth:`from_phrases` takes.

        Raises:
          TypeError, ValueError: as :meth:`from_phrases`.
        """
        each = [list(phrases) for phrases in lists]
        scores = _per_item("score", score, len(each), "list")
        automata = [_states(_scored(*one)) for one in zip(each, [vocab_size] * len(each), scores, strict=True)]
        automaton = backoff.compiled(automata or [_states({})], vocab_size, _power_of_two)
        return cls(backoff.step, automaton, _begin(np.arange(len(each), dtype=np.int32)), weight, backoff.final)


def _begin(group: np.ndarray) -> backoff.Place:
    return jnp.asarray(group), jnp.full(group.shape, ~0, jnp.int32)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length() if size > 0 else 0


def _per_item(name: str, value: Any, count: int, item: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) and np.ndim(value) == 0:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"`{name}` must be a number, or one per {item}, which is {count}, got {len(value)}.")
    return value


def _scored(phrases: Iterable[_Phrase], vocab_size: int, score: _Scores) -> dict[tuple[int, ...], float]:
    """Each phrase with the score of its labels."""
    size = checks.static_index("vocab_size", vocab_size)
    each = [checks.static_integers(f"phrases[{i}]", phrase) for i, phrase in enumerate(phrases)]
    found: dict[tuple[int, ...], float] = {}
    for i, (phrase, one) in enumerate(zip(each, _per_item("score", score, len(each), "phrase"), strict=True)):
        if not phrase or not 0 <= min(phrase) <= max(phrase) < size:
            wanted = f"one label or more, each in [0, vocab_size) = [0, {size})"
            raise ValueError(f"`phrases[{i}]` must have {wanted}, got {phrase}.")
        checks.number("score", one)
        if not math.isfinite(one):
            raise ValueError(f"`score` must be finite, got {one}.")
        found[phrase] = max(float(one), found.get(phrase, -math.inf))
    return found


def _states(scores: dict[tuple[int, ...], float]) -> list[State]:
    """The automaton of phrases: a state for each beginning of a phrase that is not a whole one.

    A match that fails has seen the labels of its state. What is left of them is what the search from left to right
    makes of them: the phrases in them count, and the rest may be the beginning of another match. That beginning is the
    state to back off to. Its labels are the end of those of the state, so it is known for shorter states first.
    """
    earned: dict[tuple[int, ...], float] = {}  # by an open match, or by a phrase that no other one goes on from
    for phrase, score in scores.items():
        for k in range(1, len(phrase) + 1):
            earned[phrase[:k]] = max(k * score, earned.get(phrase[:k], -math.inf))
    beginnings = sorted({phrase[:k] for phrase in scores for k in range(1, len(phrase))}, key=len)
    number = {(): 0} | {beginning: i for i, beginning in enumerate(beginnings, 1)}
    states = [State({}) for _ in number]
    for match, value in earned.items():
        before = match[:-1]
        states[number[before]].arcs[match[-1]] = number.get(match, 0), value - earned.get(before, 0.0)
    kept = [0.0] * len(states)  # of what a state has earned, what counts when the match has failed, with the fallback's
    for match in beginnings:
        state, shorter = states[number[match]], number[match[:-1]]
        if match in scores:
            kept[number[match]] = len(match) * scores[match]
        elif shorter:
            to, gain = backoff.walk(states, states[shorter].fallback, match[-1])
            state.fallback, kept[number[match]] = to, kept[shorter] + gain
        state.penalty = kept[number[match]] - earned[match]
        state.final = state.penalty + states[state.fallback].final
    return states
