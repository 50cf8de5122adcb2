"""Utterances to batches of few shapes, in an order that depends on seed and epoch alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np
from speech_corpus import BLANK, Utterance, encode, load_audio
from speech_mesh import rows_of
from speech_problems import Problem, Unusable, UserError, summary

Array = TypeVar("Array")  # np.ndarray as loaded, jax.Array where the model runs


class Arrays(NamedTuple, Generic[Array]):
    """What the model sees. A filler row has samples 0 and label_lengths 0: its loss is 0 and so is its gradient."""

    audio: Array  # float32 [B, N]
    samples: Array  # int32 [B]
    labels: Array  # int32 [B, U], blank behind the end
    label_lengths: Array  # int32 [B]


def on_device(arrays: Arrays[np.ndarray]) -> Arrays[jax.Array]:
    """The one place where batches go to devices."""
    return Arrays(*jax.device_put(tuple(arrays), rows_of(len(arrays.samples))))


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
    """Utterances of like length and the one shape that all their batches are padded to."""

    utterances: list[Utterance]
    samples: int
    labels: int


class Batch(NamedTuple):
    arrays: Arrays[np.ndarray]
    utterances: list[Utterance]  # the real rows, in order
    bucket: Bucket


def make_buckets(utterances: Sequence[Utterance], count: int) -> list[Bucket]:
    """At most `count` buckets with equal numbers of utterances, by length of the audio."""
    by_length = sorted(utterances, key=lambda u: (u.samples, u.id))
    pieces = [by_length[len(by_length) * k // count : len(by_length) * (k + 1) // count] for k in range(count)]
    return [Bucket(p, max(u.samples for u in p), max(len(u.text) for u in p)) for p in pieces if p]


class Batches:
    """Batches of `size` utterances; the last of each bucket is filled up with filler rows.

    All are filled up to a number of rows that `parts` devices can share.

    An audio file that turns out to be unusable when it is read is handed to `report` and becomes a filler row too: a
    long run goes on without it. Several in a row that leave a batch without an utterance are an error: what is wrong
    then is the folder or its disk.
    """

    def __init__(self, buckets: Sequence[Bucket], size: int, report: Callable[[Problem], None], parts: int = 1):
        self.buckets = buckets
        self.size = size
        self.rows = -(-size // parts) * parts
        self._report = report
        self._reported: set[Path] = set()
        self._in_a_row: list[Problem] = []

    def __len__(self) -> int:
        return sum(-(-len(bucket.utterances) // self.size) for bucket in self.buckets)

    def plan(self, seed: int | None, epoch: int = 0) -> list[tuple[Bucket, list[Utterance]]]:
        """The batches of one epoch, in order, before their audio is read; shuffled unless `seed` is None."""
        plan: list[tuple[Bucket, list[Utterance]]] = []
        random = None if seed is None else np.random.default_rng((seed, epoch))
        for bucket in self.buckets:
            order = np.arange(len(bucket.utterances)) if random is None else random.permutation(len(bucket.utterances))
            members = [bucket.utterances[i] for i in order]
            plan += [(bucket, members[i : i + self.size]) for i in range(0, len(members), self.size)]
        return plan if random is None else [plan[i] for i in random.permutation(len(plan))]

    def load(self, bucket: Bucket, members: Sequence[Utterance]) -> Batch:
        arrays = Arrays(
            np.zeros((self.rows, bucket.samples), np.float32),
            np.zeros(self.rows, np.int32),
            np.full((self.rows, bucket.labels), BLANK, np.int32),
            np.zeros(self.rows, np.int32),
        )
        loaded: list[Utterance] = []
        for utterance in members:
            try:
                audio = load_audio(utterance)
            except Unusable as unusable:
                problem = Problem(utterance.path, unusable.kind, unusable.detail)
                self._in_a_row.append(problem)
                if utterance.path not in self._reported:
                    self._reported.add(utterance.path)
                    self._report(problem)
                continue
            self._in_a_row.clear()
            row = len(loaded)
            labels = encode(utterance.text)
            arrays.audio[row, : len(audio)] = audio
            arrays.samples[row] = len(audio)
            arrays.labels[row, : len(labels)] = labels
            arrays.label_lengths[row] = len(labels)
            loaded.append(utterance)
        if not loaded and len(self._in_a_row) > 1:
            raise UserError(
                f"{len(self._in_a_row)} audio files in a row can't be used, and a batch is left without an utterance:"
                f" {summary(self._in_a_row)}"
            )
        return Batch(arrays, loaded, bucket)

    def training(self, seed: int, first_step: int) -> Iterator[Batch]:
        """Batches without end, from the given step on: step s is batch s % len(self) of epoch s // len(self).

        A thread reads the next batch while the caller computes.
        """
        epoch, skip = divmod(first_step, len(self))
        with ThreadPoolExecutor(1) as reader:
            pending = None
            while True:
                for bucket, members in self.plan(seed, epoch)[skip:]:
                    coming = reader.submit(self.load, bucket, members)
                    if pending is not None:
                        yield pending.result()
                    pending = coming
                epoch, skip = epoch + 1, 0

    def once(self) -> Iterator[Batch]:
        """Every utterance once, in order of length."""
        for bucket, members in self.plan(seed=None):
            yield self.load(bucket, members)
