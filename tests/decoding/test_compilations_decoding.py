"""Outside of jit, decoders compile in their first call only, and their memory does not grow."""

import contextlib
import dataclasses
import functools

import decoding_support as support
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from decoding_support import RNNT, TDT, example, trained_with
from fusions import fusions

import jax_rnnt

_COMPILATION = "/jax/core/compile/backend_compile_duration"
_events: list[str] = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: _events.append(name))


@contextlib.contextmanager
def counted():
    """Yields a list, which afterwards holds an element for each compilation in the block."""
    before, found = len(_events), []
    yield found
    found += [name for name in _events[before:] if name == _COMPILATION]


def arrays_of(kind, start: float):
    """Arguments of the same shapes, and of other values for another `start`."""
    given = example(kind)
    encoded = np.nan_to_num(given.encoded, nan=0.0) + start
    return given.params, given.state, encoded, np.array([4, 3, 0, 1, 2], np.int32)


@functools.cache
def labels():
    return np.random.default_rng(0).integers(0, 3, (2, 3, 4))


def beam(start):
    model = trained_with(RNNT), support.predictor, support.joint
    return jax_rnnt.decoding.beam_decode(*model, *arrays_of(RNNT, start), beam=2, labels_per_frame=2)


def fused(start):
    two = fusions(support.V, np.zeros(5, np.int32))
    two = dataclasses.replace(two[0], weight=0.5 + start), dataclasses.replace(two[1], params=two[1].params + start)
    model = trained_with(RNNT), support.predictor, support.joint
    return jax_rnnt.decoding.greedy_decode(*model, *arrays_of(RNNT, 0.0), fusion=two)


def pieces(start):
    """Makes the decoder each time, as a program does that serves one stream after another."""
    decoder = jax_rnnt.decoding.BeamDecoder(trained_with(TDT), support.predictor, support.joint, beam=2, max_labels=3)
    params, initial, encoded, lengths = arrays_of(TDT, start)
    state = decoder.init(params, initial, encoded)
    for _ in range(2):
        state = decoder.step(params, state, encoded, lengths)
    return decoder.hypotheses(state)


def distance(start):
    lengths = np.full((2, 3), 3)
    return jax_rnnt.decoding.edit_distance(labels() + int(start), labels()[:, :1], lengths, lengths)


def expected_errors(start):
    costs = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)) + start)
    return jax.value_and_grad(lambda c: jax_rnnt.decoding.mwer_loss(c, labels()[..., 0], where=labels()[..., 1] > 0))(
        costs
    )


CALLS = (beam, fused, pieces, distance, expected_errors)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_second_call_compiles_nothing(call):
    with counted() as first:
        call(0.0)
    with counted() as second:
        call(1.0)
    assert first or call is expected_errors
    assert second == []


def test_what_is_not_an_array_among_the_parameters_is_static():
    frames = jax.nn.one_hot(jnp.array([[2, 0, 1]]), 3)

    def decode(params):
        model = jax_rnnt.RNNTLoss(blank=0), lambda params, state, label: (state, label), joint
        return jax_rnnt.decoding.greedy_decode(*model, params, None, frames, jnp.array([3]), labels_per_frame=1)

    def joint(params, encoded, predicted):
        return params["activation"](encoded * params["scale"] if params["scales"] else encoded)

    given = {"activation": jnp.negative, "scale": np.array(2.0), "scales": True}
    np.testing.assert_allclose(decode(given).scores, decode(given | {"scales": 1}).scores)
    assert decode(given).scores != decode(given | {"scales": False}).scores
    assert decode(given).scores != decode(given | {"activation": jnp.abs}).scores
    with pytest.raises(TypeError, match="`params` must hold arrays and hashable values only: unhashable type: 'set'"):
        decode(given | {"names": {1, 2}})


def test_memory_is_flat_over_many_calls():
    beam(0.0)
    pieces(0.0)
    before = len(jax.live_arrays())
    for i in range(20):
        beam(float(i))
        pieces(float(i))
    assert len(jax.live_arrays()) == before
