"""Decoders with beams of every width, bad values, empty arrays and limits, and what else their states allow."""

import functools
import math

import decoding_support as support
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding_support import LENGTHS, MONOTONIC, RNNT, TDT, example, trained_with
from fusions import fusions
from jax import export
from jax.experimental import checkify
from losses import jit

import jax_rnnt
from jax_rnnt import decoding

DECODERS = {"greedy": decoding.greedy_decode, "beam": functools.partial(decoding.beam_decode, beam=3)}
decoders = pytest.mark.parametrize("name", DECODERS)


def decode(name):
    return functools.partial(DECODERS[name], trained_with(RNNT), support.predictor, support.joint, labels_per_frame=2)


@functools.cache
def decode_jitted(name):
    return jit(decode(name))


def arrays_of(kind=RNNT):
    given = example(kind)
    return given.params, given.state, given.encoded, LENGTHS


def first(x: jax.Array) -> np.ndarray:
    """Of each utterance: the only hypothesis, or the first one."""
    return np.asarray(x).reshape(len(x), -1)[:, 0]


def constant(p_label: float, beam: int, most: int):
    """Decodes 3 frames of a model that has one label, of the same probability in every node."""
    frames = jnp.log(jnp.array([[[1 - p_label, p_label]] * 3]))
    model = jax_rnnt.RNNTLoss(blank=0), lambda params, state, label: (state, label), lambda params, encoded, _: encoded
    return decoding.beam_decode(*model, None, None, frames, jnp.array([3]), beam=beam, max_labels=most)


@pytest.mark.parametrize(("most", "beam"), [(1, 2), (3, 4)])
def test_a_beam_loses_nothing_that_leads_to_what_it_keeps(most, beam):
    # Paths only add labels, and what is cut off here is longer than what is kept. So what is kept is exact.
    found = constant(0.1, beam, most)
    assert found.lengths.tolist() == [list(range(beam))]
    wanted = [math.comb(3 + n - 1, n) * 0.9**3 * 0.1**n for n in range(beam)]
    np.testing.assert_allclose(np.exp(found.scores[0]), wanted, rtol=1e-12)
    assert not found.truncated.any()


def test_a_beam_merges_before_it_cuts():
    # Where labels take a frame, the search in step with the frames is a dictionary of sequences. Each hypothesis tries
    # its `beam` best labels.
    beam = 3
    params, state, encoded, lengths = (x[:1] if i else x for i, x in enumerate(arrays_of(MONOTONIC)))
    kept = {(): 0.0}
    for t in range(support.T):
        reached: dict[tuple, float] = {}
        for labels, score in kept.items():
            arcs = {
                label: support.arc_scores(MONOTONIC, 0, [*labels, label], support.T)[t, len(labels)]
                for label in support.labels_of(MONOTONIC)
            }
            best = sorted(arcs, key=lambda label: -arcs[label][1])[:beam]
            for to, arc in [(labels, arcs[1][0]), *(((*labels, label), arcs[label][1]) for label in best)]:
                reached[to] = np.logaddexp(reached.get(to, -np.inf), score + arc)
        kept = dict(sorted(reached.items(), key=lambda item: -item[1])[:beam])
    model = trained_with(MONOTONIC), support.predictor, support.joint
    found = jit(functools.partial(decoding.beam_decode, *model, beam=beam))(params, state, encoded, lengths)
    rows = zip(found.labels[0].tolist(), found.lengths[0].tolist(), strict=True)
    assert [tuple(labels[:n]) for labels, n in rows] == list(kept)
    np.testing.assert_allclose(found.scores[0], list(kept.values()), rtol=1e-12)


def test_truncated_says_that_a_label_was_lost():
    found = constant(0.6, 2, 1)
    assert found.lengths.tolist() == [[1, 0]]
    assert found.truncated.tolist() == [[True, False]]
    params, state, encoded, lengths = arrays_of()
    model = trained_with(RNNT), support.predictor, support.joint
    one = jit(functools.partial(decoding.greedy_decode, *model, max_labels=1))(params, state, encoded, lengths)
    whole = [len(support.greedy(RNNT, b, frames, 5)[0]) for b, frames in enumerate(LENGTHS)]
    assert one.truncated.tolist() == [n > 1 for n in whole]
    assert {n > 1 for n in whole} == {True, False}
    assert one.labels.shape == (5, 1)
    assert one.lengths.tolist() == [min(n, 1) for n in whole]


@decoders
def test_bad_values_cost_nan_and_no_neighbour(name):
    params, state, encoded, lengths = arrays_of()
    good = decode_jitted(name)(params, state, encoded, lengths)
    bad = encoded.copy(), encoded.copy()
    bad[0][1, 1, 2], bad[1][1, 1, 2] = np.nan, np.inf
    found = [decode_jitted(name)(params, state, x, lengths) for x in bad]
    wide = lengths.astype(np.int64)
    for value in (-1, 5, 2**40):  # outside of jit, because NumPy's 64 bits are checked before JAX has them
        wide[1] = value
        found.append(decode(name)(params, state, encoded, wide))
    for each in found:
        assert np.isnan(each.scores[1]).all()
        assert (each.lengths[1] == 0).all()
        assert (each.labels[1] == -1).all()
        assert not each.truncated[1].any()
        for x, y in zip(each, good, strict=True):
            if x is not None:
                np.testing.assert_array_equal(np.delete(x, 1, 0), np.delete(y, 1, 0))


