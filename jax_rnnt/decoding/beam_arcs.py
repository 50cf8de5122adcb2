"""The arcs that a beam search chooses from at a frame, and the choice."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.decoding import prefixes
from jax_rnnt.decoding.hypotheses import Confidence, Frontier
from jax_rnnt.decoding.hypothesis_rows import select, take
from jax_rnnt.decoding.row_arcs import Choices


class Arcs(NamedTuple):
    """Arcs [B, M] out of hypotheses: where they begin, and where they lead."""

    score: Array  # of the path that ends with this arc
    source: Array  # int32: the hypothesis that it leaves
    label: Array  # int32: -1 for none
    frames: Array  # int32
    confidence: Confidence | None  # of the arc itself; 0 for arcs without a label


def resting(at: Frontier, sure: bool) -> Arcs:
    batch, n = at.score.shape
    source = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], (batch, n))
    nothing = jnp.zeros((batch, n), jnp.int32)
    return Arcs(at.score, source, nothing - 1, nothing, _no_confidence(at.score) if sure else None)


def _no_confidence(scores: Array) -> Confidence:
    return Confidence(jnp.zeros_like(scores), jnp.zeros_like(scores))


def silent_arcs(scores: Array, frames: tuple[int, ...], first: int, sure: bool) -> Arcs:
    """The arcs without a label of ``scores [B, N, K]``, out of the hypotheses from number ``first`` on."""
    shape = scores.shape
    size = shape[1] * shape[2]
    source = lax.broadcasted_iota(jnp.int32, shape, 1) + first
    taken = jnp.broadcast_to(jnp.array(frames, jnp.int32), shape)
    arcs = Arcs(scores, source, jnp.full(shape, -1, jnp.int32), taken, _no_confidence(scores) if sure else None)
    return jax.tree.map(lambda x: x.reshape(shape[0], size), arcs)


def emitting_arcs(choices: Choices, frames: tuple[int, ...], moves: list[int], first: int) -> Arcs:
    """The arcs with a label of ``choices`` ``[B, N, ...]`` that are ``moves``; ``first`` as in :func:`silent_arcs`."""

    def of_moves(x: Array) -> Array:
        return jnp.stack([x[..., k] for k in moves], axis=-1)

    scores, confidence = of_moves(choices.emitting), choices.confidence
    frames = tuple(frames[k] for k in moves)
    shape = scores.shape
    size = shape[1] * shape[2] * shape[3]
    source = lax.broadcasted_iota(jnp.int32, shape, 1) + first
    taken = jnp.broadcast_to(jnp.array(frames, jnp.int32), shape)
    if confidence is not None:
        entropy = jnp.broadcast_to(confidence.entropy[..., None, None], shape)
        confidence = Confidence(of_moves(confidence.log_probs), entropy)
    arcs = Arcs(scores, source, jnp.broadcast_to(choices.labels[..., None], shape), taken, confidence)
    return jax.tree.map(lambda x: x.reshape(shape[0], size), arcs)


def joined(groups: list[Arcs]) -> Arcs:
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *groups)


def leads_to(at: Frontier, arcs: Arcs) -> tuple[Array, Array]:
    """The prefix and the time that each arc leads to."""
    prefix, time = take((at.prefix, at.time), arcs.source)
    return select(arcs.label >= 0, prefixes.extended(prefix, arcs.label), prefix), time + arcs.frames


def best_equal(score: Array, same: Array) -> Array:
    """The largest of ``score [B, P]`` among the ``same [B, M, P]``; -inf if there are none."""
    return jnp.max(jnp.where(same, score[:, None], -jnp.inf), axis=-1)


def leaving(at: Frontier, arcs: Arcs, kept: Arcs, n: int) -> Arcs:
    """Of ``arcs`` that take frames, the n that lead to the best hypotheses, counting what the ``kept`` arcs add.

    So an arc to a hypothesis that is kept counts with it, and no better arc takes its place.
    """
    prefix, time = leads_to(at, kept)
    score = prefixes.merged(kept.score, prefix, time)
    to, when = leads_to(at, arcs)
    there = best_equal(score, prefixes.equal(to, prefix) & (when[:, :, None] == time[:, None]))
    total = jnp.where(arcs.score == -jnp.inf, -jnp.inf, prefixes.log_add(arcs.score, there))
    _, index = lax.top_k(total, n)
    return take(arcs, index)


def staying(at: Frontier, arcs: Arcs, done: Frontier, n: int) -> Arcs:
    """Of ``arcs`` that stay at the frame, up to n: those of the best hypotheses, counting what is ``done`` there.

    An arc has no use if it leads to a hypothesis that is worse than all of a full beam, because every arc lowers a
    score; or to one that is done already, with so little that the sum remains as it is.
    """
    to, _ = leads_to(at, arcs)
    there = best_equal(done.score, prefixes.equal(to, done.prefix))
    total = prefixes.log_add(arcs.score, there)
    useful = total > jnp.maximum(there, jnp.min(done.score, axis=1, keepdims=True))
    total, index = lax.top_k(jnp.where(useful, total, -jnp.inf), n)
    chosen = take(arcs, index)
    return chosen._replace(score=jnp.where(total == -jnp.inf, -jnp.inf, chosen.score))


def may_win(at: Frontier, best: Array, others: Frontier, kept: Arcs) -> Array:
    """Which hypotheses ``[B, N]`` have labels that matter, where the scores of their best paths are ``best``.

    A label matters if it leads to a better hypothesis than the worst of those ``kept``, or to one that is there already
    among the ``others``, whose probability it adds to.
    """
    to = prefixes.extended(at.prefix[:, :, None], others.label[:, None])
    there = jnp.any(jnp.all(to == others.prefix[:, None], axis=-1), axis=-1)
    return (best > jnp.min(kept.score, axis=1, keepdims=True)) | (there & (best > -jnp.inf))


def best_merged(at: Frontier, arcs: Arcs, n: int) -> Arcs:
    """The n best arcs, where those that lead to the same labels at the same frame are one."""
    score, index = lax.top_k(prefixes.merged(arcs.score, *leads_to(at, arcs)), n)
    return Arcs(score, *take(tuple(arcs[1:]), index))
