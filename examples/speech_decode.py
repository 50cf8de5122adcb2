"""Recognition of a batch: the library's greedy decoder, and the words that it found with their times."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from speech_batches import Batch, on_device
from speech_corpus import BLANK, Utterance, Word, decode
from speech_model import CONTEXT, Transducer

import jax_rnnt


class Recognised(NamedTuple):
    utterance: Utterance
    text: str
    words: list[Word]


@nnx.jit
def greedy_decode(model: Transducer, audio: jax.Array, samples: jax.Array) -> jax_rnnt.decoding.Hypotheses:
    """The labels of audio, float32 [B, N] with samples int32 [B], and their encoder frames."""

    def predictor(model, context, label):
        context = jnp.concatenate([context[:, 1:], label[:, None]], axis=1)
        return context, model.predict(context)

    frames, lengths = model.encoder(audio, samples)
    return jax_rnnt.decoding.greedy_decode(
        model.objective.function(),
        predictor,
        lambda model, frame, prediction: model.join(frame, prediction),
        model,
        jnp.full((len(audio), CONTEXT), BLANK, jnp.int32),
        model.encoder_projection(frames),
        lengths,
    )


def recognise(model: Transducer, batch: Batch) -> list[Recognised]:
    arrays = on_device(batch.arrays)
    found = jax.device_get(greedy_decode(model, arrays.audio, arrays.samples))
    rows = zip(batch.utterances, found.labels, found.lengths, found.times, strict=False)  # filler rows come last
    frame = model.seconds_per_frame
    return [with_words(utterance, labels[:n], times[:n], frame) for utterance, labels, n, times in rows]


def with_words(utterance: Utterance, labels: Sequence[int], times: Sequence[int], frame: float) -> Recognised:
    """A word lasts from the frame of its first character to that of its last one."""
    text = decode(labels)
    words = [
        Word(match[0], times[match.start()] * frame, (times[match.end() - 1] + 1) * frame)
        for match in re.finditer("[^ ]+", text)
    ]
    return Recognised(utterance, text, words)
