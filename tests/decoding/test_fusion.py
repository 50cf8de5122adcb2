"""Fusions against plain Python: greedy paths, and the sum over all paths of all label sequences."""

import functools
import itertools

import decoding_support as support
import jax.numpy as jnp
import numpy as np
import pytest
from decoding_support import LENGTHS, example, trained_with
from losses import jit
from reference_losses import Hat, Monotonic, MultiBlank, Rnnt, Tdt

import jax_rnnt
from jax_rnnt import decoding

V, FRAMES = 5, 3  # of the exact comparison
KINDS = (
    support.row("rnnt", jax_rnnt.rnnt_loss, Rnnt(blank=1), V),
    support.row("monotonic", jax_rnnt.monotonic_rnnt_loss, Monotonic(blank=0), V),
    support.row("multiblank", jax_rnnt.multiblank_rnnt_loss, MultiBlank(big_blanks=(0,), durations=(2,)), V),
    support.row("tdt", jax_rnnt.tdt_loss, Tdt(blank=2, durations=(2, 0, 1)), V + 3),
    support.row("hat", jax_rnnt.hat_loss, Hat(), V),
)
WEIGHTS = 0.7, -0.4
BIGRAM = np.log(np.random.default_rng(5).dirichlet(np.ones(V + 1), size=V))  # [last, next]; the last column is the end
LISTS = np.random.default_rng(6).normal(size=(2, 3, V))  # two lists of scores, at three positions in turn


def bigram(params, state, label):
    del state
    return label, params[label, :-1]


def lists(params, state, label):
    which, count = state
    return (which, count + 1), params[which, count % 3]


def fusions(batch, first=0):
    """A bigram model, and scores that depend on the utterance and on the number of labels."""
    which = (jnp.arange(batch, dtype=jnp.int32) + first) % 2
    return (
        decoding.Fusion(bigram, BIGRAM, jnp.zeros(1, jnp.int32), WEIGHTS[0], lambda params, last: params[last, -1]),
        decoding.Fusion(lists, LISTS, (which, jnp.zeros(batch, jnp.int32)), WEIGHTS[1]),
    )


def extra_of(start: int):
    def extra(b, labels):
        last = [start, *labels][-1]
        return WEIGHTS[0] * BIGRAM[last, :-1] + WEIGHTS[1] * LISTS[b % 2, len(labels) % 3]

    return extra


def end_of(start: int, labels) -> float:
    return WEIGHTS[0] * BIGRAM[[start, *labels][-1], -1]


def changes(kind):
    """The internal language model's weight, and what the fusions add."""
    return 0.3 if kind.name == "hat" else 0.0, extra_of(kind.oracle.blanks(kind.width)[0])


def model_of(kind):
    return trained_with(kind), support.predictor, support.joint


@pytest.mark.once
@pytest.mark.full(kind=["monotonic", "multiblank"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_wide_beam_is_exact(kind):
    b, start = 1, kind.oracle.blanks(kind.width)[0]
    alone, fused = {}, {}
    for n in range(FRAMES + 1):  # at most one label per frame
        for labels in itertools.product(support.labels_of(kind), repeat=n):
            score = support.log_probability(kind, b, labels, FRAMES, 1, *changes(kind))
            if score > -np.inf:
                fused[labels] = score + end_of(start, labels)
                alone[labels] = support.log_probability(kind, b, labels, FRAMES, 1)
    assert len(fused) > V**2
    width = len(fused) * max(dt for dt, _ in kind.oracle.moves)
    options = {"beam": width, "labels_per_frame": 1, "internal_lm_weight": changes(kind)[0], "fusion": fusions(1, b)}
    given = example(kind)
    found = jit(functools.partial(decoding.beam_decode, *model_of(kind), **options))(
        given.params, given.state[:1], given.encoded[b : b + 1, :FRAMES], np.array([FRAMES])
    )
    each = zip(
        *(np.asarray(x[0]).tolist() for x in (found.labels, found.lengths, found.scores, found.model_scores)),
        strict=True,
    )
    got = {tuple(labels[:n]): (score, model) for labels, n, score, model in each if score > -np.inf}
    assert got.keys() == fused.keys()
    for labels, scores in got.items():
        np.testing.assert_allclose(scores, (fused[labels], alone[labels]), rtol=1e-10)
    assert (np.diff([score for score, _ in got.values()]) <= 0).all()


@functools.cache
def greedy_of(kind):
    options = {"labels_per_frame": 2, "internal_lm_weight": changes(kind)[0]}

    def decode(fusion, *arrays):
        return decoding.greedy_decode(*model_of(kind), *arrays, fusion=fusion, **options)

    return jit(decode)


@pytest.mark.parametrize("kind", [KINDS[3], KINDS[4]], ids=lambda kind: kind.name)
def test_greedy_is_the_plain_loop(kind):
    given, start = example(kind), kind.oracle.blanks(kind.width)[0]
    found = greedy_of(kind)(fusions(5), given.params, given.state, given.encoded, LENGTHS)
    plain = [support.greedy(kind, b, frames, 2)[0] for b, frames in enumerate(LENGTHS)]
    assert [row[:n].tolist() for row, n in zip(found.labels, found.lengths, strict=True)] != plain
    for b, frames in enumerate(LENGTHS):
        labels, times, _, score = support.greedy(kind, b, frames, 2, *changes(kind))
        n = len(labels)
        assert found.labels[b, : found.lengths[b]].tolist() == labels
        assert found.times[b, :n].tolist() == times
        np.testing.assert_allclose(found.scores[b], score + end_of(start, labels), rtol=1e-10)
        extra = [extra_of(start)(b, labels[:u])[label] for u, label in enumerate(labels)]
        if kind.name != "hat":  # what the internal language model adds is not the model's either
            np.testing.assert_allclose(found.model_scores[b], score - sum(extra), rtol=1e-10)
