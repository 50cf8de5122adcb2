"""The picture at the end of a run: its loss, its error rate, and how the loss aligned one utterance."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from flax import nnx
from speech_batches import Arrays, on_device
from speech_corpus import BLANK
from speech_features import HOP, SAMPLE_RATE, log_mel
from speech_model import STACK, Transducer

import jax_rnnt

matplotlib.use("Agg")  # writes files, needs no display
from matplotlib import pyplot


class Alignment(NamedTuple):
    features: np.ndarray  # [F, MELS]
    posteriors: np.ndarray  # [T, U + 1, 2]: blank, label
    cost: float


@nnx.jit
def _align(model: Transducer, arrays: Arrays[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    logits, lengths = model(arrays.audio, arrays.samples, arrays.labels)
    # A node's label is the next one of its utterance; none leaves the last column (-1).
    labels = jnp.pad(arrays.labels, ((0, 0), (0, 1)), constant_values=-1)[:, None, :]
    arcs = jax_rnnt.arc_log_probs(logits, jnp.broadcast_to(labels, logits.shape[:3]), columns=(BLANK,))
    cost, posteriors = jax_rnnt.lattice_posteriors(arcs, lengths, arrays.label_lengths)
    features, _ = log_mel(arrays.audio, arrays.samples)
    return features, cost, posteriors


def align(model: Transducer, arrays: Arrays[np.ndarray], row: int) -> Alignment:
    """Every arc's posterior probability in one row of a batch, given its transcript."""
    samples, labels = int(arrays.samples[row]), int(arrays.label_lengths[row])
    one = Arrays(
        arrays.audio[row : row + 1, :samples],
        arrays.samples[row : row + 1],
        arrays.labels[row : row + 1, :labels],
        arrays.label_lengths[row : row + 1],
    )
    features, cost, posteriors = jax.device_get(_align(model, on_device(one)))
    return Alignment(features[0], posteriors[0], float(cost[0]))


def draw(
    file: Path,
    losses: list[float],
    error_rates: list[tuple[int, float]],
    alignment: Alignment,
    text: str,
    recognised: str,
) -> None:
    """Writes the picture: loss and error rate over steps; log-mel and lattice posteriors of one utterance over time."""
    figure, axes = pyplot.subplot_mosaic(
        [["loss", "mel"], ["loss", "lattice"]], figsize=(14, 7), height_ratios=[1, 2.4], width_ratios=[1, 1.35],
        layout="constrained",
    )  # fmt: skip
    _draw_loss(axes["loss"], losses, error_rates)
    seconds = alignment.posteriors.shape[0] * STACK * HOP / SAMPLE_RATE
    _draw_features(axes["mel"], alignment.features, seconds)
    _draw_lattice(axes["lattice"], alignment, text, seconds)
    axes["mel"].set_title(f"“{text}”, recognised as “{recognised}”")
    figure.savefig(file, dpi=120)
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


def _draw_features(axes, features: np.ndarray, seconds: float) -> None:
    axes.imshow(
        features.T, origin="lower", aspect="auto", extent=(0, len(features) * HOP / SAMPLE_RATE, 0, features.shape[1])
    )
    axes.set(xlim=(0, seconds), ylabel="mel band", xticklabels=[])


def _draw_lattice(axes, alignment: Alignment, text: str, seconds: float) -> None:
    """Node occupancy as a heat map; a dot where a label arc is taken, as large as it is probable."""
    occupancy = alignment.posteriors.sum(axis=-1).T  # [U + 1, T]: every path through a node leaves it by one arc
    rows, time = occupancy.shape
    image = axes.imshow(
        occupancy, origin="lower", aspect="auto", extent=(0, seconds, -0.5, rows - 0.5), cmap="magma", vmin=0, vmax=1
    )
    frame, label = np.nonzero(alignment.posteriors[..., 1] > 0.05)
    axes.scatter(
        (frame + 0.5) * seconds / time, label, s=40 * alignment.posteriors[frame, label, 1],
        facecolors="none", edgecolors="cyan", linewidths=1.2, label="label emitted here",
    )  # fmt: skip
    axes.set_yticks(range(rows), [c if c != " " else "␣" for c in text] + ["end"], fontsize=8)
    axes.set(xlabel="seconds", ylabel="next label", title=f"posterior lattice, cost {alignment.cost:.3f} nats")
    axes.legend(loc="upper left")
    axes.figure.colorbar(image, ax=axes, label="posterior probability of the node", pad=0.01)
