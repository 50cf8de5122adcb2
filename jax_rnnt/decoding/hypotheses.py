"""The state of a decoder's hypotheses, and the result that decoders return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, export, lax

from jax_rnnt.decoding.hypothesis_rows import take
from jax_rnnt.decoding.prefixes import merged
from jax_rnnt.xla.sharding import vary_alike

_Class = TypeVar("_Class", bound=type)


def _of_arrays(cls: _Class) -> _Class:
    """Makes ``==`` identity, because a comparison of arrays is not a bool, and lets ``jax.export`` keep the tuples."""
    for name in ("__eq__", "__ne__", "__hash__"):
        setattr(cls, name, getattr(object, name))
    export.register_namedtuple_serialization(cls, serialized_name=f"jax_rnnt.{cls.__name__}")
    return cls


@_of_arrays
class Hypotheses(NamedTuple):
    """The result of a decoder. The arrays of a beam have a dimension N for its hypotheses, the best first.

    An utterance has NaN scores and no labels if a logit that counts is NaN or +inf, or its length is out of range.
    ``==`` is identity.
    """

    labels: Array  #: ``[B, L]`` or ``[B, N, L]`` int32; -1 behind the last label
    lengths: Array  #: ``[B]`` or ``[B, N]`` int32, how many labels there are
    scores: Array  #: ``[B]`` or ``[B, N]``, log-probabilities; -inf where a beam has fewer than N hypotheses
    times: Array  #: ``[B, L]`` or ``[B, N, L]`` int32, the frame of each label; -1 behind the last
    durations: Array | None  #: for TDT, ``[B, L]`` or ``[B, N, L]`` int32, the frames of each label
    truncated: Array  #: ``[B]`` or ``[B, N]`` bool: whether ``max_labels`` once closed a label that was the best arc
    model_scores: Array | None = None  #: as ``scores``, without what ``fusion`` and ``internal_lm_weight`` added
    log_probs: Array | None = None  #: with ``confidence``, as ``times``: log-probabilities of labels; 0 behind the last
    entropy: Array | None = None  #: with ``confidence``, as ``times``: of the label's row, in [0, 1]; 0 behind the last


@_of_arrays
class Frontier(NamedTuple):
    """The place of each hypothesis ``[B, N]``, and all that its next label depends on."""

    score: Array  # [B, N]; NaN for all of an utterance that is spoilt
    time: Array  # [B, N] int32: its frame, counted from the beginning of the utterance
    length: Array  # [B, N] int32
    label: Array  # [B, N] int32: the last one; the start symbol where there is none yet
    waits: Array  # [B, N] bool: whether the predictor has yet to see that label
    truncated: Array  # [B, N] bool: whether `max_labels` closed its best arc at some frame
    prefix: Array  # [B, N, 2] uint32: equal for hypotheses with equal labels
    memory: Any  # the predictor's state, [B, N, ...]
    predicted: Any  # the predictor's output, [B, N, ...]
    fused: tuple[Any, ...]  # the states of the fusions, [B, N, ...]
    extra: Array | None  # [B, N, V]: what fusions and the internal language model add to the scores of labels
    added: Array | None  # [B, N]: the part of `score` that they have added so far


@_of_arrays
class Confidence(NamedTuple):
    """How sure the model is of labels or arcs."""

    log_probs: Array
    entropy: Array


@_of_arrays
class Start(NamedTuple):
    """How an utterance begins."""

    label: Array  # [B] int32: the start symbol
    memory: Any  # the predictor's state before it, [B, ...]


@_of_arrays
class DecoderState(NamedTuple):
    """A decoder between two pieces of audio: a pytree of arrays. ``==`` is identity."""

    frames: Array  #: ``[B]`` int32, how many have been decoded
    frontier: Frontier
    labels: Array  #: ``[B, N, L]`` int32
    times: Array  #: ``[B, N, L]`` int32
    durations: Array | None  #: ``[B, N, L]`` int32
    confidence: Confidence | None  #: ``[B, N, L]`` each
    start: Start


def with_extra(at: Frontier, source: Array, label: Array) -> Array | None:
    """``added [B, M]`` after ``label [B, M]``, or after none where that is -1, of the hypotheses ``source [B, M]``."""
    if at.extra is None or at.added is None:
        return None
    batch, n, vocabulary = at.extra.shape
    extra = take(at.extra.reshape(batch, n * vocabulary), source * vocabulary + jnp.maximum(label, 0))
    return take(at.added, source) + jnp.where(label >= 0, extra, 0)


def with_bin(history: Array) -> Array:
    """``history [B, N, L]`` with one more place, where what is not to be kept can be written."""
    return jnp.pad(history, ((0, 0), (0, 0), (0, 1)), constant_values=-1)


def without_bin(history: Array) -> Array:
    return history[..., :-1]


def histories(state: DecoderState) -> tuple[Array, Array, Array | None, Confidence | None]:
    """What is kept of each label."""
    return state.labels, state.times, state.durations, state.confidence


def with_histories(state: DecoderState, function: Callable[..., Array], *values: Any) -> DecoderState:
    """``state`` with the results of ``function(history, value)`` for the ``values`` of :func:`histories`."""
    labels, times, durations, confidence = jax.tree.map(function, histories(state), *values)
    return state._replace(labels=labels, times=times, durations=durations, confidence=confidence)


def cleared(history: Array, used: Array) -> Array:
    """``history`` where it is not ``used``: -1 for integers, and 0 for numbers."""
    return jnp.where(used, history, -1 if jnp.issubdtype(history.dtype, jnp.integer) else 0)


class Emitted(NamedTuple):
    """What hypotheses ``[B, N]`` emitted at a frame, in up to F turns."""

    origin: Array  # [B, N] int32: which of the frame's first hypotheses it continues
    labels: Array  # [B, N, F] int32: the labels that it emitted at this frame; -1 for none
    durations: Array  # [B, N, F] int32: the frames that they took
    confidence: Confidence | None  # [B, N, F] each


def with_history(state: DecoderState, steps: Emitted) -> DecoderState:
    """``state`` with the labels of a piece, from the ``steps [C, ...]`` of its frames."""
    batch, n, room = state.labels.shape

    def back(slot: Array, step: Emitted) -> tuple[Array, tuple[Any, ...]]:
        return take(step.origin, slot), take(tuple(step[1:]), slot)

    last = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], (batch, n))
    slot, (labels, durations, confidence) = lax.scan(back, vary_alike(last, steps), steps, reverse=True)

    def by_hypothesis(x: Array) -> Array:  # [C, B, N, F] to [B, N, C * F]
        return jnp.moveaxis(x, 0, 2).reshape(batch, n, x.shape[0] * x.shape[3])

    frame = state.frames[None, :, None, None] + jnp.arange(labels.shape[0], dtype=jnp.int32)[:, None, None, None]
    times = by_hypothesis(jnp.broadcast_to(frame, labels.shape))
    labels, durations, confidence = jax.tree.map(by_hypothesis, (labels, durations, confidence))
    emits = labels >= 0
    length = take(state.frontier.length, slot)
    place = length[..., None] + jnp.cumsum(emits, axis=-1, dtype=jnp.int32) - 1
    place = jnp.where(emits, place, room)
    b, m = (lax.broadcasted_iota(jnp.int32, place.shape, axis) for axis in (0, 1))

    def written(history: Array, value: Array) -> Array:
        return without_bin(with_bin(take(history, slot)).at[b, m, place].set(value))

    return with_histories(state, written, (labels, times, None if state.durations is None else durations, confidence))


def ranked(state: DecoderState, length_normalization: float, final: Array | None) -> Hypotheses:
    """``[B, N]`` hypotheses, the best first; those with equal labels count as one, even at different frames.

    ``final [B, N]`` is added to the scores.
    """
    at = state.frontier
    spoilt = jnp.isnan(at.score)
    score = merged(jnp.where(spoilt, -jnp.inf, at.score), at.prefix, jnp.zeros_like(at.time))
    model = None if at.added is None else score - jnp.where(score == -jnp.inf, 0, at.added)
    if final is not None:
        score = jnp.where(score == -jnp.inf, -jnp.inf, score + final)
        model = None if model is None else jnp.where(score == -jnp.inf, -jnp.inf, model)
    normalised = score / (at.length + 1).astype(score.dtype) ** length_normalization
    order = jnp.argsort(-normalised, axis=-1, stable=True)
    score, (length, truncated, model, found) = take((score, (at.length, at.truncated, model, histories(state))), order)
    exists = score > -jnp.inf
    length = jnp.where(exists, length, 0)
    used = lax.broadcasted_iota(jnp.int32, state.labels.shape, 2) < length[..., None]
    labels, times, durations, confidence = jax.tree.map(lambda x: cleared(x, used), found)
    score, model = jax.tree.map(lambda x: jnp.where(spoilt, jnp.nan, x), (score, model))
    return Hypotheses(labels, length, score, times, durations, truncated & exists, model, *(confidence or ()))
