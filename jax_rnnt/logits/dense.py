"""Logits in one dense array: the output of a joint network."""

import dataclasses

import jax
from jax import Array

from jax_rnnt.ops import arcs
from jax_rnnt.ops.arcs import ArcParameters


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseLogits:
    """``logits [B, T, U+1, W]``."""

    logits: Array

    composes = True

    def forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        entries, log_norm = arcs.forward(self.logits, labels, **parameters.asdict())
        return entries, log_norm

    def cotangent_of_costs(self, cotangent: Array) -> Array:
        return cotangent

    def backward(
        self, labels: Array, log_norm: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> "DenseLogits":
        optional = () if bound is None else (bound,)
        (grad,) = arcs.backward(
            self.logits, labels, log_norm, cotangent, *optional, clipped=bound is not None, **parameters.asdict()
        )
        return DenseLogits(grad)
