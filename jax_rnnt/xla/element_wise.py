"""``vmap`` as a loop, for functions that have loops whose number of turns depends on values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap


def one_element_after_another(function: Callable) -> Callable:
    """``function`` of pytrees, but its ``vmap`` runs the elements of the mapped axis one after another.

    With JAX's own rule for loops every element takes as many turns as the longest one.
    """

    @custom_vmap
    def call(args: tuple) -> Any:
        return function(*args)

    @call.def_vmap
    def in_turn(axis_size: int, batched: Any, args: tuple) -> tuple[Any, Any]:
        (is_batched,) = batched

        def element(i):
            def pick(x, mapped: bool):
                return lax.dynamic_index_in_dim(x, i, keepdims=False) if mapped else x

            return call(jax.tree.map(pick, args, is_batched))

        results = lax.map(element, jnp.arange(axis_size, dtype=jnp.int32))
        return results, jax.tree.map(lambda _: True, results)

    return lambda *args: call(args)
