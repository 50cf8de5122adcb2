"""Logits in one dense array, the output of a joint network; also where its vocabulary is divided over a mesh axis.

Then each device reads its own part, and only arrays of the size of the lattice cross the mesh.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.logits.array_rows import ArrayRows
from jax_rnnt.logits.source import Rows, Source
from jax_rnnt.ops import arcs, lax_arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.xla.sharding import explicit_axes, varying_axes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DividedLogits(Source):
    """This device's ``logits [B, T, U+1, W / devices]``, inside ``shard_map`` over ``axis_name``."""

    logits: Array
    axis_name: str = dataclasses.field(metadata={"static": True})

    _refused_as: ClassVar[str] = "vocab_axis_name"

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, T, U+1, W) with W of the whole vocabulary."""
        return (*self.logits.shape[:-1], self.logits.shape[-1] * lax.psum(1, self.axis_name))

    @property
    def dtype(self) -> np.dtype:
        return self.logits.dtype

    def _batched(self) -> Array:
        return self.logits

    def _rows(self) -> Rows:
        raise ValueError(
            f"`vocab_axis_name` is {self.axis_name!r}: no device has whole rows of logits, and two models are compared "
            "row by row."
        )

    def _offsets(self, labels: Array) -> Array:
        """The place in the whole vocabulary of the first entry of each row."""
        return jnp.zeros_like(labels) + lax.axis_index(self.axis_name).astype(jnp.int32) * self.logits.shape[-1]

    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        offsets = self._offsets(labels)
        static, (first, stop) = parameters.asdict(), parameters.window
        # Without a window, this call reads only the entries that it picks.
        picks, _ = arcs.forward(self.logits, labels, offsets, **(static | {"window": (0, 0)}))
        places = jnp.stack(lax_arcs.places_of_arcs(labels, parameters.columns, offsets), axis=-1)
        owned = jnp.where((places >= 0) & (places < self.logits.shape[-1]), picks, 0)
        if first < stop:
            _, part = arcs.forward(self.logits, labels, offsets, **(static | {"columns": ()}))
            top_here, log_sum_here = part[..., 0], part[..., 1]
            top = lax.pmax(top_here, self.axis_name)
            shift = jnp.where(top == -jnp.inf, 0, top)
            exponentials = jnp.exp((top_here - shift) + log_sum_here)[..., None]
            total = lax.psum(jnp.concatenate([owned, exponentials], axis=-1), self.axis_name)
            owned, total = total[..., :-1], total[..., -1]
            # For a sum without the maximum one more number would cross the mesh: how many devices have it.
            log_sum = jnp.where(total == 0, 0, jnp.log(total))
            norm = jnp.stack([top, log_sum], axis=-1)
        else:
            owned = lax.psum(owned, self.axis_name)
            norm = jnp.stack([jnp.zeros_like(owned[..., 0])] * 2, axis=-1)
        each = [owned[..., k] for k in range(owned.shape[-1])]
        entries = lax_arcs.assemble(each, labels, norm, parameters.columns, parameters.vocabulary, parameters.window)
        return entries, norm

    def _cotangent_of_costs(self, cotangent: Array) -> Array:
        if self.axis_name in varying_axes(self.logits):
            return cotangent
        # Without check_vma a sum over devices is its own transpose: each device holds a share of the cotangent.
        return lax.psum(cotangent, self.axis_name)

    def _backward(
        self, labels: Array, kept: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> "DividedLogits":
        optional = (self._offsets(labels),) if bound is None else (bound, self._offsets(labels))
        (grad,) = arcs.backward(
            self.logits, labels, kept, cotangent, *optional, clipped=bound is not None, **parameters.asdict()
        )
        return DividedLogits(grad, self.axis_name)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DenseLogits(Source):
    """``logits [B, T, U+1, W]``."""

    logits: Array

    _composes: ClassVar[bool] = True
    _refused_as: ClassVar[str] = "clamp"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logits.shape

    @property
    def dtype(self) -> np.dtype:
        return self.logits.dtype

    def _batched(self) -> Array:
        return self.logits

    def _divided(self, axis_name: str) -> DividedLogits:
        return DividedLogits(self.logits, axis_name)

    def _rows(self) -> ArrayRows:
        *_, of_vocabulary = (None, *explicit_axes(self.logits))
        if of_vocabulary is not None:
            raise ValueError(
                f"Logits of shape {self.shape} are divided over {of_vocabulary!r} along the vocabulary: no device has "
                "whole rows of logits, and two models are compared row by row."
            )
        return ArrayRows(
            self.logits.reshape(-1, self.logits.shape[-1]), lambda x: DenseLogits(x.reshape(self.logits.shape))
        )

    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        entries, norm = arcs.forward(self.logits, labels, **parameters.asdict())
        return entries, norm

    def _backward(
        self, labels: Array, kept: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> "DenseLogits":
        optional = () if bound is None else (bound,)
        (grad,) = arcs.backward(
            self.logits, labels, kept, cotangent, *optional, clipped=bound is not None, **parameters.asdict()
        )
        return DenseLogits(grad)
