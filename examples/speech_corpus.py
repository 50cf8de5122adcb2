"""A LibriSpeech-style folder as a list of utterances, with everything unusable in it named.

`DIR/**/*.trans.txt` holds one `ID TEXT` line per utterance, `ID.flac` or `ID.wav` lies beside it, and an ID begins with
its speaker: `84-121123-0000`. Only headers are read here; the audio itself is read batch by batch.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from speech_features import SAMPLE_RATE
from speech_problems import Problem, Unusable, UserError, summary

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"
BLANK = 0  # class 0 of the model; character i of ALPHABET is class i + 1
VOCABULARY = len(ALPHABET) + 1
AUDIO_SUFFIXES = (".flac", ".wav")
WORD_TIMES = "words.ctm"  # in the root of a corpus: where its words are, if that is known


@dataclasses.dataclass(frozen=True)
class Utterance:
    id: str
    path: Path
    text: str
    samples: int

    @property
    def speaker(self) -> str:
        return self.id.split("-")[0]


class Word(NamedTuple):
    text: str
    start: float  # seconds
    end: float


def ctm_lines(utterance: str, words: Iterable[Word]) -> list[str]:
    """Lines of NIST's CTM: utterance, channel, start, duration, word."""
    return [f"{utterance} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text}\n" for word in words]


def word_starts(root: Path) -> dict[str, list[float]]:
    """In seconds, by utterance: those that `WORD_TIMES` tells, if there is such a file."""
    starts: dict[str, list[float]] = {}
    file = root / WORD_TIMES
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        utterance, _, start, *_ = line.split()
        starts.setdefault(utterance, []).append(float(start))
    return starts


def encode(text: str) -> np.ndarray:
    """Characters to classes, int32 [U]."""
    return np.array([ALPHABET.index(character) + 1 for character in text], np.int32)


def decode(classes: Iterable[int]) -> str:
    """Classes, none of them blank, to characters."""
    return "".join(ALPHABET[c - 1] for c in classes)


def read_corpus(root: Path, samples: range, report: Callable[[Problem], None]) -> list[Utterance]:
    """Every usable utterance under `root`; what can't be used goes to `report`.

    An utterance is usable when its audio is mono, at `SAMPLE_RATE` and of a length in `samples`, and its text is within
    `ALPHABET` and not empty. None at all is an error.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    problems: list[Problem] = []

    def skip(problem: Problem) -> None:
        problems.append(problem)
        report(problem)

    utterances: list[Utterance] = []
    listed: set[Path] = set()
    for transcript in sorted(root.rglob("*.trans.txt")):
        for name, text in _transcript_lines(transcript, skip):
            path = next((p for p in (transcript.parent / (name + s) for s in AUDIO_SUFFIXES) if p.exists()), None)
            if path is None:
                skip(Problem(transcript, "no audio", f"neither {name}.flac nor {name}.wav is beside it"))
            elif path in listed:
                skip(Problem(path, "repeated transcript", f"listed once more in {transcript}"))
            else:
                listed.add(path)
                try:
                    _check_text(text)
                    utterances.append(Utterance(name, path, text, _audio_length(path, samples)))
                except Unusable as problem:
                    skip(Problem(path, problem.kind, problem.detail))
    for suffix in AUDIO_SUFFIXES:
        for path in sorted(set(root.rglob("*" + suffix)) - listed):
            skip(Problem(path, "no transcript", "no *.trans.txt beside it lists this file"))
    if not utterances:
        raise UserError(
            f"{root}: no usable utterance in it; it needs *.trans.txt files with lines `ID TEXT`, and ID.flac or ID.wav"
            f" beside them; skipped: {summary(problems) if problems else 'nothing'}"
        )
    return utterances


def _transcript_lines(transcript: Path, report: Callable[[Problem], None]) -> Iterator[tuple[str, str]]:
    """The (ID, lower-case text) pairs of one *.trans.txt."""
    try:
        lines = transcript.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        report(Problem(transcript, "unreadable transcript", str(error)))
        return
    for line in lines:
        if words := line.split():
            yield words[0], " ".join(words[1:]).lower()


def _check_text(text: str) -> None:
    if not text:
        raise Unusable("empty transcript", "its transcript line holds an ID alone")
    strange = "".join(sorted(set(text) - set(ALPHABET)))
    if strange:
        raise Unusable("outside the alphabet", f"{strange!r} in {text!r}")


def _audio_length(path: Path, samples: range) -> int:
    """Samples in one audio file, by its header."""
    try:
        info = soundfile.info(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise Unusable("unreadable audio", str(error)) from error
    if info.samplerate != SAMPLE_RATE:
        raise Unusable("wrong sample rate", f"{info.samplerate} Hz, where {SAMPLE_RATE} Hz is needed")
    if info.channels != 1:
        raise Unusable("not mono", f"{info.channels} channels")
    if info.frames < samples.start:
        raise Unusable("too short", f"{info.frames} samples, where {samples.start} make one encoder frame")
    if info.frames >= samples.stop:
        raise Unusable(
            "too long", f"{info.frames / SAMPLE_RATE:.1f} s, where {samples.stop / SAMPLE_RATE:.1f} s is the limit"
        )
    return info.frames


def load_audio(utterance: Utterance) -> np.ndarray:
    """The samples of one utterance, float32 [N]; raises Unusable for what its header did not tell."""
    try:
        audio, _ = soundfile.read(utterance.path, dtype="float32")
    except (OSError, soundfile.SoundFileError) as error:
        raise Unusable("unreadable audio", str(error)) from error
    if audio.shape != (utterance.samples,):
        raise Unusable("changed audio", f"shape {audio.shape}, where its header told ({utterance.samples},)")
    if not np.isfinite(audio).all():
        raise Unusable("not a number", f"sample {np.argmin(np.isfinite(audio))} is {audio[~np.isfinite(audio)][0]}")
    return audio


def hold_out_speakers(
    utterances: Sequence[Utterance], seed: int, share: float = 0.1
) -> tuple[list[Utterance], list[Utterance]]:
    """Splits into (training, held out): whole speakers, drawn by `seed`, until they hold `share` of the utterances."""
    counts = Counter(u.speaker for u in utterances)
    speakers = sorted(counts)
    if len(speakers) < 2:
        raise UserError(
            f"every usable utterance is spoken by {speakers[0]!r} (the first part of its ID), so no speaker can be held"
            " out; name a folder with other speakers with --heldout-data"
        )
    random.Random(seed).shuffle(speakers)
    held_out: set[str] = set()
    while len(speakers) > 1 and sum(counts[s] for s in held_out) < share * len(utterances):
        held_out.add(speakers.pop())
    return (
        [u for u in utterances if u.speaker not in held_out],
        [u for u in utterances if u.speaker in held_out],
    )
