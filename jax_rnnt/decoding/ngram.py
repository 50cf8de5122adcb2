"""N-gram language models with back-off."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_rnnt.decoding import backoff
from jax_rnnt.decoding.arpa import Ngram, read_arpa
from jax_rnnt.decoding.backoff import State
from jax_rnnt.decoding.fusion import Fusion

_HIGHEST = 6
_NEVER = -100.0
"""The logarithm to base 10 of an unknown word in a model without ``<unk>``, as in kenlm."""

_Words = tuple[str, ...]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["params", "state", "weight"], meta_fields=["step", "final"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class NgramLM(Fusion):
    r"""A :class:`Fusion` with an n-gram language model, :math:`s(y | h) = \ln p(y | h)`. :meth:`from_arpa` makes one.

    .. math:: p(y | h) = p^*(h y) \text{ if the model has } h y, \text{ else } b(h) \, p(y | h'),

    where h' is h without its first label, and b(h) = 1 if the model does not have h (Katz 1987). The arrays grow with
    the n-grams. A step reads, for each order, the n-grams that continue the last labels.

    References:
      Katz, Estimation of probabilities from sparse data for the language model component of a speech recognizer, 1987.
    """

    @classmethod
    def from_arpa(cls, path: str | os.PathLike[str], labels: Sequence[str], *, weight: ArrayLike = 1.0) -> NgramLM:
        """A model of labels (pieces or characters, not of words that are longer than a label), up to order 6.

        A hypothesis begins behind ``<s>``. Its end adds ``</s>`` to the scores of hypotheses that a decoder returns,
        if the file has it.

        Args:
          path: an ARPA file, plain or packed with gzip, as kenlm and SRILM write it.
          labels: V strings, those that the file has for the label ids. A label that the file does not have is
            ``<unk>``. If the file has no ``<unk>``, its probability is 1e-100. Entries of blanks do not matter.
          weight: of the model. ``dataclasses.replace`` changes it without another compilation.

        Raises:
          OSError: if the file cannot be read.
          ValueError: if it is not an ARPA file, its order is above 6, or it has none of the labels.

        Example:
          >>> import pathlib, tempfile
          >>> import jax.numpy as jnp
          >>> import jax_rnnt
          >>> path = pathlib.Path(tempfile.mkdtemp()) / "bigram.arpa"
          >>> _ = path.write_text('''
          ... \\\\data\\\\
          ... ngram 1=4
          ... ngram 2=2
          ... \\\\1-grams:
          ... -99 <s> -0.3
          ... -1 </s>
          ... -0.5 a -0.2
          ... -0.7 b
          ... \\\\2-grams:
          ... -0.1 <s> b
          ... -0.4 a </s>
          ... \\\\end\\\\
          ... ''')
          >>> lm = jax_rnnt.decoding.NgramLM.from_arpa(path, ["<blank>", "a", "b"], weight=0.3)
          >>> state, scores = lm.step(lm.params, lm.state, jnp.array([0]))  # the start symbol
          >>> [f"{score:.2f}" for score in scores[0, 1:] / jnp.log(10)]  # a backs off, b does not
          ['-0.80', '-0.10']
        """
        automaton, start = _compiled(read_arpa(path), list(labels), str(path))
        state = jnp.zeros(1, jnp.int32), jnp.full(1, ~start, jnp.int32)
        return cls(backoff.step, automaton, state, weight, backoff.final)


class _Model:
    """The n-grams of a file, by their words: those of words that a decoder may see."""

    def __init__(self, orders: list[list[Ngram]], words: set[str]):
        context = words | {"<s>"}
        last = context | {"</s>"}
        self.probability: dict[_Words, float] = {}
        self.backoff: dict[_Words, float] = {}
        for order, ngrams in enumerate(orders, 1):
            for ngram in ngrams:
                if ngram.words[-1] in last and context.issuperset(ngram.words[:-1]):
                    self.probability[ngram.words] = ngram.probability
                    if order < len(orders):  # nothing follows those of the highest order
                        self.backoff[ngram.words] = ngram.backoff

    def score(self, words: _Words) -> float:
        """Of the last word after the others."""
        total = 0.0
        while words not in self.probability:
            if len(words) == 1:
                return total + _NEVER
            total += self.backoff.get(words[:-1], 0.0)
            words = words[1:]
        return total + self.probability[words]


def _compiled(orders: list[list[Ngram]], labels: list[str], path: str) -> tuple[backoff.Automaton, int]:
    """The automaton of the histories that the model tells apart, and the number of the first one."""
    if len(orders) > _HIGHEST:
        raise ValueError(f"`path` must hold a model of order {_HIGHEST} or less, got {len(orders)}: {path}.")
    known = {ngram.words[0] for ngram in orders[0]}
    if not known.intersection(labels):
        raise ValueError(f"`path` must hold a model of `labels`, but has none of these {len(labels)} strings: {path}.")
    unknown = next((word for word in ("<unk>", "<UNK>") if word in known), "<unk>")
    ids: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        ids.setdefault(label if label in known else unknown, []).append(i)
    model = _Model(orders, set(ids))

    # The histories: beginnings of n-grams, and those that cost something to leave. A file that was pruned may lack the
    # beginning of an n-gram. Then the automaton has an arc there all the same, with the score of backing off.
    arcs = {words[:k] for words in model.probability for k in range(1, len(words) + 1)}
    histories = {words[:-1] for words in arcs} | {words for words, cost in model.backoff.items() if cost != 0}
    number = {words: i for i, words in enumerate(sorted(histories | {()}, key=lambda words: (len(words), words)))}

    def longest(words: _Words) -> int:
        """The longest end of ``words`` that is a history."""
        return next(number[words[k:]] for k in range(len(words) + 1) if words[k:] in number)

    ends = ("</s>",) in model.probability
    states = [State({}) for _ in number]
    for words, i in number.items():
        states[i].fallback = longest(words[1:])
        states[i].penalty = model.backoff.get(words, 0.0) * math.log(10)
        states[i].final = model.score((*words, "</s>")) * math.log(10) if ends else 0.0
    for words in arcs | {(word,) for word in ids}:
        arc = longest(words), model.score(words) * math.log(10)
        for i in ids.get(words[-1], ()):
            states[number[words[:-1]]].arcs[i] = arc
    return backoff.compiled([states], len(labels)), longest(("<s>",))
