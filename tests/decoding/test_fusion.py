"""Fusions, penalties and confidence against plain Python: greedy paths, and sums over all paths of all sequences."""

import dataclasses
import functools
import itertools

import decoding_support as support
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding_support import LENGTHS, example, trained_with
from fusions import bigram, bigram_table, end_of, extra_of, fusions, list_table, lists
from losses import jit
from reference_losses import Hat, MultiBlank, Rnnt, Tdt

import jax_rnnt
from jax_rnnt import decoding

V, FRAMES = 5, 3  # of the exact comparison
KINDS = (
    support.row("rnnt", jax_rnnt.rnnt_loss, Rnnt(blank=1), V),
    support.row("multiblank", jax_rnnt.multiblank_rnnt_loss, MultiBlank(big_blanks=(0,), durations=(2,)), V),
    support.row("tdt", jax_rnnt.tdt_loss, Tdt(blank=2, durations=(2, 0, 1)), V + 3),
    support.row("hat", jax_rnnt.hat_loss, Hat(), V),
)
RNNT = KINDS[0]
PENALTY, TEMPERATURE = 0.4, 0.8
LISTS = np.arange(5) % 2


def internal(kind):
    return 0.3 if kind.name == "hat" else 0.0


def options_of(kind):
    return {
        "internal_lm_weight": internal(kind),
        "blank_penalty": PENALTY,
        "temperature": TEMPERATURE,
        "confidence": True,
    }


def changes(kind, extra=True):
    """As the last arguments of the functions of `support`."""
    if not extra:
        return 0.0, None, PENALTY, TEMPERATURE
    return internal(kind), extra_of(V, kind.oracle.blanks(kind.width)[0]), PENALTY, TEMPERATURE


def model_of(kind):
    return trained_with(kind), support.predictor, support.joint


def assert_confidence(kind, b, found, index, frames):
    """The confidence of a hypothesis is that of the labels at the times that it reports."""
    n = int(found.lengths[index])
    labels, times = found.labels[index][:n].tolist(), found.times[index][:n].tolist()
    durations = None if found.durations is None else found.durations[index][:n].tolist()
    log_probs, entropy = support.confidence(kind, b, labels, times, durations, frames, TEMPERATURE)
    np.testing.assert_allclose(found.log_probs[index][:n], log_probs, rtol=1e-10)
    np.testing.assert_allclose(found.entropy[index][:n], entropy, rtol=1e-10)
    assert (found.log_probs[index][n:] == 0).all()
    assert (found.entropy[index][n:] == 0).all()


@pytest.mark.once
def test_a_wide_beam_is_exact():
    kind = KINDS[-1]  # the only one with an internal language model
    b, start = 1, kind.oracle.blanks(kind.width)[0]
    alone, fused = {}, {}
    for n in range(FRAMES + 1):  # at most one label per frame
        for labels in itertools.product(support.labels_of(kind), repeat=n):
            score = support.log_probability(kind, b, labels, FRAMES, 1, *changes(kind))
            if score > -np.inf:
                fused[labels] = score + end_of(V, start, labels)
                alone[labels] = support.log_probability(kind, b, labels, FRAMES, 1, *changes(kind, False))
    assert len(fused) > V * (V - 2)
    width = len(fused) * max(dt for dt, _ in kind.oracle.moves)
    options = options_of(kind) | {"beam": width, "labels_per_frame": 1, "fusion": fusions(V, LISTS[b : b + 1])}
    given = example(kind)
    found = jit(functools.partial(decoding.beam_decode, *model_of(kind), **options))(
        given.params, given.state[:1], given.encoded[b : b + 1, :FRAMES], np.array([FRAMES])
    )
    found = jax.tree.map(np.asarray, found)
    got = {}
    for i in np.flatnonzero(found.scores[0] > -np.inf):
        labels = tuple(found.labels[0, i, : found.lengths[0, i]].tolist())
        got[labels] = found.scores[0, i], found.model_scores[0, i]
        if i % 5 == 0:
            assert_confidence(kind, b, found, (0, i), FRAMES)
    assert got.keys() == fused.keys()
    for labels, scores in got.items():
        np.testing.assert_allclose(scores, (fused[labels], alone[labels]), rtol=1e-10)
    assert (np.diff([score for score, _ in got.values()]) <= 0).all()


