"""Decoders against plain Python: a loop over single arcs, and the sum over all paths of all label sequences."""

import functools
import itertools

import decoding_support as support
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding_support import LENGTHS, MONOTONIC, RNNT, TDT, TDT_MOVING, example, trained_with
from fusions import fusions
from losses import jit

import jax_rnnt

CAP = 2


@functools.cache
def greedy_of(kind, **options):
    model = trained_with(kind), support.predictor, support.joint
    return jit(lambda *arrays: jax_rnnt.decoding.greedy_decode(*model, *arrays, **options))


@functools.cache
def beam_of(kind, **options):
    model = trained_with(kind), support.predictor, support.joint
    return jit(lambda *arrays: jax_rnnt.decoding.beam_decode(*model, *arrays, **options))


def arrays_of(kind):
    given = example(kind)
    return given.params, given.state, given.encoded, LENGTHS


def assert_greedy(kind, found):
    for b, frames in enumerate(LENGTHS):
        labels, times, durations, score = support.greedy(kind, b, frames, CAP)
        n = int(found.lengths[b])
        assert found.labels[b, :n].tolist() == labels
        assert found.times[b, :n].tolist() == times
        assert (found.labels[b, n:] == -1).all()
        assert (found.times[b, n:] == -1).all()
        np.testing.assert_allclose(found.scores[b], score, rtol=1e-12)
        if found.durations is not None:
            assert found.durations[b, :n].tolist() == durations
            assert (found.durations[b, n:] == -1).all()


def probabilities(found, b) -> dict[tuple[int, ...], float]:
    each = zip(found.labels[b].tolist(), found.lengths[b].tolist(), found.scores[b].tolist(), strict=True)
    listed = [(tuple(labels[:n]), score) for labels, n, score in each if score > -np.inf]
    assert len(dict(listed)) == len(listed)  # each sequence occurs once
    return dict(listed)


@pytest.mark.parametrize("kind", (RNNT, MONOTONIC, TDT_MOVING), ids=lambda kind: kind.name)  # others: test_fusion.py
def test_greedy_is_the_plain_loop(kind):
    found = greedy_of(kind, labels_per_frame=CAP)(*arrays_of(kind))
    assert found.scores.dtype == "float64"
    assert (found.durations is not None) == kind.name.startswith("tdt")
    assert_greedy(kind, found)


def sequences(kind, most: int):
    for n in range(most + 1):
        yield from itertools.product(support.labels_of(kind), repeat=n)


@pytest.mark.once
def test_a_wide_beam_is_exact():
    # With at most two labels in each of two frames these are all sequences.
    kind, b, frames = TDT, 1, 2
    wanted = {}
    for labels in sequences(kind, frames * CAP):
        score = support.log_probability(kind, b, labels, frames, CAP)
        if score > -np.inf:
            wanted[labels] = score
    params, state, encoded, _ = arrays_of(kind)
    # The beam has room for all possible sequences, once for each frame at which a hypothesis may wait.
    width = len(wanted) * max(dt for dt, _ in kind.oracle.moves)
    found = beam_of(kind, beam=width, labels_per_frame=CAP)(
        params, state[b : b + 1], encoded[b : b + 1, :frames], np.array([frames])
    )
    got = probabilities(found, 0)
    assert got.keys() == wanted.keys()
    for labels, score in wanted.items():
        np.testing.assert_allclose(got[labels], score, rtol=1e-10)
    assert (np.diff(list(got.values())) <= 0).all()


def pieces(cuts):
    """Yields pieces of two frames. Each row of `cuts` says how many of these frames each utterance gets."""
    done = np.zeros(len(LENGTHS), int)
    for cut in cuts:
        lengths = np.minimum(cut, LENGTHS - done)
        index = np.minimum(done[:, None] + np.arange(2), support.T - 1)
        yield index, lengths.astype(np.int32)
        done += lengths
    assert (done == LENGTHS).all()


@pytest.mark.parametrize(("kind", "width"), [(TDT, 0), (RNNT, 3)], ids=["greedy", "beam"])
def test_cuts_do_not_matter(kind, width):
    options = {"labels_per_frame": CAP, "confidence": True} | ({"beam": width} if width else {})
    options["fusion"] = fusions(support.V - (kind is TDT), np.arange(5) % 2)
    make = jax_rnnt.decoding.BeamDecoder if width else jax_rnnt.decoding.GreedyDecoder
    decoder = make(trained_with(kind), support.predictor, support.joint, **options)
    params, initial, encoded, lengths = arrays_of(kind)
    whole = (beam_of if width else greedy_of)(kind, **options)(params, initial, encoded, lengths)
    init, step, result = jit(lambda *x: decoder.init(*x, encoded)), jit(decoder.step), jit(decoder.hypotheses)
    for cuts in ([1] * 4, [2, 2], [[2, 0, 1, 0, 1], [0, 1, 0, 0, 2], [2, 2, 0, 1, 1]]):
        state = init(params, initial)
        for index, pieces_lengths in pieces(cuts):
            piece = np.take_along_axis(encoded, index[..., None], axis=1)
            state = step(params, state, piece, pieces_lengths)
        found = result(state)
        np.testing.assert_array_equal(state.frames, LENGTHS)
        assert jax.tree.structure(found) == jax.tree.structure(whole)
        for (path, x), y in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, err_msg=jax.tree_util.keystr(path))


