"""Boosted phrases against plain Python: a search from left to right, and what an open match has earned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import jit

from jax_rnnt.decoding import PhraseBoost

V, LENGTH = 4, 14


def counted(labels, phrases) -> float:
    """What the phrases in `labels` add: at each label the longest one, and the search goes on behind it."""
    total, i = 0.0, 0
    while i < len(labels):
        here = [phrase for phrase in phrases if labels[i : i + len(phrase)] == phrase]
        longest = max(here, key=len, default=())
        total += len(longest) * phrases[longest] if longest else 0
        i += len(longest) or 1
    return total


def earned(labels, phrases) -> float:
    """What a hypothesis with these labels has earned, where the last ones may become a phrase."""
    i = 0
    while i < len(labels):
        rest = labels[i:]
        begun = [score for phrase, score in phrases.items() if phrase[: len(rest)] == rest]
        if any(len(phrase) > len(rest) for phrase in phrases if phrase[: len(rest)] == rest):
            return counted(labels[:i], phrases) + len(rest) * max(begun)
        here = [len(phrase) for phrase in phrases if labels[i : i + len(phrase)] == phrase]
        i += max(here, default=1)
    return counted(labels, phrases)


def random_phrases(rng: np.random.Generator) -> dict[tuple[int, ...], float]:
    """Few labels and many phrases, so that they repeat themselves, overlap and contain each other."""
    labels, count = rng.integers(1, V), rng.integers(0, 9)
    each = [tuple(rng.integers(1, labels + 1, rng.integers(1, 7)).tolist()) for _ in range(count)]
    return {phrase: float(rng.choice([-1.5, 0.5, 1, 1, 2])) for phrase in each}


def run(boost: PhraseBoost, sequences: np.ndarray):
    """The scores [L + 1, B, V] before each label of `sequences` [B, L] and behind the last, and what ends add."""

    def turn(state, label):
        state, scores = boost.step(boost.params, state, label)
        return state, (scores, boost.final(boost.params, state))

    def walked(params, state, labels):
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, labels.shape[:1]), state)
        return jax.lax.scan(turn, state, jnp.pad(labels.astype(jnp.int32), ((0, 0), (1, 0))).T)[1]

    return jax.device_get(jit(walked)(boost.params, boost.state, sequences))


def test_scores_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    lists = [random_phrases(rng) for _ in range(60)]
    sequences = np.stack([rng.integers(1, max(map(max, one), default=1) + 1, LENGTH) for one in lists])
    scores, ends = run(PhraseBoost.from_lists(lists, V, score=[list(one.values()) for one in lists]), sequences)
    assert max(map(len, lists)) == 8 and min(map(len, lists)) == 0
    for b, phrases in enumerate(lists):
        for i in range(LENGTH + 1):
            labels = tuple(sequences[b, :i].tolist())
            before = earned(labels, phrases)
            for v in range(1, V):
                assert scores[i, b, v] == pytest.approx(earned((*labels, v), phrases) - before, abs=1e-5)
            assert ends[i, b] == pytest.approx(counted(labels, phrases) - before, abs=1e-5)


def test_lists_of_similar_sizes_share_a_program():
    traced = []
    program = jit(lambda boost: traced.append(boost) or boost.params.final)
    for lists in ([[1, 2, 3], [1, 3, 2]], []), ([[3, 2, 1], [1, 2], [3, 1]], [[2], [1, 2], [3, 2]]):
        program(PhraseBoost.from_lists(lists, V))
    assert len(traced) == 1


def test_a_phrase_twice_counts_with_its_highest_score():
    one, two = PhraseBoost.from_phrases([[1, 2]], V, score=2), PhraseBoost.from_phrases([(1, 2)] * 2, V, score=[2, 1])
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


@pytest.mark.parametrize(
    ("phrases", "options", "error", "sentence"),
    [
        (
            [[1], []],
            {},
            ValueError,
            r"`phrases\[1\]` must have one label or more, each in \[0, vocab_size\) = \[0, 4\)",
        ),
        ([[1, 4]], {}, ValueError, r"`phrases\[0\]` must have .* got \(1, 4\)"),
        ([[-1]], {}, ValueError, r"`phrases\[0\]`"),
        (["ab"], {}, TypeError, r"`phrases\[0\]\[0\]` must be an integer"),
        ([[1]], {"score": [1.0, 2.0]}, ValueError, "`score` must be a number, or one per phrase, which is 1, got 2"),
        ([[1]], {"score": float("inf")}, ValueError, "`score` must be finite, got inf"),
        ([[1]], {"score": None}, TypeError, "`score`"),
    ],
)
def test_what_is_wrong_with_phrases_is_a_sentence(phrases, options, error, sentence):
    with pytest.raises(error, match=sentence):
        PhraseBoost.from_phrases(phrases, V, **options)


def test_lists_and_scores_must_be_as_many():
    with pytest.raises(ValueError, match="one per list, which is 2, got 3"):
        PhraseBoost.from_lists([[], [[1]]], V, score=[1, 2, 3])
    assert PhraseBoost.from_lists([], V).state[0].shape == (0,)
