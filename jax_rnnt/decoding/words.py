"""Words with their times, from the labels of hypotheses: plain Python objects, on the host."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np

from jax_rnnt import checks
from jax_rnnt.decoding.hypotheses import Hypotheses

_Confidence = Literal["min", "mean", "product"]
_OF_WORDS: dict[str, Callable[[list[float]], float]] = {
    "min": min,
    "mean": lambda each: sum(each) / len(each),
    "product": math.prod,
}


class Word(NamedTuple):
    """A word that was recognised."""

    text: str
    start: float  #: in seconds, when the frame of its first label begins
    end: float  #: in seconds, when the frames of its last label end
    confidence: float | None  #: in [0, 1]; None where hypotheses have no ``log_probs``


def words(
    hypotheses: Hypotheses,
    pieces: Sequence[str],
    *,
    frame_seconds: float,
    separator: str = "▁",
    confidence: _Confidence = "mean",
) -> list:
    """The words of hypotheses, with their times and confidences.

    The pieces of a hypothesis are put together, and ``separator`` divides them into words. It may stand at the
    beginning of a piece, as sentencepiece writes it, at its end, or be a piece of its own. Two separators with nothing
    between them count as one.

    Args:
      hypotheses: what a decoder returned.
      pieces: V strings, those of the label ids. Entries of blanks do not matter.
      frame_seconds: the time from one frame of the encoder to the next.
      separator: what divides words: "▁" for sentencepiece, " " for characters with a space, "" if each label is a word,
        as in Chinese.
      confidence: what becomes of the probabilities of a word's labels: their minimum, mean or product. The hypotheses
        must come from a decoder with ``confidence=True``, or else the words have none.

    Returns:
      For each utterance a list of :class:`Word`. For a beam, for each utterance N such lists. A label that takes no
      frame or does not say how many it takes ends with its own frame. Times count from the beginning of the utterance.

    Raises:
      TypeError: if ``frame_seconds`` is not a number.
      ValueError: if ``pieces`` has too few entries, or ``confidence`` is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> frames = 9.0 * jax.nn.one_hot(jnp.array([[2, 0, 3, 1, 0]]), 4)  # B = 1, T = 5, V = 4
      >>> found = jax_rnnt.decoding.greedy_decode(
      ...     jax_rnnt.MonotonicRNNTLoss(blank=0),
      ...     lambda params, state, label: (state, label),
      ...     lambda params, encoded, predicted: encoded,
      ...     None, None, frames, jnp.array([5]),
      ... )
      >>> each = jax_rnnt.decoding.words(found, ["<blank>", "▁world", "▁hel", "lo"], frame_seconds=0.25)
      >>> [(word.text, word.start, word.end) for word in each[0]]
      [('hello', 0.0, 0.75), ('world', 0.75, 1.0)]
    """
    checks.number("frame_seconds", frame_seconds)
    if confidence not in _OF_WORDS:
        raise ValueError(f"`confidence` must be one of {get_args(_Confidence)}, got {confidence!r}.")
    found: Hypotheses = jax.device_get(hypotheses)
    most = int(np.max(found.labels, initial=-1))
    if most >= len(pieces):
        raise ValueError(f"`pieces` must have a string for every label, got {len(pieces)}, and there is label {most}.")

    def of(found: Hypotheses) -> list:
        if np.ndim(found.lengths) > 0:
            return [of(jax.tree.map(operator.itemgetter(i), found)) for i in range(len(found.lengths))]
        texts = [pieces[label] for label in found.labels[: found.lengths]]
        return [_word(found, members, frame_seconds, confidence) for members in _divided(texts, separator)]

    return of(found)


def _word(found: Hypotheses, members: list[tuple[int, str]], frame_seconds: float, confidence: _Confidence) -> Word:
    """The word of one hypothesis that :func:`_divided` gives."""
    first, last = members[0][0], members[-1][0]
    frames = 1 if found.durations is None else max(1, int(found.durations[last]))
    end = (int(found.times[last]) + frames) * frame_seconds
    certainty = None
    if found.log_probs is not None:
        certainty = float(_OF_WORDS[confidence]([math.exp(found.log_probs[i]) for i, _ in members]))
    return Word("".join(text for _, text in members), int(found.times[first]) * frame_seconds, end, certainty)


def _divided(pieces: Iterable[str], separator: str) -> list[list[tuple[int, str]]]:
    """Words, each as the indices of its pieces with what they add to it."""
    found: list[list[tuple[int, str]]] = [[]]
    for i, piece in enumerate(pieces):
        for k, text in enumerate(piece.split(separator) if separator else ("", piece)):
            if k > 0:
                found.append([])
            if text:
                found[-1].append((i, text))
    return [members for members in found if members]


def ctm(found: Iterable[Word], utterance: str, *, channel: str = "1") -> str:
    """Lines of a CTM file, NIST's format of recognised words.

    A line holds the utterance, the channel, the start and the duration in seconds, the word, and its confidence if it
    has one.

    Args:
      found: the words of one hypothesis, from :func:`words`.
      utterance: its name.
      channel: its channel.

    Raises:
      TypeError: if ``found`` holds anything but words, such as the lists of words of several hypotheses.
      ValueError: if a name or a word holds white space, which divides the columns, or is empty.

    Example:
      >>> import jax_rnnt
      >>> word = jax_rnnt.decoding.Word("hello", 0.25, 0.75, 0.9)
      >>> jax_rnnt.decoding.ctm([word], "george-1")
      'george-1 1 0.250 0.500 hello 0.900\\n'
    """
    lines = []
    for word in found:
        if not isinstance(word, Word):
            raise TypeError(
                "`found` must be the words of one hypothesis, that is, one of the lists that `words` returns, got "
                f"{checks.described(word)} among them."
            )
        for column in (utterance, channel, word.text):
            if len(column.split()) != 1 or column != column.strip():
                raise ValueError(f"A column of a CTM file must be one word without white space, got {column!r}.")
        certainty = "" if word.confidence is None else f" {word.confidence:.3f}"
        span = f"{word.start:.3f} {word.end - word.start:.3f}"
        lines.append(f"{utterance} {channel} {span} {word.text}{certainty}\n")
    return "".join(lines)
