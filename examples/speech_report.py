"""The picture at the end of a run: its loss, its error rate, and how the loss aligned one utterance."""

from pathlib import Path

import matplotlib
import numpy as np
from speech_alignment import Alignment
from speech_decode import Recognised
from speech_model import Transducer
from speech_problems import whole_file

import jax_rnnt

matplotlib.use("Agg")  # writes files, needs no display
from matplotlib import pyplot


def draw(
    file: Path,
    losses: list[float],
    error_rates: list[tuple[int, float]],
    model: Transducer,
    alignment: Alignment,
    recognised: Recognised,
) -> None:
    """Writes the picture: loss and error rate over steps; the labels of one utterance over time, and its lattice."""
    figure, axes = pyplot.subplot_mosaic(
        [["loss", "mel"], ["loss", "lattice"]], figsize=(14, 7), height_ratios=[1, 2.4], width_ratios=[1, 1.35],
        layout="constrained",
    )  # fmt: skip
    _draw_loss(axes["loss"], losses, error_rates)
    text = recognised.utterance.text
    on = {"labels": text, "seconds_per_frame": model.seconds_per_frame}
    mel = {"features": alignment.features, "features_per_frame": model.objective.stack}
    jax_rnnt.alignment.plot_alignment(alignment.frames, alignment.durations, **mel, **on, axes=axes["mel"])
    jax_rnnt.alignment.plot_lattice(alignment.posteriors, alignment.arcs, alignment.moves, **on, axes=axes["lattice"])
    axes["mel"].set_title(f"“{text}”, recognised as “{recognised.text}”", pad=28)  # above the labels
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