def test_times_are_those_of_the_best_path():
    # The label is probable only at frame 2 of 4. This is its time, whichever other paths the decoder merges with this
    # one.
    p = np.full((1, 4, 2), [0.98, 0.02])
    p[0, 2] = [0.1, 0.9]
    model = (
        jax_rnnt.RNNTLoss(blank=0),
        lambda params, state, label: (state, label),
        lambda params, encoded, predicted: jnp.where((predicted == 0)[:, None], encoded, 0),
    )
    decode = jit(lambda *x: jax_rnnt.decoding.beam_decode(*model, None, None, *x, beam=4, labels_per_frame=1))
    found = decode(jnp.log(p), jnp.array([4]))
    assert found.labels[0, 0, :1].tolist() == [1]
    assert found.times[0, 0, :1].tolist() == [2]


def test_length_normalisation_ranks():
    params, state, encoded, lengths = arrays_of(RNNT)
    model, options = (trained_with(RNNT), support.predictor, support.joint), {"beam": 12, "labels_per_frame": CAP}
    decoders = [jax_rnnt.decoding.BeamDecoder(*model, **options, length_normalization=x) for x in (0.0, 1.0)]

    @jit
    def both(*arrays):  # both share one search
        end = decoders[0].step(params, decoders[0].init(params, state, encoded), *arrays)
        return [decoder.hypotheses(end) for decoder in decoders]

    plain, longer = both(encoded, lengths)
    for b in range(len(LENGTHS)):
        scores, lengths = np.asarray(plain.scores[b]), np.asarray(plain.lengths[b])
        order = np.argsort(-scores / (lengths + 1), kind="stable")
        np.testing.assert_array_equal(longer.labels[b], plain.labels[b][order])
        np.testing.assert_allclose(longer.scores[b], scores[order])
    assert (longer.labels != plain.labels).any()


def test_predictor_sees_the_start_symbol():
    # From `state` this symbol leads to the same state of the predictor as blank does from `state + 1` (modulo 7).
    params, state, encoded, lengths = arrays_of(RNNT)
    other = greedy_of(RNNT, labels_per_frame=CAP, start=RNNT.oracle.blank + 5)(params, state, encoded, lengths)
    same = greedy_of(RNNT, labels_per_frame=CAP)(params, state + 1, encoded, lengths)
    for x, y in zip(other[:4], same[:4], strict=True):
        np.testing.assert_array_equal(x, y)


def test_empty_pieces_change_nothing():
    params, initial, encoded, lengths = arrays_of(TDT)
    for make in (jax_rnnt.decoding.GreedyDecoder, functools.partial(jax_rnnt.decoding.BeamDecoder, beam=2)):
        decoder = make(trained_with(TDT), support.predictor, support.joint, max_labels=3)
        state = decoder.init(params, initial, encoded[:, :0])
        after = decoder.step(params, state, encoded[:, :0], 0 * lengths)
        jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize(
    ("loss", "options", "error", "words"),
    [
        (print, {}, TypeError, "`loss` must be a loss .*, got <built-in function print>"),
        (jax_rnnt.RNNTLoss(), {"labels_per_frame": 0}, ValueError, "`labels_per_frame` must be at least 1, got 0"),
        (jax_rnnt.RNNTLoss(), {"max_labels": -1}, ValueError, "`max_labels` must be at least 0, got -1"),
        (jax_rnnt.RNNTLoss(), {"internal_lm_weight": 0.5}, ValueError, "`internal_lm_weight` is for models .* HATLoss"),
        (jax_rnnt.RNNTLoss(), {"beam": 0}, ValueError, "`beam` must be at least 1, got 0"),
        (jax_rnnt.RNNTLoss(), {"length_normalization": "1"}, TypeError, "`length_normalization` must be a number"),
        (jax_rnnt.RNNTLoss(), {"predictor": 3}, TypeError, "`predictor` must be a function, got 3"),
        (jax_rnnt.RNNTLoss(), {"encoded": np.zeros(3)}, ValueError, r"`encoded` must have shape \[B, T, ...\], got"),
        (jax_rnnt.RNNTLoss(), {"state": {"h": np.zeros(3)}}, ValueError, r"`state` must hold arrays \[B, .* \['h'\]"),
        (jax_rnnt.RNNTLoss(), {"lengths": np.zeros(2)}, TypeError, "`lengths` must have an integer dtype"),
        (jax_rnnt.RNNTLoss(), {"lengths": np.zeros(2, int)}, ValueError, r"`lengths` must have shape \(5,\)"),
        (jax_rnnt.RNNTLoss(), {"joint": lambda p, e, q: e[0]}, ValueError, "`joint` must return logits .R, W. for R ="),
    ],
)
def test_errors_name_the_argument(loss, options, error, words):
    params, state, encoded, lengths = arrays_of(RNNT)
    arguments = {
        "predictor": support.predictor,
        "joint": support.joint,
        "params": params,
        "state": state,
        "encoded": encoded,
        "lengths": lengths,
    }
    with pytest.raises(error, match=words):
        jax_rnnt.decoding.beam_decode(loss, **(arguments | options))
