"""What loops carry, as few arrays: on a GPU a loop copies each array that it carries, by a kernel of its own."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_SMALL = 16
"""Up to so many entries per hypothesis an array is packed. To pack larger ones would take longer than to copy them."""


class Packed(NamedTuple):
    """A tree of arrays ``[B, N, ...]``: its small ones as one array ``[B, N, n]`` per dtype, and the others."""

    small: tuple[Array, ...]
    large: tuple[Array, ...]


def packed(tree: Any) -> tuple[Packed, Callable[[Packed], Any]]:
    """``tree`` packed, and the function that undoes it."""
    leaves, structure = jax.tree.flatten(tree)
    shapes = [leaf.shape for leaf in leaves]
    sizes = [math.prod(shape[2:]) for shape in shapes]
    is_small = [isinstance(size, int) and size <= _SMALL for size in sizes]
    dtypes = sorted({leaf.dtype for leaf, small in zip(leaves, is_small, strict=True) if small}, key=str)
    groups = [[i for i, leaf in enumerate(leaves) if is_small[i] and leaf.dtype == dtype] for dtype in dtypes]

    def undone(of: Packed) -> Any:
        large = iter(of.large)
        found = [None if small else next(large) for small in is_small]
        for array, group in zip(of.small, groups, strict=True):
            stop = 0
            for i in group:
                begin, stop = stop, stop + sizes[i]
                found[i] = array[..., begin:stop].reshape(shapes[i])
        return jax.tree.unflatten(structure, found)

    def joined(group: list[int]) -> Array:
        return jnp.concatenate([leaves[i].reshape(*shapes[i][:2], sizes[i]) for i in group], axis=-1)

    large = tuple(leaf for leaf, small in zip(leaves, is_small, strict=True) if not small)
    return Packed(tuple(map(joined, groups)), large), undone
