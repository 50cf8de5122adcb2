"""Logits in one dense array: the output of a joint network."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np
from jax import Array

from jax_rnnt.logits.divided import DividedLogits
from jax_rnnt.logits.source import Source
from jax_rnnt.ops import arcs
from jax_rnnt.ops.arcs import ArcParameters


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DenseLogits(Source):
    """``logits [B, T, U+1, W]``."""

    logits: Array

    composes: ClassVar[bool] = True
    refused_as: ClassVar[str] = "clamp"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logits.shape

    @property
    def dtype(self) -> np.dtype:
        return self.logits.dtype

    def batched(self) -> Array:
        return self.logits

    def divided(self, axis_name: str) -> DividedLogits:
        return DividedLogits(self.logits, axis_name)

    def forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        entries, norm = arcs.forward(self.logits, labels, **parameters.asdict())
        return entries, norm

    def backward(
        self, labels: Array, kept: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> "DenseLogits":
        optional = () if bound is None else (bound,)
        (grad,) = arcs.backward(
            self.logits, labels, kept, cotangent, *optional, clipped=bound is not None, **parameters.asdict()
        )
        return DenseLogits(grad)