@functools.cache
def greedy_of(kind):
    def decode(fusion, *arrays):
        return decoding.greedy_decode(*model_of(kind), *arrays, fusion=fusion, labels_per_frame=2, **options_of(kind))

    return jit(decode)


def arrays_of(kind):
    given = example(kind)
    return given.params, given.state, given.encoded, LENGTHS


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.name)  # RNN-T and others: test_decoding.py
def test_greedy_is_the_plain_loop(kind):
    start = kind.oracle.blanks(kind.width)[0]
    found = greedy_of(kind)(fusions(V, LISTS), *arrays_of(kind))
    plain = [support.greedy(kind, b, frames, 2)[0] for b, frames in enumerate(LENGTHS)]
    assert [row[:n].tolist() for row, n in zip(found.labels, found.lengths, strict=True)] != plain
    for b, frames in enumerate(LENGTHS):
        labels, times, _, score = support.greedy(kind, b, frames, 2, *changes(kind))
        n = len(labels)
        assert found.labels[b, : found.lengths[b]].tolist() == labels
        assert found.times[b, :n].tolist() == times
        np.testing.assert_allclose(found.scores[b], score + end_of(V, start, labels), rtol=1e-10)
        assert_confidence(kind, b, found, b, frames)
        if kind.name != "hat":  # what the internal language model adds is not the model's either
            added = sum(extra_of(V, start)(b, labels[:u])[label] for u, label in enumerate(labels))
            np.testing.assert_allclose(found.model_scores[b], score - added, rtol=1e-10)


def test_closed_labels_and_bad_scores():
    two = fusions(V, LISTS)
    whole = greedy_of(RNNT)(two, *arrays_of(RNNT))
    label = int(whole.labels[0, 0])
    for weight in (1.0, 0.0, -1.0):  # what is closed stays closed
        closed = dataclasses.replace(two[0], params=two[0].params * 0 + np.where(np.arange(V + 1) == label, -np.inf, 0))
        found = greedy_of(RNNT)((dataclasses.replace(closed, weight=weight), two[1]), *arrays_of(RNNT))
        assert label not in np.asarray(found.labels)
        assert np.isfinite(found.scores).all()
    for value in (np.nan, -np.nan, np.inf):
        table = list_table(V).copy()
        table[1, :, label] = value  # the list of utterances 1 and 3
        found = greedy_of(RNNT)((two[0], dataclasses.replace(two[1], params=table, weight=1.0)), *arrays_of(RNNT))
        assert np.isnan(found.scores).tolist() == [False, True, False, True, False]
        assert np.isnan(found.model_scores).tolist() == [False, True, False, True, False]


def test_a_reset_utterance_begins_again():
    # Each of two rounds decodes all frames, one frame per turn of a scan. Between them some utterances begin again.
    decoder = decoding.GreedyDecoder(
        *model_of(RNNT), labels_per_frame=2, max_labels=16, fusion=fusions(V, LISTS), **options_of(RNNT)
    )
    params, initial, encoded, lengths = arrays_of(RNNT)
    where = np.array([True, False, True, True, False])

    def frames(state, each):
        t, row = each
        return decoder.step(params, state, row[:, None], (t < lengths).astype(jnp.int32)), None

    @jit
    def both(state):
        each = jnp.arange(support.T, dtype=jnp.int32), jnp.moveaxis(encoded, 1, 0)
        once, _ = jax.lax.scan(frames, state, each)
        twice, _ = jax.lax.scan(frames, decoder.reset(once, where), each)
        return decoder.hypotheses(once), decoder.hypotheses(twice), twice

    once, twice, state = both(decoder.init(params, initial, jax.ShapeDtypeStruct(encoded.shape, encoded.dtype)))
    for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
        np.testing.assert_array_equal(x[where], y[where])
    np.testing.assert_array_equal(state.frames, np.where(where, 1, 2) * LENGTHS)
    assert (twice.lengths >= once.lengths).all()
    assert (twice.lengths[~where] > once.lengths[~where]).any()
    again = decoder.reset(state, np.ones(5, bool))
    jax.tree.map(np.testing.assert_array_equal, again, decoder.init(params, initial, encoded))
    for bad, words in ((where[:2], r"`where` must have shape \(5,\)"), (where * 1, "`where` must be an array of bool")):
        with pytest.raises((TypeError, ValueError), match=words):
            decoder.reset(state, bad)


