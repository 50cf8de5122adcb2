"""Rows of hypotheses: pytrees whose leaves begin with [B, N], or with [R] for R = B * N."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.xla.sharding import vary_alike

_SHARE = 4
_ENOUGH = 32


def flat(tree: Any) -> Any:
    """``[B, N, ...]`` to ``[R, ...]``."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree)


def unflat(tree: Any, shape: tuple[int, ...]) -> Any:
    """``[R, ...]`` to ``[B, N, ...]``, where ``shape`` is (B, N)."""
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)


def repeated(tree: Any, n: int) -> Any:
    """``[B, ...]`` to ``[B, N, ...]``, N times the same."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], n, *x.shape[1:])), tree)


def take(tree: Any, index: Array) -> Any:
    """``x[b, index[b, m]]`` for every leaf ``x [B, N, ...]`` and ``index [B, M]``."""

    def of_leaf(x: Array) -> Array:
        places = index.reshape(*index.shape, *[1] * (x.ndim - 2))
        return jnp.take_along_axis(x, places, axis=1, mode="clip")

    return jax.tree.map(of_leaf, tree)


def select(mask: Array, then: Any, otherwise: Any) -> Any:
    """``jnp.where`` over pytrees whose leaves begin with the dimensions of ``mask``."""

    def of_leaf(x: Array, y: Array) -> Array:
        return jnp.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, y)

    return jax.tree.map(of_leaf, then, otherwise)


def zeros_of(function: Callable[[Any], Any], rows: Any) -> Any:
    """Zeros in place of ``function(rows)``."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, rows))


def where_needed(function: Callable[[Any], Any], needed: Array, rows: Any, otherwise: Any) -> Any:
    """``function(rows)`` for the rows ``[R]`` that are ``needed``, and ``otherwise`` for the others.

    If no row is needed the function does not run. If there are many rows, and a quarter of them is enough, it runs on a
    quarter: most turns of a beam search are for the few hypotheses that emit one more label. On a GPU it runs on all
    rows: there it would take longer to wait for the decision.
    """
    count, total = jnp.sum(needed, dtype=jnp.int32), needed.shape[0]
    few = (total + _SHARE - 1) // _SHARE  # rounded up, so that it is at least 1 where the total is symbolic
    if isinstance(total, int) and total < _ENOUGH:  # of fewer rows the weights cost more than the rows
        few = 0

    def none() -> Any:
        return vary_alike(otherwise, needed, rows)

    def some() -> Any:
        # Rows that are not needed fill up the share. They get back what they had.
        index = jnp.argsort(~needed, stable=True)[:few]
        picked, before = jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), (rows, otherwise))
        found = select(jnp.take(needed, index, mode="clip"), function(picked), before)
        return vary_alike(jax.tree.map(lambda x, y: x.at[index].set(y), otherwise, found), needed, rows)

    def every() -> Any:
        return vary_alike(select(needed, function(rows), otherwise), needed, rows)

    def as_few_as_needed() -> Any:
        if isinstance(few, int) and few == 0:
            return lax.cond(count > 0, every, none)
        choice = jnp.where(count > jnp.asarray(few, jnp.int32), 2, jnp.minimum(count, 1))
        return lax.switch(choice, [none, some, every])

    return lax.platform_dependent(cuda=every, rocm=every, default=as_few_as_needed)
