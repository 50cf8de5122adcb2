"""A loop over some of the nodes of a batch, one tile after another. The number of turns depends on values."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.logits.source import Rows
from jax_rnnt.xla import native
from jax_rnnt.xla.element_wise import one_element_after_another
from jax_rnnt.xla.known_loops import turns_by_digits
from jax_rnnt.xla.sharding import match_manual_axes

_BYTES_ON_CPU = 4 << 20  # the size of one array of a tile: two of them stay in the caches
_BYTES_ELSEWHERE = 256 << 20
_FEWEST, _MULTIPLE = 256, 128  # with fewer rows the loop reads the joint's parameters too often
_MOST_ON_CPU = 2048  # more rows are not faster
# Some kernels of a turn take as long for few rows as for many, so turns must be long. But with more rows, a trained
# model, which needs the gradient of few nodes, makes up a whole tile for them, and the tile's arrays are far larger
# than the L2 cache of a GPU.
_MOST_ELSEWHERE = 32768


def rows_of_tile(width: int, itemsize: int, platform: str) -> int:
    """How many rows of ``width`` entries a tile has."""
    size = _BYTES_ON_CPU if platform == "cpu" else _BYTES_ELSEWHERE
    rows = max(_FEWEST, size // (width * itemsize) // _MULTIPLE * _MULTIPLE)
    return min(rows, _MOST_ON_CPU if platform == "cpu" else _MOST_ELSEWHERE)


Tree = TypeVar("Tree")
Carry = TypeVar("Carry")


def matched(tree: Tree) -> Tree:
    """The same arrays, all of them varying over the same mesh axes of a ``shard_map``."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, match_manual_axes(leaves))


def rows_of_places(mask: Array) -> Array:
    """The row ``[N]`` of each place in the tiles of :func:`over_tiles`, counted from the first tile on, or -1."""
    return jnp.where(mask, jnp.cumsum(mask, dtype=jnp.int32) - 1, -1)


def over_tiles(
    mask: Array, rows: int, tile: Callable[[Carry, Array, Array], Carry], carry: Carry, *, by_digits: bool = False
) -> Carry:
    """Calls ``carry = tile(carry, place [rows], real [rows])`` for all places where ``mask [N]`` is true.

    Places ascend. The last tile is filled up with copies of its last place; ``real`` is False for them. The loop is
    that of :func:`turns_by_digits`, which needs N, if it is asked for.
    """
    n = mask.size
    if n == 0:
        return carry
    if isinstance(n, int):  # else it is a symbol, in a program for any number of nodes
        rows = min(rows, n)
    rank = jnp.cumsum(mask, dtype=jnp.int32)
    count = rank[-1]
    at = jnp.where(mask, rank - 1, n)
    places = jnp.zeros_like(rank).at[at].set(jnp.arange(n, dtype=jnp.int32), mode="drop", unique_indices=True)
    last = places[lax.max(count - 1, jnp.int32(0))]
    places = jnp.concatenate([places, jnp.zeros(rows - 1, jnp.int32)])  # so that every tile is whole
    carry, places, count, last = matched((carry, places, count, last))

    def turn(i: Array, carry: Carry) -> Carry:
        start = i * jnp.int32(rows)
        place = lax.dynamic_slice(places, (start,), (rows,))
        real = start + jnp.arange(rows, dtype=jnp.int32) < count
        return tile(carry, jnp.where(real, place, last), real)

    tiles = (count + (rows - 1)) // rows
    if by_digits and isinstance(n, int):
        return turns_by_digits(tiles, -(-n // rows), turn, carry)
    return lax.fori_loop(jnp.int32(0), tiles, turn, carry)


def over_tiles_of(
    sources: Sequence[Rows], dtype: np.dtype, mask: Array, tile: Callable[[Carry, Array, Array], Carry], carry: Carry
) -> Carry:
    """:func:`over_tiles`, in tiles of the size that the rows of the sources ask for, or else the platform.

    ``dtype`` is that of the largest array of a tile.
    """
    asked = [rows.tile_rows for rows in sources if rows.tile_rows is not None]
    widest = max(rows.widest for rows in sources)

    def on(platform: str) -> Callable[[Array, Carry], Carry]:
        rows = min(asked) if asked else rows_of_tile(widest, dtype.itemsize, platform)
        return lambda mask, carry: over_tiles(mask, rows, tile, carry, by_digits=platform == "cuda")

    special = ([] if asked else ["cpu"]) + (["cuda"] if native.native_available("cuda") else [])
    return lax.platform_dependent(mask, carry, **{platform: on(platform) for platform in special}, default=on("other"))


def compiled_once(function: Callable) -> Callable:
    """``function(static, *pytrees)``, with one program for all calls outside of ``jit`` that have the same shapes.

    Its loops are made of new functions in every call, so JAX would compile each of them in every call. Its ``vmap``
    runs the elements one after another.
    """

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def call(static: Hashable, *args: Any) -> Any:
        return one_element_after_another(functools.partial(function, static))(*args)

    return call
