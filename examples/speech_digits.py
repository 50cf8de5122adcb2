"""Spoken digits by espeak-ng, written as LibriSpeech-style folders: one of training voices, one of held-out voices.

The library comes from the PyPI package espeakng-loader and is called through ctypes; names are those of speak_lib.h. A
voice is an English accent with a variant (formants, breath, roughness: who is speaking); every utterance also draws a
speed and a pitch. The held-out variants speak nothing in the training folder, in any accent.
"""

import ctypes
import io
import itertools
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile
from scipy.signal import resample_poly
from speech_data import SAMPLE_RATE
from speech_problems import UserError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-scotland", "en-029")
WORDS_PER_MINUTE, PITCH = (140, 260), (20, 80)
AUDIO_OUTPUT_SYNCHRONOUS, RATE_PARAMETER, PITCH_PARAMETER, CHARS_UTF8, POS_CHARACTER = 2, 1, 3, 1, 1
EVENT_LIST_TERMINATED, EVENT_WORD = 0, 1
EVENT = ctypes.c_int * 10  # as wide as the struct: the type comes first, and sixth the place in samples


class Synthesiser:
    """espeak-ng, one at a time: the library keeps its state in globals. The seed is that of the noise in a voice."""

    def __init__(self, seed: int = 0) -> None:
        data = Path(espeakng_loader.get_data_path())
        self.variants = sorted(path.name for path in (data / "voices" / "!v").iterdir())
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._rate = self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # by default the time of day
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(EVENT))
        self._callback = callback_type(self._receive)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: int | None, samples: int, events: Sequence[EVENT]) -> int:
        listed = itertools.takewhile(lambda event: event[0] != EVENT_LIST_TERMINATED, events)
        self._word_starts += [event[5] / self._rate for event in listed if event[0] == EVENT_WORD]
        if wave and samples > 0:
            self._pieces.append(ctypes.string_at(wave, 2 * samples))
        return 0  # go on

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int) -> tuple[np.ndarray, list[float]]:
        """Audio [N] at SAMPLE_RATE within [-1, 1], and the seconds where words begin; a pitch of 50 is the voice's."""
        self._pieces, self._word_starts = [], []
        data = text.encode() + b"\0"
        for function, *arguments in (
            ("espeak_SetVoiceByName", voice.encode()),
            ("espeak_SetParameter", RATE_PARAMETER, words_per_minute, 0),
            ("espeak_SetParameter", PITCH_PARAMETER, pitch, 0),
            ("espeak_Synth", data, len(data), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None),
        ):
            if status := getattr(self._library, function)(*arguments):
                raise UserError(f"espeak-ng refused {function}{tuple(arguments)}: status {status}")
        audio = np.frombuffer(b"".join(self._pieces), np.int16) / 32768
        return np.clip(resample_poly(audio, SAMPLE_RATE, self._rate), -1, 1), self._word_starts


def split_variants(variants: Sequence[str]) -> tuple[list[str], list[str]]:
    """(training, held out). Every eighth family is held out whole: `steph`, `steph2` and `steph3` are near copies."""
    families: dict[str, list[str]] = {}
    for variant in variants:
        families.setdefault(variant.lower().rstrip("0123456789"), []).append(variant)
    held_out = set(sorted(families)[7::8])
    return tuple([v for f, vs in families.items() if (f in held_out) == out for v in vs] for out in (False, True))


def synthesise(folder: Path, train: int, held_out: int, seed: int) -> tuple[Path, Path]:
    """Fills `folder/train` and `folder/heldout` with so many utterances, once: what is there already is used again.

    Variants take turns, as SPEAKER/ACCENT/SPEAKER-ACCENT-NUMBER.wav; word_starts.txt has the true starts, in seconds.
    """
    roots = folder / "train", folder / "heldout"
    if folder.is_dir():
        return roots
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    synthesiser, draws = Synthesiser(seed), random.Random(seed)
    for root, variants, count in zip(roots, split_variants(synthesiser.variants), (train, held_out), strict=True):
        for number, variant in zip(range(count), itertools.cycle(variants)):
            accent = draws.choice(ACCENTS)
            text = " ".join(draws.choice(DIGITS) for _ in range(draws.randint(1, 5)))
            speed, pitch = draws.randint(*WORDS_PER_MINUTE), draws.randint(*PITCH)
            audio, starts = synthesiser.say(text, f"{accent}+{variant}", speed, pitch)
            speaker, chapter = (name.replace("-", "").replace(" ", "") for name in (variant, accent))
            home, name = unfinished / root.name / speaker / chapter, f"{speaker}-{chapter}-{number:05d}"
            home.mkdir(parents=True, exist_ok=True)
            wave = io.BytesIO()  # through memory: a full disk is then an OSError, where soundfile fails an assertion
            soundfile.write(wave, audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
            (home / f"{name}.wav").write_bytes(wave.getvalue())
            with (home / f"{speaker}-{chapter}.trans.txt").open("a") as transcript:
                transcript.write(f"{name} {text}\n")
            with (unfinished / root.name / "word_starts.txt").open("a") as times:
                times.write(f"{name} {' '.join(map(str, starts))}\n")
    unfinished.rename(folder)  # only a whole corpus ever has the name that is looked for
    return roots
