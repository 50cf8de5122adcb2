"""Draws docs/picture.svg from a run of the example: `python docs/draw_picture.py runs/digits`.

An utterance of a voice that the training never heard: its labels over the audio's features, and its lattice. Lines and
letters are grey and there is no background, so the picture fits light and dark pages.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import jax
import speech_data
import speech_report
from word_starts import heldout_batches, trained

import jax_rnnt

GREY = "#7d8590"
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    **{"svg.fonttype": "none", "svg.hashsalt": "picture", "savefig.transparent": True, "font.size": 9},
}


def main() -> None:
    out = Path(sys.argv[1])
    args, model = trained(out)
    batches = heldout_batches(out, args)
    batch = next(batches.load(*one) for one in batches.plan(seed=0))
    text, seconds = batch.utterances[0].text, model.objective.stack * speech_data.SECONDS
    lattice, posteriors, best = jax.tree.map(lambda x: x[0], jax.device_get(speech_report.align(model, batch.arrays)))
    features = speech_data.log_mel(batch.arrays.audio[:1], batch.arrays.samples[:1])[0]
    frames = int(lattice.logit_lengths)
    with plt.rc_context(STYLE):
        figure, (over_time, nodes) = plt.subplots(2, figsize=(9, 6.2), height_ratios=(1, 2.8), layout="constrained")
        jax_rnnt.alignment.plot_alignment(
            best.frames[: len(text)], labels=text, seconds_per_frame=seconds, axes=over_time,
            features=features[: frames * model.objective.stack], features_per_frame=model.objective.stack,
        )  # fmt: skip
        over_time.set_xlabel("")
        path = best.arcs, lattice.moves
        posteriors = posteriors[:frames, : len(text) + 1]
        jax_rnnt.alignment.plot_lattice(posteriors, *path, labels=text, seconds_per_frame=seconds, axes=nodes)
        over_time.set_xlim(nodes.get_xlim())
        figure.savefig(Path(__file__).parent / "picture.svg", metadata={"Date": None}, dpi=100)


if __name__ == "__main__":
    main()
