"""The rows of logits of a joint network that the library knows. Beside its products they take two operations."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.logits.additive_joint import AdditiveJoint
from jax_rnnt.logits.node_inputs import wide_zeros
from jax_rnnt.logits.source import Add, Rows
from jax_rnnt.logits.tiles import rows_of_places
from jax_rnnt.ops.hidden_rows import columns_of, hidden_rows, hidden_rows_backward

if TYPE_CHECKING:
    from jax_rnnt.logits.joint import JointLogits


class _Total(NamedTuple):
    """The gradients of the parameters, and those of the frames' and the positions' rows."""

    kernel: Array
    bias: Array | None
    encoded: Array
    predicted: Array


class AdditiveJointRows(Rows):
    """The rows of a :class:`JointLogits` whose ``joint`` is an :class:`AdditiveJoint`."""

    _row: Array  # [B, T, U+1], the row of each node in the tiles of the loop, which `over` knows

    def __init__(self, logits: JointLogits, joint: AdditiveJoint):
        self._logits = logits
        width, dtype = logits.encoded.shape[-1], logits.encoded.dtype
        kernel, self._bias = joint.weights(logits.params, dtype)
        # Columns of zeros, whose rows of the kernel are zeros, change no logit.
        more = columns_of(width, dtype) - width
        self._encoded, self._predicted = (
            jnp.pad(x, ((0, 0), (0, 0), (0, more))) if more else x for x in (logits.encoded, logits.predicted)
        )
        self._kernel = jnp.pad(kernel, ((0, more), (0, 0))) if more else kernel
        key = logits.dropout_key if joint.dropped > 0 else None
        seed = jnp.zeros(2, jnp.uint32) if key is None else jax.random.bits(key, (2,), jnp.uint32)
        self._seed = lax.optimization_barrier(seed)  # else XLA would make constants again in each turn of a loop
        self._options: dict[str, Any] = {"activation": joint.activation, "dropped": 0 if key is None else joint.dropped}
        self.tile_rows, self.budget = logits.tile_rows, logits.gradient_budget
        self.widest = max(logits.shape[-1], width)

    def over(self, mask: Array) -> Self:
        rows = copy.copy(self)
        rows._row = rows_of_places(mask).reshape(*self._encoded.shape[:2], self._predicted.shape[1])
        return rows

    def read(self, place: Array) -> Array:
        return self._product(self._hidden(place))

    def vjp(self, place: Array, real: Array) -> tuple[Array, Add]:
        hidden = self._hidden(place)

        def add(total: _Total, of_rows: Array) -> _Total:
            of_rows = of_rows.astype(hidden.dtype)
            of_hidden = lax.dot_general(of_rows, self._kernel, (((1,), (1,)), ((), ())))
            operands = of_hidden, self._encoded, self._predicted, place, self._row, self._seed
            encoded, predicted = hidden_rows_backward(*total[2:], *operands, **self._options)
            return _Total(
                total.kernel + _sum_over_rows(hidden, of_rows, total.kernel.dtype),
                None if total.bias is None else total.bias + _column_sums(of_rows, total.bias.dtype),
                encoded,
                predicted,
            )

        return self._product(hidden), add

    def zeros(self) -> _Total:
        bias = None if self._bias is None else wide_zeros(self._bias)
        return _Total(wide_zeros(self._kernel), bias, wide_zeros(self._encoded), wide_zeros(self._predicted))

    def gradient(self, total: _Total) -> JointLogits:
        logits = self._logits
        width = logits.encoded.shape[-1]
        of_params: dict[str, Any] = {"kernel": total.kernel[:width], "bias": total.bias}
        return dataclasses.replace(
            logits,
            params=jax.tree.map_with_path(lambda path, x: of_params[path[-1].key].astype(x.dtype), logits.params),
            encoded=total.encoded[..., :width].astype(logits.encoded.dtype),
            predicted=total.predicted[..., :width].astype(logits.predicted.dtype),
            dropout_key=None,
        )

    def _hidden(self, place: Array) -> Array:
        return hidden_rows(self._encoded, self._predicted, place, self._seed, **self._options)

    def _product(self, hidden: Array) -> Array:
        rows = hidden @ self._kernel
        return rows if self._bias is None else rows + self._bias[None]


def _sum_over_rows(x: Array, y: Array, dtype: Any) -> Array:
    """``x^T y``, the sum over rows of x [N, D] and y [N, W], in ``dtype``."""
    return lax.dot_general(x, y, (((0,), (0,)), ((), ())), preferred_element_type=dtype)


def _column_sums(x: Array, dtype: Any) -> Array:
    """The sums ``[W]`` over rows, as a product: on a GPU, XLA's reductions over rows take longer.

    XLA would turn a product with a single row of ones into such a reduction.
    """
    ones = jnp.ones((8, x.shape[0]), x.dtype)
    product = lax.dot_general(
        ones, x, (((1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST, preferred_element_type=dtype
    )
    return product[0]
