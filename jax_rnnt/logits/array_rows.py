"""The rows of logits that lie in an array, for some nodes at a time."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jax_rnnt.logits.source import Add, Rows, Source


class ArrayRows(Rows):
    """Rows of an array ``[M, W]``. ``row [B T (U+1)]`` says which one belongs to each node; M: there is none.

    Without ``row`` the nodes have the order of the rows. A node without a row reads NaN.
    """

    def __init__(self, array: Array, of_gradient: Callable[[Array], Source], row: Array | None = None):
        self._array, self._of_gradient, self._row = array, of_gradient, row
        self.widest = array.shape[1]

    def read(self, place: Array) -> Array:
        if self._row is None:
            return self._array.at[place].get(mode="promise_in_bounds")
        if self._array.shape[0] == 0:  # gathers refuse it
            return jnp.full((*place.shape, self.widest), jnp.nan, self._array.dtype)
        return self._array.at[self._row[place]].get(mode="fill", fill_value=jnp.nan)

    def vjp(self, place: Array, real: Array) -> tuple[Array, Add]:
        at = jnp.where(real, place if self._row is None else self._row[place], self._array.shape[0])

        def add(total: Array, of_rows: Array) -> Array:  # each row belongs to one node, so it is set once
            return total.at[at].set(of_rows.astype(total.dtype), mode="drop", unique_indices=True)

        return self.read(place), add

    def zeros(self) -> Array:
        return jnp.zeros_like(self._array)

    def gradient(self, total: Array) -> Source:
        return self._of_gradient(total)
