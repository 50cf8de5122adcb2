"""The state of a decoder's hypotheses, and the result that decoders return."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.decoding.hypothesis_rows import take
from jax_rnnt.decoding.prefixes import merged


class Hypotheses(NamedTuple):
    """The result of a decoder. The arrays of a beam have a dimension N for its hypotheses, the best first."""

    labels: Array  #: ``[B, L]`` or ``[B, N, L]`` int32; -1 behind the last label
    lengths: Array  #: ``[B]`` or ``[B, N]`` int32, how many labels there are
    scores: Array  #: ``[B]`` or ``[B, N]``, log-probabilities; -inf where a beam has fewer than N hypotheses
    times: Array  #: ``[B, L]`` or ``[B, N, L]`` int32, the frame of each label; -1 behind the last
    durations: Array | None  #: for TDT, ``[B, L]`` or ``[B, N, L]`` int32, the frames of each label


class Frontier(NamedTuple):
    """The place of each hypothesis ``[B, N]``, and all that its next label depends on."""

    score: Array  # [B, N]
    time: Array  # [B, N] int32: its frame, counted from the beginning of the utterance
    length: Array  # [B, N] int32
    label: Array  # [B, N] int32: the last one; the start symbol where there is none yet
    waits: Array  # [B, N] bool: whether the predictor has yet to see that label
    prefix: Array  # [B, N, 2] uint32: equal for hypotheses with equal labels
    memory: Any  # the predictor's state, [B, N, ...]
    predicted: Any  # the predictor's output, [B, N, ...]
    penalty: Array | None  # [B, N, V]: the internal language model's part of the scores of labels


class DecoderState(NamedTuple):
    """A decoder between two pieces of audio: a pytree of arrays."""

    frames: Array  #: ``[B]`` int32, how many have been decoded
    frontier: Frontier
    labels: Array  #: ``[B, N, L]`` int32
    times: Array  #: ``[B, N, L]`` int32
    durations: Array | None  #: ``[B, N, L]`` int32


def with_history(state: DecoderState, steps: tuple[Array, Array, Array]) -> DecoderState:
    """``state`` with the labels of a piece, from the ``steps`` of its frames: where each hypothesis came from, ``[C, B,
    N]``, and its labels and durations there, ``[C, B, N, F]``."""
    batch, n, room = state.labels.shape

    def back(slot: Array, step: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        origin, labels, durations = step
        return take(origin, slot), take((labels, durations), slot)

    last = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], (batch, n))
    slot, (labels, durations) = lax.scan(back, last, steps, reverse=True)

    def by_hypothesis(x: Array) -> Array:  # [C, B, N, F] to [B, N, C * F]
        return jnp.moveaxis(x, 0, 2).reshape(batch, n, -1)

    frame = state.frames[None, :, None, None] + jnp.arange(labels.shape[0], dtype=jnp.int32)[:, None, None, None]
    times = by_hypothesis(jnp.broadcast_to(frame, labels.shape))
    labels, durations = by_hypothesis(labels), by_hypothesis(durations)
    emits = labels >= 0
    length = take(state.frontier.length, slot)
    place = length[..., None] + jnp.cumsum(emits, axis=-1, dtype=jnp.int32) - 1
    place = jnp.where(emits, place, room)  # the last one is dropped
    b, m = jnp.ogrid[:batch, :n]

    def written(history: Array, value: Array) -> Array:
        return take(history, slot).at[b[..., None], m[..., None], place].set(value, mode="drop")

    return state._replace(
        labels=written(state.labels, labels),
        times=written(state.times, times),
        durations=None if state.durations is None else written(state.durations, durations),
    )


def ranked(state: DecoderState, length_normalization: float) -> Hypotheses:
    """``[B, N]`` hypotheses, the best first; those of equal labels count as one, at whatever frame they are."""
    at = state.frontier
    score = merged(at.score, at.prefix, jnp.zeros_like(at.time))
    normalised = score / (at.length + 1).astype(score.dtype) ** length_normalization
    order = jnp.argsort(-normalised, axis=-1, stable=True)
    score, length, *found = take((score, at.length, state.labels, state.times, state.durations), order)
    length = jnp.where(score == -jnp.inf, 0, length)
    used = lax.broadcasted_iota(jnp.int32, state.labels.shape, 2) < length[..., None]
    labels, times, durations = jax.tree.map(lambda x: jnp.where(used, x, -1), tuple(found))
    return Hypotheses(labels, length, score, times, durations)
