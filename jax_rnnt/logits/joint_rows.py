"""The rows of logits that a joint network makes, for some nodes at a time, and the gradient of its inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_rnnt.logits.node_inputs import NodeInputs, wide_zeros
from jax_rnnt.logits.source import Add, Rows

if TYPE_CHECKING:
    from jax_rnnt.logits.joint import JointLogits

Total = tuple[list[Array], tuple[Array, Array]]
"""The gradients of the floating-point parameters, and those of the rows of ``encoded`` and ``predicted``."""


class JointRows(Rows):
    """``joint(params, encoded[b, t], predicted[b, u])`` of the nodes of a :class:`JointLogits`."""

    def __init__(self, logits: JointLogits):
        self._logits, self._inputs = logits, NodeInputs(logits.encoded, logits.predicted)
        self._leaves, self._structure = jax.tree.flatten(logits.params)
        self._is_float = [jnp.issubdtype(x.dtype, jnp.inexact) for x in self._leaves]
        self.tile_rows, self.budget = logits.tile_rows, logits.gradient_budget
        self.widest = max(logits.shape[-1], logits.encoded.shape[-1], logits.predicted.shape[-1])

    def read(self, place: Array) -> Array:
        return self._joint(place)(self._logits.params, *self._inputs.taken(place))

    def vjp(self, place: Array, real: Array) -> tuple[Array, Add]:
        rows, pull = jax.vjp(self._joint(place), self._logits.params, *self._inputs.taken(place))

        def add(total: Total, of_rows: Array) -> Total:
            of_params, of_inputs = total
            params, *inputs = pull(of_rows.astype(rows.dtype))
            grads = [g for g, wanted in zip(jax.tree.leaves(params), self._is_float, strict=True) if wanted]
            return (
                [x + g.astype(x.dtype) for x, g in zip(of_params, grads, strict=True)],
                self._inputs.added(of_inputs, place, *inputs),
            )

        return rows, add

    def zeros(self) -> Total:
        floats = [x for x, wanted in zip(self._leaves, self._is_float, strict=True) if wanted]
        return [wide_zeros(x) for x in floats], self._inputs.zeros()

    def gradient(self, total: Total) -> JointLogits:
        logits, (of_params, (encoded, predicted)) = self._logits, total
        each = iter(of_params)
        leaves = [
            next(each).astype(x.dtype) if wanted else None
            for x, wanted in zip(self._leaves, self._is_float, strict=True)
        ]
        return dataclasses.replace(
            logits,
            params=jax.tree.unflatten(self._structure, leaves),
            encoded=encoded.astype(logits.encoded.dtype).reshape(logits.encoded.shape),
            predicted=predicted.astype(logits.predicted.dtype).reshape(logits.predicted.shape),
            dropout_key=None,
        )

    def _joint(self, place: Array) -> Callable[[Any, Array, Array], Array]:
        key = self._logits.dropout_key
        if key is None:
            return self._logits.joint
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
        return lambda params, e, p: self._logits.joint(params, e, p, keys)
