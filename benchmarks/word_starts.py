"""Measures how near the truth a trained example aligns words: `python benchmarks/word_starts.py RUN`.

RUN is the `--out` of `examples/train_speech.py` on its synthesised digits. espeak-ng says when each word begins. The
loss of the training aligns the held-out utterances with their transcripts.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import speech_data
import speech_loss
import speech_model
import speech_problems
import speech_report
import train_speech

import jax_rnnt


def word_start_errors(model, batches, starts) -> dict[str, np.ndarray]:
    """The errors in ms, by the best path and by the expected times; `starts` are the true starts in seconds, by ID.

    The first word of an utterance is left out, because it begins where the audio does.
    """
    errors: dict[str, list[float]] = {"best path": [], "expected time": []}
    for batch in batches:
        lattice, posteriors, best = speech_report.align(model, batch.arrays)
        expected = jax_rnnt.alignment.emission_times(posteriors, lattice.moves)
        cost, *times = jax.device_get((best.cost, best.frames, expected))
        for row, (name, _, text, _) in enumerate(batch.utterances):
            first = [i for i in range(1, len(text)) if text[i - 1] == " " != text[i]]
            if np.isfinite(cost[row]):  # else there is no path
                for frames, found in zip(times, errors.values(), strict=True):
                    seconds = frames[row, first] * model.objective.stack * speech_data.SECONDS
                    found += list(1e3 * (seconds - np.array(starts[name][1:])))
    return {name: np.array(found) for name, found in errors.items()}


def trained(out: Path) -> tuple[argparse.Namespace, speech_model.Transducer]:
    settings = json.loads((out / "metrics.json").read_text())["settings"]
    names = "seed", "steps", "batch_size", "learning_rate", "width", "layers", "buckets"
    options = [text for name in names for text in ("--" + name.replace("_", "-"), str(settings[name]))]
    args = train_speech.parse_arguments(options)
    modules = train_speech.make_model(args, speech_loss.LOSSES[settings["loss"]])
    with train_speech.open_checkpoints(out / "checkpoints") as manager:
        train_speech.restore(manager, modules, {})
    return args, modules[0]


def heldout_batches(out: Path, args: argparse.Namespace) -> speech_data.Batches:
    (folder,) = out.glob("digits-*/heldout")
    problems = speech_problems.Problems(Path(os.devnull))
    utterances = speech_data.read_corpus(folder, range(speech_loss.SHORTEST, 20 * speech_data.SAMPLE_RATE), problems)
    return speech_data.Batches(utterances, args.buckets, args.batch_size, problems)


def main() -> None:
    out = Path(sys.argv[1])
    args, model = trained(out)
    (folder,) = out.glob("digits-*/heldout")
    lines = map(str.split, (folder / "word_starts.txt").read_text().splitlines())
    starts = {name: list(map(float, seconds)) for name, *seconds in lines}
    batches = heldout_batches(out, args)
    for name, errors in word_start_errors(model, batches.once(), starts).items():
        off = np.abs(errors)
        print(
            f"{name}: {len(errors)} words, {off.mean():.0f} ms off on average, {np.median(errors):+.0f} in the median;"
            f" {(off <= 50).mean():.1%} within 50 ms, {(off <= 100).mean():.1%} within 100 ms"
        )


if __name__ == "__main__":
    main()
