"""Spoken digits by espeak-ng, written as LibriSpeech-style folders: one of training voices, one of held-out voices.

The shared library and its data come from the PyPI package espeakng-loader; it is called through ctypes.
A voice is an English accent with a variant (formants, breath, roughness: who is speaking); every utterance also draws a
speed and a pitch. The held-out variants speak nothing in the training folder, in any accent.
"""

import ctypes
import io
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from speech_corpus import WORD_TIMES, Word, ctm_lines
from speech_features import SAMPLE_RATE
from speech_problems import UserError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en-us",
    "en-us-nyc",
    "en",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-scotland",
    "en-029",
)
WORDS_PER_MINUTE = (140, 260)
PITCH = (20, 80)

# From espeak-ng's speak_lib.h.
AUDIO_OUTPUT_SYNCHRONOUS = 2
RATE_PARAMETER = 1
PITCH_PARAMETER = 3
CHARS_UTF8 = 1
POSITION_CHARACTER = 1
EVENT_LIST_TERMINATED, EVENT_WORD = 0, 1


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


class Speech(NamedTuple):
    audio: np.ndarray  # float [N] at SAMPLE_RATE within [-1, 1]
    word_starts: list[float]  # seconds


class Synthesiser:
    """espeak-ng in this process. One at a time: the library keeps its state in globals.

    The same `seed` and the same calls give the same samples: the noise in a voice is random.
    """

    def __init__(self, seed: int = 0) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError:
            raise UserError(
                "the default data is synthesised by espeakng-loader, which is not installed:"
                ' pip install ".[examples]" in the folder of the source, or train on a folder of yours with --data DIR'
            ) from None
        from scipy.signal import resample_poly  # takes a second to import, which runs on a folder need not wait for

        self._resample = resample_poly
        self._data = Path(espeakng_loader.get_data_path())
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, str(self._data).encode(), 0)
        if rate <= 0:
            raise UserError(f"espeak-ng could not be initialised with its data in {self._data}: status {rate}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))  # by default the time of day
        self._rate = rate
        self._pieces: list[bytes] = []
        self._word_starts: list[float] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = callback_type(self._receive)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: int | None, samples: int, events: Sequence[_Event]) -> int:
        for event in _until_terminated(events):
            if event.type == EVENT_WORD:
                self._word_starts.append(event.sample / self._rate)
        if wave and samples > 0:
            self._pieces.append(ctypes.string_at(wave, 2 * samples))
        return 0  # go on

    def variants(self) -> list[str]:
        return sorted(path.name for path in (self._data / "voices" / "!v").iterdir())

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int) -> Speech:
        """Speaks `text`. `pitch` is 0 to 99, 50 as the voice has it."""
        library = self._library
        self._check(library.espeak_SetVoiceByName(voice.encode()), f"voice {voice!r}")
        self._check(library.espeak_SetParameter(RATE_PARAMETER, words_per_minute, 0), f"rate {words_per_minute}")
        self._check(library.espeak_SetParameter(PITCH_PARAMETER, pitch, 0), f"pitch {pitch}")
        self._pieces.clear()
        self._word_starts.clear()
        data = text.encode() + b"\0"
        status = library.espeak_Synth(data, len(data), 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None)
        self._check(status, f"text {text!r}")
        audio = np.frombuffer(b"".join(self._pieces), np.int16) / 32768
        return Speech(np.clip(self._resample(audio, SAMPLE_RATE, self._rate), -1, 1), list(self._word_starts))

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status != 0:
            raise UserError(f"espeak-ng refused {what}: status {status}")


def _until_terminated(events: Sequence[_Event]) -> Iterator[_Event]:
    """Those of a bare pointer."""
    for event in events:
        if event.type == EVENT_LIST_TERMINATED:
            return
        yield event


def split_variants(variants: Sequence[str]) -> tuple[list[str], list[str]]:
    """(training, held out). Every eighth family is held out whole: `steph`, `steph2` and `steph3` are near copies."""
    families: dict[str, list[str]] = {}
    for variant in variants:
        families.setdefault(variant.lower().rstrip("0123456789"), []).append(variant)
    held_out = set(sorted(families)[7::8])
    return (
        [v for family, members in families.items() if family not in held_out for v in members],
        [v for family, members in families.items() if family in held_out for v in members],
    )


def synthesise(folder: Path, train: int, held_out: int, seed: int) -> tuple[Path, Path]:
    """Fills `folder/train` and `folder/heldout` with so many utterances, once: what is there already is used again."""
    if not folder.is_dir():
        synthesiser = Synthesiser(seed)
        random_state = random.Random(seed)
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        for name, variants, count in zip(
            ("train", "heldout"), split_variants(synthesiser.variants()), (train, held_out), strict=True
        ):
            _write_corpus(unfinished / name, synthesiser, variants, count, random_state)
        unfinished.rename(folder)  # only a whole corpus ever has the name that is looked for
    return folder / "train", folder / "heldout"


def _write_corpus(
    root: Path, synthesiser: Synthesiser, variants: Sequence[str], count: int, random_state: random.Random
) -> None:
    """Writes `count` utterances, the variants taking turns, as root/SPEAKER/ACCENT/SPEAKER-ACCENT-NUMBER.wav.

    root/words.ctm says when the synthesiser began each word.
    """
    root.mkdir(parents=True)
    times: list[str] = []
    for number in range(count):
        variant = variants[number % len(variants)]
        accent = random_state.choice(ACCENTS)
        text = " ".join(random_state.choice(DIGITS) for _ in range(random_state.randint(1, 5)))
        speech = synthesiser.say(
            text, f"{accent}+{variant}", random_state.randint(*WORDS_PER_MINUTE), random_state.randint(*PITCH)
        )
        speaker, chapter = (name.replace("-", "").replace(" ", "") for name in (variant, accent))
        chapter_folder = root / speaker / chapter
        chapter_folder.mkdir(parents=True, exist_ok=True)
        name = f"{speaker}-{chapter}-{number:05d}"
        # Through memory: a full disk is then an OSError, where soundfile fails an assertion.
        wave = io.BytesIO()
        soundfile.write(wave, speech.audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        (chapter_folder / f"{name}.wav").write_bytes(wave.getvalue())
        with open(chapter_folder / f"{speaker}-{chapter}.trans.txt", "a", encoding="utf-8") as transcript:
            transcript.write(f"{name} {text}\n")
        ends = [*speech.word_starts[1:], len(speech.audio) / SAMPLE_RATE]
        times += ctm_lines(name, map(Word, text.split(), speech.word_starts, ends))
    (root / WORD_TIMES).write_text("".join(times))
