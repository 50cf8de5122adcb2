"""Results of nodes that a loop over tiles makes, in arrays over all nodes."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_rnnt.logits.source import Rows
from jax_rnnt.logits.tiles import over_tiles_of

Results = TypeVar("Results")


def results_of_nodes(
    sources: Sequence[Rows],
    dtype: np.dtype,
    mask: Array,
    tile: Callable[[Array, Array], Results],
    of_no_node: Results,
) -> Results:
    """``tile(place [R], real [R])`` for the places where ``mask [N]`` is true, and ``of_no_node`` for the others.

    ``of_no_node`` is a tree of arrays ``[N]`` and ``[N, C]`` of one dtype; ``tile`` gives such a tree with R in place
    of N. The other arguments are those of :func:`over_tiles_of`.
    """
    leaves, structure = jax.tree.flatten(of_no_node)

    # Columns of one array: on a GPU each tile then has one scatter, and the loop carries one array.
    def side_by_side(results: Results) -> Array:
        return jnp.concatenate([x[:, None] if x.ndim == 1 else x for x in jax.tree.leaves(results)], axis=-1)

    def turn(carry: Array, place: Array, real: Array) -> Array:
        at = jnp.where(real, place, mask.size)
        of_tile = side_by_side(tile(place, real))
        return carry.at[at].set(of_tile, mode="drop", unique_indices=True, indices_are_sorted=True)

    columns = over_tiles_of(sources, dtype, mask, turn, side_by_side(of_no_node))
    ends = list(accumulate(1 if x.ndim == 1 else x.shape[1] for x in leaves))
    parts = jnp.split(columns, ends[:-1], axis=-1)
    return jax.tree.unflatten(structure, [part.reshape(x.shape) for part, x in zip(parts, leaves, strict=True)])
