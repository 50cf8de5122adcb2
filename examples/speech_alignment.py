"""How the loss of a model aligns utterances with their transcripts, and how far off the beginnings of words are."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from speech_batches import Arrays, Batch, on_device
from speech_features import log_mel
from speech_model import Transducer

import jax_rnnt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Alignment:
    """Of one utterance, without padding; of a batch every array has one more axis in front."""

    features: np.ndarray  # [F, MELS]
    posteriors: np.ndarray  # [T, U + 1, K], of each arc
    frames: np.ndarray  # [U]: where the best path emits each label
    durations: np.ndarray  # [U]: the frames that each label takes there
    times: np.ndarray  # [U]: where labels are emitted in the mean over all paths, in frames
    arcs: np.ndarray  # [T + U]: what the best path takes
    cost: np.ndarray  # []
    moves: tuple[tuple[int, int], ...] = dataclasses.field(metadata={"static": True})


@nnx.jit
def _align(model: Transducer, arrays: Arrays[jax.Array]) -> tuple[Alignment, jax.Array, jax.Array]:
    logits, lengths = model(arrays.audio, arrays.samples, arrays.labels)
    loss = model.objective.function()
    lattice = jax_rnnt.alignment.loss_lattice(loss, logits, arrays.labels, lengths, arrays.label_lengths)
    cost, posteriors = jax_rnnt.lattice_posteriors(*lattice)
    best = jax_rnnt.alignment.lattice_best_path(*lattice)
    times = jax_rnnt.alignment.emission_times(posteriors, lattice.moves)
    features, feature_frames = log_mel(arrays.audio, arrays.samples)
    found = Alignment(features, posteriors, best.frames, best.durations, times, best.arcs, cost, moves=lattice.moves)
    return found, feature_frames, lengths


def align(model: Transducer, batch: Batch) -> list[Alignment]:
    """Each utterance of a batch."""
    found, feature_frames, lengths = jax.device_get(_align(model, on_device(batch.arrays)))
    cut = zip(range(len(batch.utterances)), feature_frames, lengths, batch.arrays.label_lengths, strict=False)
    return [_without_padding(found, row, *ends) for row, *ends in cut]  # filler rows come last


def _without_padding(batch: Alignment, row: int, features: int, frames: int, labels: int) -> Alignment:
    return dataclasses.replace(
        batch,
        features=batch.features[row, :features],
        posteriors=batch.posteriors[row, :frames, : labels + 1],
        frames=batch.frames[row, :labels],
        durations=batch.durations[row, :labels],
        times=batch.times[row, :labels],
        arcs=batch.arcs[row, : frames + labels],
        cost=batch.cost[row],
    )


def word_start_errors(
    model: Transducer, batches: Iterable[Batch], starts: Mapping[str, Sequence[float]]
) -> dict[str, np.ndarray]:
    """In seconds, by the best path and by the expected times; `starts` are the true ones, by ID.

    Of every word but the first of an utterance, which begins where the audio does.
    """
    errors: dict[str, list[float]] = {"best path": [], "expected time": []}
    frame = model.seconds_per_frame
    for batch in batches:
        for utterance, alignment in zip(batch.utterances, align(model, batch), strict=True):
            text = utterance.text
            if utterance.id not in starts or not np.isfinite(alignment.cost):  # or there is no path
                continue
            first = [i for i in range(1, len(text)) if text[i - 1] == " " != text[i]]
            true = np.array(starts[utterance.id][1:])
            errors["best path"] += list(alignment.frames[first] * frame - true)
            errors["expected time"] += list(alignment.times[first] * frame - true)
    return {name: np.array(found) for name, found in errors.items()}


def accuracy(errors: np.ndarray) -> dict[str, float]:
    """Of the errors of word starts, in ms, and the shares that are within 50 and 100 ms."""
    return {
        "words": len(errors),
        "median": 1e3 * float(np.median(errors)),
        "mean absolute": 1e3 * float(np.mean(np.abs(errors))),
        "within 50 ms": float(np.mean(np.abs(errors) <= 0.05)),
        "within 100 ms": float(np.mean(np.abs(errors) <= 0.1)),
    }
