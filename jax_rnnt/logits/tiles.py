"""A loop over some of the nodes of a batch, a tile at a time: values decide how many turns it takes."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.xla.sharding import match_manual_axes

_BYTES_ON_CPU = 4 << 20  # of one array of a tile: two of them stay in the caches
_BYTES_ELSEWHERE = 256 << 20  # a GPU's host waits once a turn, so its turns are long
_FEWEST, _MULTIPLE = 256, 128  # below 256 rows the joint's parameters are read too often
_MOST_ON_CPU = 2048  # more are no faster


def rows_of_tile(width: int, itemsize: int, platform: str) -> int:
    """How many rows of ``width`` entries a tile has."""
    size = _BYTES_ON_CPU if platform == "cpu" else _BYTES_ELSEWHERE
    rows = max(_FEWEST, size // (width * itemsize) // _MULTIPLE * _MULTIPLE)
    return min(rows, _MOST_ON_CPU) if platform == "cpu" else rows


Tree = TypeVar("Tree")
Carry = TypeVar("Carry")


def matched(tree: Tree) -> Tree:
    """The same arrays, varying alike over the mesh axes of a ``shard_map``."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, match_manual_axes(leaves))


def over_tiles(mask: Array, rows: int, tile: Callable[[Carry, Array, Array], Carry], carry: Carry) -> Carry:
    """``carry = tile(carry, place [rows], real [rows])`` until all places where ``mask [N]`` is true had their turn.

    The last tile is filled with places that are not real: they repeat one that is.
    """
    n = mask.size
    if n == 0:
        return carry
    rows = min(rows, n)
    rank = jnp.cumsum(mask, dtype=jnp.int32)
    count = rank[-1]
    at = jnp.where(mask, rank - 1, n)
    places = jnp.zeros_like(rank).at[at].set(jnp.arange(n, dtype=jnp.int32), mode="drop", unique_indices=True)
    places = jnp.pad(places, (0, -n % rows))
    carry, places, count = matched((carry, places, count))

    def turn(i: Array, carry: Carry) -> Carry:
        start = i * jnp.int32(rows)
        place = lax.dynamic_slice(places, (start,), (rows,))
        real = start + jnp.arange(rows, dtype=jnp.int32) < count
        return tile(carry, jnp.where(real, place, place[0]), real)

    return lax.fori_loop(jnp.int32(0), (count + (rows - 1)) // rows, turn, carry)
