"""The rows of logits that are sums of an encoder's part and a predictor's part, for some nodes at a time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jax import Array

from jax_rnnt.logits.node_inputs import NodeInputs
from jax_rnnt.logits.source import Add, Rows
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.masking import finite_sum

if TYPE_CHECKING:
    from jax_rnnt.logits.additive import AdditiveLogits


class AdditiveRows(Rows):
    """``am[b, t] + lm[b, u]`` of the nodes of an :class:`AdditiveLogits` without scales."""

    def __init__(self, logits: AdditiveLogits):
        self._logits, self._inputs = logits, NodeInputs(logits.am, logits.lm)
        self.widest = logits.shape[-1]

    def read(self, place: Array) -> Array:
        wide = compute_dtype(self._logits.dtype)
        return finite_sum(*(x.astype(wide) for x in self._inputs.taken(place)))

    def vjp(self, place: Array, real: Array) -> tuple[Array, Add]:
        def add(total: tuple[Array, Array], of_rows: Array) -> tuple[Array, Array]:
            return self._inputs.added(total, place, of_rows, of_rows)

        return self.read(place), add

    def zeros(self) -> tuple[Array, Array]:
        return self._inputs.zeros()

    def gradient(self, total: tuple[Array, Array]) -> AdditiveLogits:
        am, lm = total
        logits = self._logits
        return dataclasses.replace(
            logits,
            am=am.astype(logits.dtype).reshape(logits.am.shape),
            lm=lm.astype(logits.dtype).reshape(logits.lm.shape),
        )
