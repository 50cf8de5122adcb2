"""A LibriSpeech-style folder as utterances, utterances as batches of few shapes, and audio as log-mel features.

`DIR/**/*.trans.txt` holds one `ID TEXT` line per utterance, `ID.flac` or `ID.wav` lies beside it, and an ID begins with
its speaker: `84-121123-0000`. Headers are read first, and the audio batch by batch.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
from scipy.signal import resample_poly
from speech_mesh import DATA, parts, sharding
from speech_problems import Problem, Problems, UserError

ALPHABET = "_ 'abcdefghijklmnopqrstuvwxyz"  # the classes of the model, the blank first
BLANK = 0
SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160  # samples of a feature frame (25 ms), and from one frame to the next (10 ms)
SECONDS = HOP / SAMPLE_RATE  # from one feature frame to the next
FFT, MELS = 512, 64


class Utterance(NamedTuple):
    id: str
    path: Path
    text: str
    samples: int  # at SAMPLE_RATE

    @property
    def speaker(self) -> str:
        return self.id.split("-")[0]


def read_corpus(root: Path, samples: range, problems: Problems) -> list[Utterance]:
    """Every utterance under `root` with a text in ALPHABET and mono audio of a length in `samples`; at least one."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    utterances: dict[Path, Utterance | None] = {}  # None where one can't be used
    for transcript in sorted(root.rglob("*.trans.txt")):
        with problems.skipping(transcript, "unreadable transcript"):
            for name, *words in filter(None, map(str.split, transcript.read_text(encoding="utf-8-sig").splitlines())):
                paths = [transcript.parent / (name + suffix) for suffix in (".flac", ".wav")]
                path = next((path for path in paths if path.exists()), None)
                with problems.skipping(path or transcript, "unreadable audio"):
                    if path is None:
                        raise Problem("no audio", f"neither {name}.flac nor {name}.wav is beside it")
                    if path in utterances:
                        raise Problem("repeated transcript", f"listed once more in {transcript}")
                    utterances[path] = None
                    utterances[path] = _utterance(name, path, " ".join(words).lower(), samples)
    for path in sorted({*root.rglob("*.flac"), *root.rglob("*.wav")} - utterances.keys()):
        problems.skip(path, "no transcript", "no *.trans.txt beside it lists this file")
    usable = [utterance for utterance in utterances.values() if utterance]
    if not usable:
        needed = "*.trans.txt files with lines `ID TEXT`, and ID.flac or ID.wav beside them"
        raise UserError(f"{root}: no usable utterance in it; it needs {needed}; skipped: {problems}")
    return usable


