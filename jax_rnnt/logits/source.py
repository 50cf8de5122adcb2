"""The interface between the pipeline of a loss and a source of logits."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.xla import sharding

Add = Callable[[Any, Array], Any]
"""Adds the gradient of some rows ``[N, W]`` to a total of :class:`Rows`."""


class Rows(abc.ABC):
    """The rows of logits of a source, for some nodes at a time: for places ``[N]`` in ``[0, B T (U+1))``.

    The gradient of the source is a total of the gradients of rows. It begins with ``zeros()``, grows by what ``vjp``
    returns, and ends with ``gradient(total)``. All arrays that its methods need beside ``place`` are made once, so that
    they stay outside of a loop over nodes.
    """

    widest: int
    """How many entries the widest array has that a row is made of: it decides how many rows a tile has."""

    tile_rows: int | None = None
    """How many rows a tile has, if the user has said so."""

    budget: float = 0.0
    """The share of the L1 norm of the gradient that a backward pass may leave out, in each utterance."""

    @abc.abstractmethod
    def read(self, place: Array) -> Array:
        """``[N, W]``."""

    @abc.abstractmethod
    def vjp(self, place: Array, real: Array) -> tuple[Array, Add]:
        """``read(place)``, and what adds the gradient of these rows to a total.

        No place occurs twice where ``real [N]``. The other places are copies, and the gradient of their rows is 0.
        """

    def over(self, mask: Array) -> Self:
        """The same rows, for a loop over the places where ``mask [B T (U+1)]`` is true, in ascending order.

        ``vjp`` may need it.
        """
        return self

    @abc.abstractmethod
    def zeros(self) -> Any:
        """The total of no rows."""

    @abc.abstractmethod
    def gradient(self, total: Any) -> Source:
        """The gradient of the source. A field that has no gradient, such as integers, is None in the result."""


class Source(abc.ABC):
    """The logits ``[B, T, U+1, W]`` of the nodes of a batch of lattices; a pytree of the arrays that hold them."""

    _composes: ClassVar[bool] = False
    """Whether ``_forward`` is made of operations that JAX differentiates in every mode."""

    _refused_as: ClassVar[str]
    """The name that an error gives as the reason if a derivative is refused because of this source."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(B, T, U+1, W), as this device sees it."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """The dtype of the logits."""

    @abc.abstractmethod
    def _batched(self) -> Array:
        """An array of the source whose first axis is B. Targets and lengths are divided over a mesh as it is."""

    def _check(self) -> None:
        """Raises a TypeError or ValueError that names a field of the source whose shape or type is wrong."""
        return

    def _divided(self, axis_name: str) -> Source:
        """The same logits where the vocabulary is divided over this mesh axis."""
        raise ValueError(
            f"`vocab_axis_name` is {axis_name!r}, and `logits` are {type(self).__name__}: only the vocabulary of a "
            "dense array can be divided."
        )

    def _laid_out(self) -> Self:
        """The same source. In a mesh with explicit axes only the batch is divided, where the source needs that."""
        return self

    def _named_axes(self) -> tuple[str, ...]:
        """The mesh axes that divide the batch, if they are explicit or the user has named them."""
        return sharding.explicit_batch_axes(self._batched())

    def _batch_axes(self) -> tuple[str, ...]:
        """The mesh axes that divide the batch, if each device must run its own part of the batch by itself."""
        return ()

    def _partition_specs(self, axes: tuple[str, ...]) -> Any:
        """The source with a PartitionSpec in place of each array: how it is divided over these axes of the batch."""
        return jax.tree.map(lambda _: PartitionSpec(axes), self)

    def _on_device(self, axes: tuple[str, ...]) -> Self:
        """This device's part, inside ``shard_map`` over these axes."""
        return self

    def _prepared(self, labels: Array) -> Self:
        """The same source, prepared for ``_forward`` with these labels."""
        return self

    @abc.abstractmethod
    def _rows(self) -> Rows:
        """The rows of logits, each by itself."""

    @abc.abstractmethod
    def _forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Any]:
        """``entries [B, T, U+1, K']`` for ``labels [B, T, U+1]``, and what ``_backward`` will need."""

    def _nodes(self) -> Array | None:
        """Which nodes exist, booleans ``[B, T, U+1]``; None if all exist. No arc leaves or enters the others.

        ``_forward`` gives them entries of -inf. A wildcard, which adds arcs, must know them.
        """
        return None

    def _cotangent_of_costs(self, cotangent: Array) -> Array:
        """The whole cotangent ``[B]`` of the costs. This device may hold only a share of it."""
        return cotangent

    @abc.abstractmethod
    def _backward(
        self, labels: Array, kept: Any, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> Self:
        """The gradient, from the ``cotangent [B, T, U+1, K']`` of the entries.

        Each element of the gradient with respect to the logits is clipped to ``bound [B, T, U+1]``, if there is one.
        A field that has no gradient, such as integers, is None in the result.
        """
