"""Words of hypotheses: how pieces are put together, their times and confidences, and CTM files."""

import math
from itertools import groupby

import jax
import numpy as np
import pytest

from jax_rnnt.decoding import Hypotheses, Word, ctm, words

PIECES = ["<blank>", "▁he", "llo", "▁", "wor", "▁world", "a▁b", "lo▁"]


def hypotheses(labels, times, durations=None, probabilities=None) -> Hypotheses:
    """Rows of the same or of different lengths, as a decoder returns them: -1 behind the last label."""

    def padded(rows, fill=-1):
        return np.array([[*row, *[fill] * (most - len(row))] for row in rows])

    most = max(map(len, labels)) + 1
    log_probs = None if probabilities is None else padded([np.log(row) for row in probabilities], 0.0)
    arrays = padded(labels), np.array([len(row) for row in labels]), np.zeros(len(labels)), padded(times)
    durations = None if durations is None else padded(durations)
    return Hypotheses(*arrays, durations, np.zeros(len(labels), bool), log_probs=log_probs)


def of(labels, **options) -> list[Word]:
    """The words of one hypothesis whose labels are at frames 0, 1, 2, ..."""
    found = hypotheses([labels], [range(len(labels))])
    return words(found, PIECES, frame_seconds=1.0, **options)[0]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ([1, 2, 5], [("hello", 0, 2), ("world", 2, 3)]),
        ([2, 1], [("llo", 0, 1), ("he", 1, 2)]),  # no separator at the beginning
        ([3, 3, 4, 3], [("wor", 2, 3)]),  # separators alone are no words
        ([1, 6, 2], [("hea", 0, 2), ("bllo", 1, 3)]),  # a separator inside of a piece
        ([1, 7, 4], [("helo", 0, 2), ("wor", 2, 3)]),  # a separator at the end
        ([], []),
    ],
)
def test_pieces_become_words(labels, wanted):
    assert [word[:3] for word in of(labels)] == wanted


def test_each_label_is_a_word_where_nothing_separates():
    assert [word[:3] for word in of([4, 2], separator="")] == [("wor", 0, 1), ("llo", 1, 2)]


def test_characters_with_a_space():
    # Against Python's own division of the text.
    rng = np.random.default_rng(0)
    characters = "- ab"
    labels = [rng.integers(1, 4, rng.integers(0, 12)).tolist() for _ in range(50)]
    times = [np.sort(rng.integers(0, 20, len(row))).tolist() for row in labels]
    durations = [rng.integers(0, 3, len(row)).tolist() for row in labels]
    probabilities = [rng.uniform(0.1, 1, len(row)).tolist() for row in labels]
    found = hypotheses(labels, times, durations, probabilities)
    of_words = {"min": min, "product": math.prod, "mean": np.mean}
    each = {name: words(found, characters, frame_seconds=0.04, separator=" ", confidence=name) for name in of_words}
    for b, row in enumerate(labels):
        text = "".join(characters[i] for i in row)
        spans = [list(span) for space, span in groupby(range(len(row)), key=lambda i: text[i] == " ") if not space]
        for name, function in of_words.items():
            assert [word.text for word in each[name][b]] == text.split()
            for word, span in zip(each[name][b], spans, strict=True):
                end = times[b][span[-1]] + max(1, durations[b][span[-1]])
                assert word.start == pytest.approx(0.04 * times[b][span[0]])
                assert word.end == pytest.approx(0.04 * end)
                assert word.confidence == pytest.approx(function([probabilities[b][i] for i in span]))


def test_a_beam_has_the_words_of_each_hypothesis():
    one = hypotheses([[1, 2], [5], []], [[0, 1], [3], []])
    found = words(jax.tree.map(lambda x: x[None], one), PIECES, frame_seconds=0.5)
    assert found == [[[Word("hello", 0.0, 1.0, None)], [Word("world", 1.5, 2.0, None)], []]]
    assert found[0] == words(one, PIECES, frame_seconds=0.5)


def test_lines_of_a_ctm_file():
    found = [Word("hello", 0.5, 1.25, 0.875), Word("world", 1.25, 1.5, None)]
    assert ctm(found, "george-1", channel="A") == ("george-1 A 0.500 0.750 hello 0.875\ngeorge-1 A 1.250 0.250 world\n")
    assert ctm([], "george-1") == ""
    for name, text in (("of george", "hello"), ("george", "good morning"), ("george", "")):
        with pytest.raises(ValueError, match="one word without white space"):
            ctm([Word(text, 0.0, 1.0, None)], name)
    with pytest.raises(TypeError, match="`found` must be the words of one hypothesis, that is, one of the lists"):
        ctm([found, found], "george")


def test_what_is_wrong_is_a_sentence():
    with pytest.raises(ValueError, match="`pieces` must have a string for every label, got 8, and there is label 8"):
        of([1, 8])
    with pytest.raises(ValueError, match="`confidence` must be one of"):
        of([1], confidence="max")
    with pytest.raises(TypeError, match="`frame_seconds` must be a number"):
        words(hypotheses([[1]], [[0]]), PIECES, frame_seconds=None)
