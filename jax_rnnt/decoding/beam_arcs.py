"""The arcs that a beam search chooses from at a frame, and the choice."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.decoding import prefixes
from jax_rnnt.decoding.hypotheses import Frontier
from jax_rnnt.decoding.hypothesis_rows import select, take


class Arcs(NamedTuple):
    """Arcs [B, M] out of hypotheses: where they begin, and where they lead."""

    score: Array  # of the path that ends with this arc
    source: Array  # int32: the hypothesis that it leaves
    label: Array  # int32: -1 for none
    frames: Array  # int32


def resting(at: Frontier) -> Arcs:
    batch, n = at.score.shape
    source = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], (batch, n))
    return Arcs(at.score, source, jnp.full((batch, n), -1, jnp.int32), jnp.zeros((batch, n), jnp.int32))


def silent_arcs(scores: Array, frames: tuple[int, ...], first: int) -> Arcs:
    """The arcs without a label of ``scores [B, N, K]``, out of the hypotheses from number ``first`` on."""
    shape = scores.shape
    source = lax.broadcasted_iota(jnp.int32, shape, 1) + first
    taken = jnp.broadcast_to(jnp.array(frames, jnp.int32), shape)
    arcs = Arcs(scores, source, jnp.full(shape, -1, jnp.int32), taken)
    return jax.tree.map(lambda x: x.reshape(shape[0], -1), arcs)


def emitting_arcs(scores: Array, labels: Array, frames: tuple[int, ...], moves: list[int], n: int) -> Arcs:
    """The n best of the arcs with a label that are ``moves``, of ``scores [B, N, M, K]`` and ``labels [B, N, M]``."""
    some = jnp.stack([scores[..., k] for k in moves], axis=-1)
    taken = jnp.array([frames[k] for k in moves], jnp.int32)
    score, place = lax.top_k(some.reshape(some.shape[0], -1), n)
    place = place.astype(jnp.int32)
    label = jnp.take_along_axis(labels.reshape(labels.shape[0], -1), place // len(moves), axis=1)
    return Arcs(score, place // (some.shape[2] * len(moves)), label, taken[place % len(moves)])


def joined(groups: list[Arcs]) -> Arcs:
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *groups)


def leads_to(at: Frontier, arcs: Arcs) -> tuple[Array, Array]:
    """The prefix and the time that each arc leads to."""
    prefix, time = take((at.prefix, at.time), arcs.source)
    return select(arcs.label >= 0, prefixes.extended(prefix, arcs.label), prefix), time + arcs.frames


def best_merged(at: Frontier, arcs: Arcs, n: int) -> Arcs:
    """The n best arcs, where those that lead to the same labels at the same frame are one."""
    score, index = lax.top_k(prefixes.merged(arcs.score, *leads_to(at, arcs)), n)
    return Arcs(score, *take(tuple(arcs[1:]), index))
