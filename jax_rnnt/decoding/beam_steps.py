"""The steps of a beam within a frame: the labels to compare, and the hypotheses that arcs lead to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jax_rnnt.decoding.beam_arcs import Arcs, leads_to
from jax_rnnt.decoding.hypotheses import Emitted, Frontier, with_extra
from jax_rnnt.decoding.hypothesis_rows import take, where_needed, zeros_of
from jax_rnnt.decoding.row_arcs import Choices, Row, RowArcs


class Beam(NamedTuple):
    """Hypotheses within a frame: where they are, and how they came there from the frame's first ones."""

    at: Frontier
    emitted: Emitted


def choices_that_may_win(arcs: RowArcs, rows: tuple[Row, Array | None], wins: Array, count: int) -> Choices:
    """The best labels of the rows ``[R]`` whose labels may win."""

    def choose(rows: tuple[Row, Array | None]) -> Choices:
        return arcs.choices(*rows, count)

    return where_needed(choose, wins, rows, zeros_of(choose, rows).closed())


def after_labels(beam: Beam, arcs: Arcs, v: Array) -> Beam:
    """As :func:`after`, for arcs with labels. What the predictor said before these labels is not needed again."""
    at = beam.at
    led = after(beam._replace(at=at._replace(predicted=None, extra=None, added=None)), arcs, v)
    added = with_extra(at, arcs.source, arcs.label)
    return led._replace(at=led.at._replace(predicted=at.predicted, extra=at.extra, added=added))


def after(beam: Beam, arcs: Arcs, v: Array) -> Beam:
    """The hypotheses behind ``arcs``; labels are the v-th of their frame."""
    prefix, time = leads_to(beam.at, arcs)
    came = take(beam, arcs.source)
    emits = arcs.label >= 0
    mine = emits[..., None] & (jnp.arange(came.emitted.labels.shape[-1], dtype=jnp.int32) == v)[None, None]
    new = arcs.label, arcs.frames, arcs.confidence
    at = came.at._replace(
        score=arcs.score,
        time=time,
        length=came.at.length + emits.astype(jnp.int32),
        label=jnp.where(emits, arcs.label, came.at.label),
        waits=came.at.waits | emits,
        prefix=prefix,
        added=with_extra(beam.at, arcs.source, arcs.label),
    )
    each = jax.tree.map(lambda x, before: jnp.where(mine, x[..., None], before), new, tuple(came.emitted[1:]))
    return Beam(at, Emitted(came.emitted.origin, *each))