def test_what_is_off_costs_nothing():
    def program(**options):
        decoder = decoding.BeamDecoder(*model_of(RNNT), beam=2, max_labels=3, **options)
        params, initial, encoded, lengths = arrays_of(RNNT)
        return jax.make_jaxpr(
            lambda *x: decoder.hypotheses(decoder.step(params, decoder.init(params, initial, encoded), *x))
        )(encoded, lengths)

    off = {"fusion": (), "blank_penalty": 0, "temperature": 1, "confidence": False, "internal_lm_weight": 0}
    plain = str(program())
    assert str(program(**off)) == plain
    for name, value in {"fusion": fusions(V, LISTS), "blank_penalty": 1, "temperature": 2, "confidence": True}.items():
        assert len(str(program(**{name: value}))) > len(plain), name
    found = decoding.greedy_decode(*model_of(RNNT), *arrays_of(RNNT))
    assert found.model_scores is found.log_probs is found.entropy is None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fusion": 3}, TypeError, "`fusion` must be a Fusion, or a sequence of them, got 3"),
        ({"fusion": decoding.Fusion(3)}, TypeError, "`Fusion.step` must be a function, got 3"),
        ({"fusion": decoding.Fusion(bigram, final=3)}, TypeError, "`Fusion.final` must be a function or None, got 3"),
        ({"fusion": decoding.Fusion(bigram, weight=LISTS)}, ValueError, r"`Fusion.weight` must have shape \(\), got"),
        ({"fusion": decoding.Fusion(bigram, weight=[1, 2])}, TypeError, "`Fusion.weight` must be a number, got"),
        (
            {"fusion": decoding.Fusion(bigram, bigram_table(V), np.zeros(2, np.int32))},
            ValueError,
            r"`Fusion.state` must hold arrays \[B, ...\] with B = 5, or \[1, ...\], got \(2,\)",
        ),
        (
            {"fusion": decoding.Fusion(bigram, bigram_table(V - 1), np.zeros(1, np.int32))},
            ValueError,
            r"`Fusion.step` must return scores \[R, V\] = \(5, 5\), got shape \(5, 4\).*it is `vocab_size` of a",
        ),
        (
            {"fusion": decoding.Fusion(lambda p, s, label: label, None, np.zeros(1))},
            TypeError,
            r"`Fusion.step` must return a pair \(state, scores\)",
        ),
        (
            {"fusion": decoding.Fusion(lists, list_table(V), (LISTS, LISTS), final=lambda params, state: 0.0)},
            ValueError,
            r"`Fusion.final` must return scores \[R\] for R = 5 rows, got 0.0",
        ),
        ({"temperature": 0}, ValueError, "`temperature` must be above 0, got 0.0"),
        ({"temperature": float("inf")}, ValueError, "`temperature` must be above 0, got inf"),
        ({"blank_penalty": "1"}, TypeError, "`blank_penalty` must be a number"),
        ({"confidence": 1}, TypeError, "`confidence` must be"),
    ],
)
def test_errors_name_the_argument(options, error, words):
    with pytest.raises(error, match=words):
        decoding.greedy_decode(*model_of(RNNT), *arrays_of(RNNT), **options)


def test_a_decoder_with_fusions_is_a_pytree():
    decoder = decoding.GreedyDecoder(*model_of(RNNT), fusion=fusions(V, LISTS), max_labels=4)
    leaves, structure = jax.tree.flatten(decoder)
    assert len(leaves) == 7
    same = structure.unflatten(leaves)
    assert type(same) is decoding.GreedyDecoder
    assert (same.max_labels, same.fusion[0].step) == (4, bigram)
