"""The picture at the end of a run: its loss, its error rate, and how the loss aligned one utterance."""

from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib
import numpy as np
from flax import nnx
from speech_batches import Arrays, on_device
from speech_corpus import BLANK
from speech_features import HOP, SAMPLE_RATE, log_mel
from speech_model import STACK, Transducer
from speech_problems import whole_file

import jax_rnnt

matplotlib.use("Agg")  # writes files, needs no display
from matplotlib import pyplot


class Alignment(NamedTuple):
    features: np.ndarray  # [F, MELS]
    posteriors: np.ndarray  # [T, U + 1, 2]: blank, label
    frames: np.ndarray  # [U]: where the best path emits each label
    arcs: np.ndarray  # [T + U]: what it takes
    cost: float


@nnx.jit
def _align(model: Transducer, arrays: Arrays[jax.Array]) -> tuple[jax.Array, ...]:
    logits, lengths = model(arrays.audio, arrays.samples, arrays.labels)
    lattice = jax_rnnt.loss_lattice(logits, arrays.labels, lengths, arrays.label_lengths, blank=BLANK)
    cost, posteriors = jax_rnnt.lattice_posteriors(*lattice)
    best = jax_rnnt.lattice_best_path(*lattice)
    features, _ = log_mel(arrays.audio, arrays.samples)
    return features, posteriors, best.frames, best.arcs, cost


def align(model: Transducer, arrays: Arrays[np.ndarray], row: int) -> Alignment:
    """How the loss aligns one row of a batch with its transcript: every arc's posterior, and the best path."""
    samples, labels = int(arrays.samples[row]), int(arrays.label_lengths[row])
    one = Arrays(
        arrays.audio[row : row + 1, :samples],
        arrays.samples[row : row + 1],
        arrays.labels[row : row + 1, :labels],
        arrays.label_lengths[row : row + 1],
    )
    *drawn, cost = (x[0] for x in jax.device_get(_align(model, on_device(one))))
    return Alignment(*drawn, float(cost))


def draw(
    file: Path,
    losses: list[float],
    error_rates: list[tuple[int, float]],
    alignment: Alignment,
    text: str,
    recognised: str,
) -> None:
    """Writes the picture: loss and error rate over steps; the labels of one utterance over time, and its lattice."""
    figure, axes = pyplot.subplot_mosaic(
        [["loss", "mel"], ["loss", "lattice"]], figsize=(14, 7), height_ratios=[1, 2.4], width_ratios=[1, 1.35],
        layout="constrained",
    )  # fmt: skip
    _draw_loss(axes["loss"], losses, error_rates)
    on = {"labels": text, "seconds_per_frame": STACK * HOP / SAMPLE_RATE}
    mel = {"features": alignment.features, "features_per_frame": STACK}
    jax_rnnt.plot_alignment(alignment.frames, **mel, **on, axes=axes["mel"])
    jax_rnnt.plot_lattice(alignment.posteriors, alignment.arcs, **on, axes=axes["lattice"])
    axes["mel"].set_title(f"“{text}”, recognised as “{recognised}”", pad=28)  # above the labels
    axes["mel"].set(xlabel="", xticklabels=[], xlim=axes["lattice"].get_xlim())
    axes["lattice"].set_title(f"posterior lattice, cost {alignment.cost:.3f} nats")
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, dpi=120)
    pyplot.close(figure)


def _draw_loss(axes, losses: list[float], error_rates: list[tuple[int, float]]) -> None:
    steps = np.arange(1, len(losses) + 1)
    axes.semilogy(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="each batch")
    width = min(25, len(losses))
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axes.semilogy(steps[width - 1 :], smooth, color="tab:blue", label=f"mean of {width}")
    axes.set(xlabel="step", ylabel="loss per utterance (nats)", title="training loss and held-out word error rate")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    if error_rates:
        right = axes.twinx()
        right.plot(*zip(*((step, 100 * rate) for step, rate in error_rates), strict=True), "o--", color="tab:red")
        right.set_ylabel("WER on held-out voices (%)", color="tab:red")
        right.tick_params(axis="y", colors="tab:red")
        right.set_ylim(0, max(5, 110 * max(rate for _, rate in error_rates)))
        for step, rate in error_rates:
            above = {"xytext": (5, 5), "textcoords": "offset points", "color": "tab:red"}
            right.annotate(f"{100 * rate:.1f}", (step, 100 * rate), **above)
        axes.set_xlim(right=1.08 * len(losses))
