"""Code that the tests of examples/train_speech.py share. Importing it skips where the extra `examples` is missing.

The tests import the example's modules from here, because Python finds these modules only after the lines below.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

for needed in ("espeakng_loader", "flax", "jiwer", "matplotlib", "optax", "orbax.checkpoint", "rich", "soundfile"):
    pytest.importorskip(needed, exc_type=ImportError)

SCRIPT = Path(__file__).parents[2] / "examples" / "train_speech.py"
sys.path.insert(0, str(SCRIPT.parent))

import soundfile as soundfile  # noqa: E402
import speech_data as speech_data  # noqa: E402
import speech_digits as speech_digits  # noqa: E402
import speech_loss as speech_loss  # noqa: E402
import speech_mesh as speech_mesh  # noqa: E402
import speech_model as speech_model  # noqa: E402
import speech_problems as speech_problems  # noqa: E402
import speech_report as speech_report  # noqa: E402
import train_speech as train_speech  # noqa: E402

RATE = speech_data.SAMPLE_RATE
SAMPLES = range(speech_loss.SHORTEST, 20 * RATE + 1)


class NoProblems(speech_problems.Problems):
    """For folders without a fault."""

    def __init__(self):
        super().__init__(Path(os.devnull))

    def skip(self, *problem: object) -> None:
        pytest.fail(f"it skipped {problem}")


def digits(folder: Path, count: int) -> list[speech_data.Utterance]:
    """Reads so many utterances that the synthesiser spoke."""
    train, _ = speech_digits.synthesise(folder / "digits", count, 1, seed=0)
    return speech_data.read_corpus(train, SAMPLES, NoProblems())


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    time_axis = np.arange(int(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * 440 * time_axis) * np.sin(2 * np.pi * 3 * time_axis)


def write_corpus(root: Path, lines: dict[str, str], suffixes: dict[str, str] | None = None) -> None:
    """Writes a tone of 0.4 s or longer for each ID. Each speaker's files and transcripts have a folder of their own."""
    for number, (name, text) in enumerate(lines.items()):
        speaker = name.split("-")[0]
        folder = root / speaker / "1"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (name + (suffixes or {}).get(name, ".flac"))
        soundfile.write(path, tone(0.4 + 0.05 * number), RATE)
        with (folder / f"{speaker}-1.trans.txt").open("a") as transcript:
            transcript.write(f"{name} {text}\n")