def _utterance(name: str, path: Path, text: str, samples: range) -> Utterance:
    if not text:
        raise Problem("empty transcript", "its transcript line holds an ID alone")
    if strange := "".join(sorted(set(text) - set(ALPHABET[1:]))):
        raise Problem("outside the alphabet", f"{strange!r} in {text!r}")
    info = soundfile.info(path)
    if info.channels != 1:
        raise Problem("not mono", f"{info.channels} channels")
    count = -(-info.frames * SAMPLE_RATE // info.samplerate)
    if count not in samples:
        limit, kind = (samples[0], "too short") if count < samples[0] else (samples[-1], "too long")
        raise Problem(kind, f"{count / SAMPLE_RATE:.3f} s, where {limit / SAMPLE_RATE:.3f} s is the limit")
    return Utterance(name, path, text, count)


def load_audio(utterance: Utterance) -> np.ndarray:
    """The samples of one utterance, float32 [N]; raises Problem for what its header did not tell."""
    audio, rate = soundfile.read(utterance.path, dtype="float32")
    audio = audio if rate == SAMPLE_RATE else resample_poly(audio, SAMPLE_RATE, rate)
    if audio.shape != (utterance.samples,):
        raise Problem("changed audio", f"shape {audio.shape}, where its header told ({utterance.samples},)")
    if not np.isfinite(audio).all():
        raise Problem("not a number", f"sample {np.argmin(np.isfinite(audio))} is not finite")
    return audio


def hold_out_speakers(utterances: Sequence[Utterance], seed: int) -> tuple[list[Utterance], list[Utterance]]:
    """Splits into (training, held out) by speaker: a tenth of them, drawn by `seed`, is held out."""
    speakers = sorted({u.speaker for u in utterances})
    if len(speakers) < 2:
        why = f"every usable utterance is spoken by {speakers[0]!r} (the first part of its ID)"
        raise UserError(f"{why}, so none can be held out; name a folder of other speakers with --heldout-data")
    held_out = random.Random(seed).sample(speakers, -(-len(speakers) // 10))
    return [u for u in utterances if u.speaker not in held_out], [u for u in utterances if u.speaker in held_out]


class Arrays(NamedTuple):
    """The model's input. A filler row has samples 0 and label_lengths 0: its loss and its gradient are 0."""

    audio: jax.Array  # float32 [B, N]
    samples: jax.Array  # int32 [B]
    labels: jax.Array  # int32 [B, U], blank behind the end
    label_lengths: jax.Array  # int32 [B]


class Batch(NamedTuple):
    arrays: Arrays
    utterances: list[Utterance]  # the real rows, in order
    bucket: list[Utterance]  # from which they come


class Batches:
    """Batches of `size` utterances, and of filler rows where devices could not share the rows or a batch is not full.

    Utterances of similar length share one of `buckets` buckets, and the batches of a bucket have one shape. Audio that
    turns out to be unusable leaves a filler row. If it leaves only filler rows, the folder or its disk is lost.
    """

    def __init__(self, utterances: Sequence[Utterance], buckets: int, size: int, problems: Problems):
        order, count = sorted(utterances, key=lambda u: (u.samples, u.id)), len(utterances)
        pieces = [order[count * k // buckets : count * (k + 1) // buckets] for k in range(buckets)]
        self.buckets, self.size, self.rows = [p for p in pieces if p], size, -(-size // parts(DATA)) * parts(DATA)
        self._problems, self._unread = problems, 0
        self._sharding = sharding(DATA)  # asked here, since the thread that reads has no mesh

    def plan(self, seed: int | None, epoch: int = 0) -> list[tuple[list[Utterance], list[Utterance]]]:
        """The bucket and the utterances of each batch of one epoch, in order; shuffled unless `seed` is None."""
        plan = []
        shuffled = list if seed is None else np.random.default_rng((abs(seed), epoch)).permutation
        for bucket in self.buckets:
            members = [bucket[i] for i in shuffled(range(len(bucket)))]
            plan += [(bucket, members[i : i + self.size]) for i in range(0, len(members), self.size)]
        return [plan[i] for i in shuffled(range(len(plan)))]

    def load(self, bucket: list[Utterance], members: list[Utterance]) -> Batch:
        audio = np.zeros((self.rows, max(u.samples for u in bucket)), np.float32)
        labels = np.full((self.rows, max(len(u.text) for u in bucket)), BLANK, np.int32)
        samples, label_lengths = np.zeros((2, self.rows), np.int32)
        loaded: list[Utterance] = []
        for utterance in members:
            with self._problems.skipping(utterance.path, "unreadable audio"):
                heard, text, row = load_audio(utterance), [ALPHABET.index(c) for c in utterance.text], len(loaded)
                samples[row], label_lengths[row] = len(heard), len(text)
                audio[row, : len(heard)], labels[row, : len(text)] = heard, text
                loaded.append(utterance)
        self._unread = 0 if loaded else self._unread + len(members)
        if self._unread > 1:
            raise UserError(f"{self._unread} audio files in a row can't be used; skipped until now: {self._problems}")
        return Batch(jax.device_put(Arrays(audio, samples, labels, label_lengths), self._sharding), loaded, bucket)

    def training(self, seed: int, first_step: int) -> Iterator[Batch]:
        """Batches without end, epoch after epoch, from a step on. A thread reads ahead while the caller computes."""
        plan = (one for epoch in itertools.count() for one in self.plan(seed, epoch))
        with ThreadPoolExecutor(1) as reader:
            coming = (reader.submit(self.load, *one) for one in itertools.islice(plan, first_step, None))
            for batch, _ in itertools.pairwise(coming):
                yield batch.result()

    def once(self) -> Iterator[Batch]:
        """Every utterance once, in order of length."""
        return (self.load(*one) for one in self.plan(None))


def num_frames(samples):
    """The number of windows that fit into so many samples, an integer or an array."""
    return (samples >= WINDOW) * ((samples - WINDOW) // HOP + 1)


def mel_filters(low: float = 20.0, high: float = SAMPLE_RATE / 2) -> np.ndarray:
    """Triangular filters, equally spaced on the mel scale, float32 [FFT // 2 + 1, MELS]."""
    mels = np.linspace(*2595 * np.log10(1 + np.array([low, high]) / 700), MELS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(audio: jax.Array, samples: jax.Array) -> jax.Array:
    """Audio [B, N] with `samples` [B] real ones to features [B, num_frames(N), MELS] with zeros as padding."""
    starts = np.arange(num_frames(audio.shape[1])) * HOP
    windows = audio[:, starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW).astype(np.float32)
    spectrum = jnp.fft.rfft(windows, FFT)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # The floor is about the rounding noise of 16-bit audio: digital silence becomes a finite, quiet spectrum.
    bands = jnp.log(jnp.maximum(power @ mel_filters(), 1e-6))
    frames = num_frames(samples)
    valid = (jnp.arange(bands.shape[1])[None, :] < frames[:, None])[..., None]
    count = jnp.maximum(frames, 1)[:, None, None]
    mean = jnp.sum(bands, axis=1, keepdims=True, where=valid) / count
    centred = jnp.where(valid, bands - mean, 0)
    variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-3)
