"""How far the rows of two sources are apart, node by node: both rows are made a tile at a time, forward and backward.

The sources may be of two kinds. Nodes that are not asked for are not read.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.core.comparison import Comparison, Kept
from jax_rnnt.logits.node_results import results_of_nodes
from jax_rnnt.logits.row_norms import left_out
from jax_rnnt.logits.source import Rows, Source
from jax_rnnt.logits.tiles import compiled_once, over_tiles_of
from jax_rnnt.ops.labels import PADDING
from jax_rnnt.xla.refusals import in_floats, no_forward_mode, no_second_order


@dataclasses.dataclass(frozen=True)
class Named:
    """A comparison, and the function that the user called."""

    comparison: Comparison
    name: str


def divergences(static: Named, first: Source, second: Source, labels: Array) -> Array:
    """The divergences ``[B, T, U+1]`` of the rows of two sources; 0 at nodes whose label is padding.

    Without ``symmetric``, no gradient reaches the second source.
    """
    first = in_floats(no_forward_mode, first, static.name)
    if static.comparison.symmetric:
        second = in_floats(no_forward_mode, second, static.name)
    else:
        second = jax.tree.map(lax.stop_gradient, second)
    return _divergences(static, first, second, labels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divergences(static: Named, first: Source, second: Source, labels: Array) -> Array:
    return _forward(static.comparison, first, second, labels)[0]


def _with_kept(static: Named, first: Source, second: Source, labels: Array):
    first, second = (in_floats(no_second_order, source, static.name) for source in (first, second))
    values, kept = _forward(static.comparison, first, second, labels)
    return values, (first, second, labels, kept)


def _gradients(static: Named, residuals, cotangent: Array):
    return *_backward(static.comparison, *residuals, no_second_order(cotangent, static.name)), None


_divergences.defvjp(_with_kept, _gradients)


@compiled_once
def _forward(comparison: Comparison, first: Source, second: Source, labels: Array) -> tuple[Array, Kept]:
    sides, flat = (first._rows(), second._rows()), labels.reshape(-1)
    measures = all(side.budget > 0 for side in _learning(comparison, sides))

    def tile(place: Array, real: Array) -> tuple[Array, Kept]:
        rows = sides[0].read(place), sides[1].read(place)
        return comparison.forward(rows, flat[place], measures=measures)

    empty = comparison.of_no_node(flat.size, measures=measures)
    values, kept = results_of_nodes(sides, comparison.dtype, flat != PADDING, tile, empty)
    return values.reshape(labels.shape), kept


@compiled_once
def _backward(
    comparison: Comparison, first: Source, second: Source, labels: Array, kept: Kept, cotangent: Array
) -> tuple[Source, Source | None]:
    sides, flat, ct = (first._rows(), second._rows()), labels.reshape(-1), cotangent.reshape(-1)
    learning = _learning(comparison, sides)
    wanted = (flat != PADDING) & (ct != 0)
    if kept.distances is not None:
        # A node is left out if each side that learns can do without its gradient.
        spared = wanted
        for side, distance in zip(learning, kept.distances[: len(learning)], strict=True):
            norm = jnp.abs(ct) * distance
            spared &= left_out(side.budget, norm, norm, wanted, labels.shape)
        wanted &= ~spared
    sides = sides[0].over(wanted), sides[1].over(wanted)

    def tile(totals: list, place: Array, real: Array) -> list:
        (x, add_to_first), (y, add_to_second) = (side.vjp(place, real) for side in sides)
        adds = (add_to_first, add_to_second)[: len(totals)]
        kept_of_tile = jax.tree.map(lambda x: x[place], kept)
        gradients = comparison.backward((x, y), flat[place], kept_of_tile, jnp.where(real, ct[place], 0))
        return [add(total, of_rows) for add, total, of_rows in zip(adds, totals, gradients, strict=True)]

    totals = over_tiles_of(sides, comparison.dtype, wanted, tile, [side.zeros() for side in learning])
    gradients = [side.gradient(total) for side, total in zip(learning, totals, strict=True)]
    return gradients[0], gradients[1] if comparison.symmetric else None


def _learning(comparison: Comparison, sides: tuple[Rows, Rows]) -> tuple[Rows, ...]:
    return sides if comparison.symmetric else sides[:1]
