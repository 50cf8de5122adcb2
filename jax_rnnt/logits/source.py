"""What the pipeline of a loss asks of a source of logits, and nothing more."""

from typing import Protocol, Self

from jax import Array

from jax_rnnt.ops.arcs import ArcParameters


class Source(Protocol):
    """The logits of the nodes of a batch of lattices; a pytree of the arrays that a gradient reaches."""

    composes: bool
    """Whether ``forward`` is made of operations that JAX differentiates in every mode."""

    def forward(self, labels: Array, parameters: ArcParameters) -> tuple[Array, Array]:
        """``entries [B, T, U+1, K']`` for ``labels [B, T, U+1]``, and the log-norms that ``backward`` wants."""
        ...

    def cotangent_of_costs(self, cotangent: Array) -> Array:
        """The whole cotangent ``[B]`` of the costs, where this device may hold but a share of it."""
        ...

    def backward(
        self, labels: Array, log_norm: Array, cotangent: Array, bound: Array | None, parameters: ArcParameters
    ) -> Self:
        """The gradient, from the ``cotangent [B, T, U+1, K']`` of the entries.

        Each element of the gradient with respect to the logits is clipped to ``bound [B, T, U+1]``, if there is one.
        """
        ...
