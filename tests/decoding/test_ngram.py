"""N-gram models against plain Python: the definition of back-off, on the n-grams that the file was made of."""

import gzip
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import jit

from jax_rnnt.decoding import NgramLM

LABELS = ["<blank>", "a", "b", "▁c", "not in the file", "d"]
KNOWN = ["a", "b", "▁c", "d"]
ROWS, LENGTH = 24, 9


def random_model(rng: np.random.Generator, order: int) -> dict[tuple[str, ...], tuple[float, float]]:
    """Log10 probabilities and back-offs. They need not sum to 1. Some n-grams lack their beginning or their end."""
    last = [*KNOWN, "</s>", "<unk>"]
    ngrams = {(word,): (-9.0 if word == "<unk>" else -rng.uniform(0.2, 2), -rng.uniform()) for word in [*last, "<s>"]}
    for n in range(2, order + 1):
        shorter = [words for words in ngrams if len(words) == n - 1 and words[-1] != "</s>"]
        if n > 3:  # most of a sequence's own n-grams, or else random ones of high order would never be met
            shorter += [tuple(rng.choice(KNOWN, n - 1).tolist()) for _ in range(9)]
        for _ in range(14):
            words = (*shorter[rng.integers(len(shorter))], str(rng.choice(last)))
            ngrams[words] = -rng.uniform(0.1, 2), -rng.uniform() if n < order else 0.0
    return ngrams


def written(path: Path, ngrams, order: int) -> Path:
    by_order = [{w: x for w, x in ngrams.items() if len(w) == n} for n in range(1, order + 1)]
    lines = ["a comment", "\\data\\", *(f"ngram {n}={len(of)}" for n, of in enumerate(by_order, 1))]
    for n, of in enumerate(by_order, 1):
        lines += ["", f"\\{n}-grams:"]
        lines += [f"{p}\t{' '.join(words)}" + f"\t{b}" * (b != 0) for words, (p, b) in of.items()]
    text = "\n".join([*lines, "", "\\end\\", ""])
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def defined(ngrams, words) -> float:
    """The log10 probability of the last word after the others."""
    if words in ngrams:
        return ngrams[words][0]
    if len(words) == 1:
        return -100.0
    return ngrams.get(words[:-1], (0.0, 0.0))[1] + defined(ngrams, words[1:])


def run(lm: NgramLM, sequences: np.ndarray):
    """The scores [R, L + 1, V] before each label and behind the last, and of the end [R, L + 1]."""

    def turn(state, label):
        state, scores = lm.step(lm.params, state, label)
        return state, (scores, lm.final(lm.params, state))

    def walked(params, state, labels):
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, labels.shape[:1]), state)
        _, found = jax.lax.scan(turn, state, jnp.pad(labels, ((0, 0), (1, 0))).T)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), found)

    return jax.device_get(jit(walked)(lm.params, lm.state, sequences.astype(np.int32)))


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_scores_are_those_of_the_definition(order, tmp_path):
    rng = np.random.default_rng(order)
    ngrams = random_model(rng, order)
    sequences = rng.integers(1, len(LABELS), (ROWS, LENGTH))
    longest = [[LABELS.index(word) for word in words if word in LABELS] for words in ngrams if len(words) == order]
    for row, labels in zip(sequences, longest, strict=False):  # an n-gram of the file at the beginning
        row[: len(labels)] = labels
    lm = NgramLM.from_arpa(written(tmp_path / f"lm.arpa{'.gz' * (order == 3)}", ngrams, order), LABELS)
    scores, ends = run(lm, sequences)
    met = 0
    for r, row in enumerate(sequences):
        words = ["<s>", *(LABELS[i] if LABELS[i] in KNOWN else "<unk>" for i in row)]
        for i in range(LENGTH + 1):
            history = tuple(words[: i + 1])[-order + 1 :] if order > 1 else ()
            for v, label in enumerate(LABELS):
                wanted = defined(ngrams, (*history, label if label in KNOWN else "<unk>")) * math.log(10)
                assert scores[r, i, v] == pytest.approx(wanted, rel=1e-5), (words[: i + 1], label)
                met += (*history, label) in ngrams and len(history) == order - 1
            assert ends[r, i] == pytest.approx(defined(ngrams, (*history, "</s>")) * math.log(10), rel=1e-5)
    assert met > 10


def test_a_file_without_ends_and_without_unknown_words(tmp_path):
    ngrams = {("a",): (-0.5, -0.25), ("b",): (-0.75, 0.0), ("a", "b"): (-0.125, 0.0)}
    lm = NgramLM.from_arpa(written(tmp_path / "lm", ngrams, 2), ["a", "b", "c"])
    scores, ends = run(lm, np.array([[0, 1, 2]]))
    a, b = [-0.5, -0.75, -100], [-0.75, -0.125, -100.25]
    np.testing.assert_allclose(scores[0] / math.log(10), [a, b, a, a], rtol=1e-6)
    assert (ends == 0).all()


GOOD = "\\data\\\nngram 1=2\n\n\\1-grams:\n-1 a\n-1 b -0.5\n\n\\end\\\n"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (GOOD, "no model", r"line 1: the file has no line \\data\\"),
        ("\\data\\", "data", "line 8: the file announces nothing"),
        ("\\end\\\n", "", r"line 7: the file ends without \\end\\"),
        ("1=2", "1=3", r"announces {1: 3}, as n-grams of each order, and has {1: 2}"),
        ("ngram 1=2", "ngram one", "line 2: expected a line such as 'ngram 1=200', got 'ngram one'"),
        ("\\1-grams:", "\\2-grams:", r"line 4: expected the 1-grams, got \\2-grams:"),
        ("-1 a", "-1 a b c", "line 5: expected a number of 0 or less, a word and perhaps another number, got '-1 a b"),
        ("-1 a", "nan a", "line 5: expected a number"),
        ("-1 a", "-1 a x", "line 5: expected a number"),
        ("-1 a", "1 a", "line 5: expected a number of 0 or less"),
        ("-1 a\n-1 b -0.5", "-1 c\n-1 d", r"has none of these 2 strings"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_sentence(old, new, sentence, tmp_path):
    (tmp_path / "lm").write_text(GOOD)
    NgramLM.from_arpa(tmp_path / "lm", ["a", "b"])
    (tmp_path / "lm").write_text(GOOD.replace(old, new))
    with pytest.raises(ValueError, match=sentence):
        NgramLM.from_arpa(tmp_path / "lm", ["a", "b"])


def test_an_order_that_is_too_high_is_a_sentence(tmp_path):
    ngrams = {("a",) * n: (-1.0, 0.0) for n in range(1, 8)}
    with pytest.raises(ValueError, match="order 6 or less, got 7"):
        NgramLM.from_arpa(written(tmp_path / "lm", ngrams, 7), ["a"])