def test_debug_inputs_names_a_bad_length():
    params, state, encoded, lengths = arrays_of()
    with (
        jax_rnnt.debug_inputs(),
        pytest.raises(ValueError, match=r"`lengths\[1\]` must be in \[0, T\] = \[0, 4\], got 5"),
    ):
        decode("greedy")(params, state, encoded, np.where(np.arange(5) == 1, 5, lengths))


@pytest.mark.parametrize(("batch", "frames"), [(0, 4), (5, 0)])
def test_nothing_to_decode(batch, frames):
    params, state, encoded, lengths = arrays_of()
    found = decode("beam")(params, state[:batch], encoded[:batch, :frames], 0 * lengths[:batch])
    assert first(found.scores).tolist() == [0.0] * batch if batch else found.scores.size == 0
    assert (found.lengths == 0).all()
    assert found.labels.shape[-1] == 2 * frames


def test_a_vocabulary_of_a_blank_alone():
    found = DECODERS["beam"](
        jax_rnnt.RNNTLoss(blank=0), support.predictor, support.joint, np.zeros((support.STATES, 1)),
        np.zeros(2, np.int32), np.zeros((2, 3, 1)), np.array([3, 1]),
    )  # fmt: skip
    assert first(found.scores).tolist() == [0.0, 0.0]
    assert (found.lengths == 0).all()


def test_states_may_be_donated():
    options = {"max_labels": 4, "confidence": True, "fusion": fusions(support.V - 1, jnp.zeros(5, jnp.int32))}
    decoder = decoding.BeamDecoder(trained_with(TDT), support.predictor, support.joint, beam=3, **options)
    params, initial, encoded, lengths = arrays_of(TDT)
    kept = [decoder.step(params, decoder.init(params, initial, encoded), encoded, lengths)]
    step = jax.jit(decoder.step, donate_argnums=1)
    for init in (decoder.init, jax.jit(decoder.init)):
        state = init(params, initial, encoded)
        places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
        assert len(set(places)) == len(places)
        kept.append(step(params, state, encoded, lengths))
        step(params, decoder.reset(kept[-1], lengths > 0), encoded, lengths)
    for state in kept[1:]:
        jax.tree.map(np.testing.assert_array_equal, state, kept[0])


def test_export_with_symbolic_batch_and_frames():
    b, t = export.symbolic_shape("b, t")
    given = arrays_of()
    shapes = given[0].shape, (b,), (b, t, support.V), (b,)
    arguments = [jax.ShapeDtypeStruct(shape, x.dtype) for shape, x in zip(shapes, given, strict=True)]
    exported = export.export(jax.jit(decode("beam")))(*arguments)
    restored = jax.jit(export.deserialize(exported.serialize()).call)
    for rows, frames in ((5, 4), (60, 3)):  # of 60 utterances a share of the rows runs
        index = np.arange(rows) % 5
        lengths = np.minimum(LENGTHS, frames)
        found = restored(given[0], given[1][index], given[2][index, :frames], lengths[index])
        wanted = decode_jitted("beam")(*given[:3], lengths)  # longer than its utterances, so that one program does
        np.testing.assert_array_equal(found.labels, wanted.labels[index, ..., : found.labels.shape[-1]])
        np.testing.assert_allclose(found.scores, wanted.scores[index], rtol=1e-12)


def test_no_nan_is_made_and_no_index_is_out_of_range():
    params, state, encoded, lengths = arrays_of()
    errors = checkify.index_checks | checkify.nan_checks | checkify.div_checks
    given = params, state, np.nan_to_num(encoded), lengths
    error, found = jit(checkify.checkify(decode("greedy"), errors=errors))(*given)
    error.throw()
    np.testing.assert_array_equal(found.labels, decode_jitted("greedy")(*given).labels)


def test_equality_of_results_is_identity():
    result = decoding.Hypotheses(*np.zeros((6, 2)))
    other = jax.tree.map(lambda x: x, result)
    assert (result == result, result != result) == (True, False)
    assert (result == other, result != other) == (False, True)
    assert len({result, other}) == 2


class Unhashable:
    __hash__ = None

    def __call__(self, params, encoded, predicted):
        return encoded


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"joint": lambda e, p: e}, TypeError, r"calls joint\(params, encoded, predicted\), here with `encoded` of"),
        ({"predictor": lambda p, s, x: s}, TypeError, r"`predictor` must return a pair \(state, predicted\), got"),
        ({"predictor": lambda p, s, x: (s[:1], s)}, ValueError, "`predictor` must return a state of shapes and dtypes"),
        ({"encoded": np.zeros((5, 4))}, ValueError, r"with `encoded` of shape \(15,\), `predicted` of shape \(15, 4\)"),
        ({"joint": lambda p, e, q: 3}, ValueError, r"`joint` must return logits \[R, W\] .* got 3 of type int"),
        ({"joint": Unhashable()}, TypeError, "`joint` must be hashable, because compiled programs are found by it"),
    ],
)
def test_errors_of_the_users_functions_are_sentences(changed, error, words):
    params, state, encoded, lengths = arrays_of()
    arguments = {
        "predictor": support.predictor,
        "joint": support.joint,
        "params": params,
        "state": state,
        "encoded": encoded,
        "lengths": lengths,
    }
    with pytest.raises(error, match=words):
        decoding.beam_decode(trained_with(RNNT), **(arguments | changed), beam=3)
