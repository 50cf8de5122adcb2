"""The words that a model recognises, their alignment with the audio, and a picture of both."""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import jiwer
from flax import nnx
from matplotlib.figure import Figure
from speech_data import ALPHABET, BLANK, SECONDS, Arrays, Batch, Batches
from speech_model import CONTEXT, Transducer
from speech_problems import UserError, write_whole

import jax_rnnt


@nnx.jit
def greedy_decode(model: Transducer, arrays: Arrays) -> jax_rnnt.decoding.Hypotheses:
    def predictor(model, context, label):
        context = jnp.concatenate([context[:, 1:], label[:, None]], axis=1)
        return context, model.predict(context)

    frames, lengths = model.encode(arrays.audio, arrays.samples)
    start = jnp.full((len(frames), CONTEXT), BLANK, jnp.int32)
    loss, joint = model.objective.loss, lambda model, frame, prediction: model.join(frame, prediction)
    return jax_rnnt.decoding.greedy_decode(loss, predictor, joint, model, start, frames, lengths, confidence=True)


def recognise(model: Transducer, batch: Batch) -> list[list[jax_rnnt.decoding.Word]]:
    """The words of each row, with their times and confidences. Filler rows come last."""
    found, seconds = greedy_decode(model, batch.arrays), model.objective.stack * SECONDS
    return jax_rnnt.decoding.words(found, ALPHABET, frame_seconds=seconds, separator=" ")


def word_error_rate(model: Transducer, batches: Batches, ctm: Path) -> float:
    """Writes the recognised words to `ctm`: utterance, channel, start, duration, word, confidence."""
    texts, found, lines = [], [], []
    for batch in batches.once():
        for utterance, words in zip(batch.utterances, recognise(model, batch), strict=False):
            texts.append(utterance.text)
            found.append(" ".join(word.text for word in words))
            lines.append(jax_rnnt.decoding.ctm(words, utterance.id))
    if not found:
        raise UserError("no held-out utterance could be read: see the problems above")
    write_whole(ctm, lambda file: file.write_text("".join(lines)))
    return jiwer.wer(texts, found)


@nnx.jit
def align(model: Transducer, arrays: Arrays) -> tuple:
    """The lattices of the loss, their posteriors and their best paths."""
    loss, labels = model.objective.loss, arrays.labels
    frames, lengths = model.encode(arrays.audio, arrays.samples)
    logits = model.join(frames[:, :, None], model.predict_all(labels)[:, None])
    lattice = jax_rnnt.alignment.loss_lattice(loss, logits, labels, lengths, arrays.label_lengths)
    return lattice, jax_rnnt.lattice_posteriors(*lattice)[1], jax_rnnt.alignment.lattice_best_path(*lattice)


def draw(file: Path, history: Mapping[str, list], model: Transducer, batches: Batches) -> None:
    """Loss and error rate over steps; an utterance over time, and its lattice."""
    loaded = (batches.load(*one) for one in batches.plan(seed=0))
    batch = next(batch for batch in loaded if batch.utterances)  # one that can be read
    text, seconds = batch.utterances[0].text, model.objective.stack * SECONDS
    lattice, posteriors, best = jax.tree.map(lambda x: x[0], jax.device_get(align(model, batch.arrays)))
    figure = Figure(figsize=(10, 14), layout="constrained")
    loss, rate, labels, nodes = figure.subplots(4, height_ratios=(3, 2, 1, 4))
    loss.semilogy(history["losses"])
    loss.set(ylabel="loss per utterance (nats)")
    rate.plot(*zip(*history["error_rates"], strict=True), "o--")
    rate.set(xlabel="step", ylabel="WER on held-out voices")
    frames, durations = best.frames[: len(text)], best.durations[: len(text)]
    jax_rnnt.alignment.plot_alignment(frames, durations, labels=text, seconds_per_frame=seconds, axes=labels)
    posteriors, path = posteriors[: lattice.logit_lengths, : len(text) + 1], (best.arcs, lattice.moves)
    jax_rnnt.alignment.plot_lattice(posteriors, *path, labels=text, seconds_per_frame=seconds, axes=nodes)
    labels.set_xlim(nodes.get_xlim())
    nodes.set_title(f"“{text}”, recognised as “{' '.join(word.text for word in recognise(model, batch)[0])}”")
    write_whole(file, functools.partial(figure.savefig, dpi=120))
