"""Rows of a frame and of a position for each node: what makes the logits of a joint network and of a sum."""

import jax.numpy as jnp
from jax import Array


class NodeInputs:
    """``x [B, T, Dx]`` and ``y [B, U+1, Dy]`` as flat rows, and which of them belong to the nodes at some places."""

    def __init__(self, x: Array, y: Array):
        self.x, self.y = x.reshape(-1, x.shape[2]), y.reshape(-1, y.shape[2])
        self._frames, self._positions = x.shape[1], y.shape[1]

    def of(self, place: Array) -> tuple[Array, Array]:
        """The rows ``[N]`` of x and of y."""
        frame = place // self._positions
        return frame, frame // self._frames * self._positions + place % self._positions

    def taken(self, place: Array) -> tuple[Array, Array]:
        """``[N, Dx]`` and ``[N, Dy]``."""
        frame, position = self.of(place)
        return self.x.at[frame].get(mode="promise_in_bounds"), self.y.at[position].get(mode="promise_in_bounds")

    def zeros(self) -> tuple[Array, Array]:
        """Sums of gradients, in float32 at least."""
        return wide_zeros(self.x), wide_zeros(self.y)

    def added(self, total: tuple[Array, Array], place: Array, of_x: Array, of_y: Array) -> tuple[Array, Array]:
        frame, position = self.of(place)
        return (
            total[0].at[frame].add(of_x.astype(total[0].dtype), mode="promise_in_bounds"),
            total[1].at[position].add(of_y.astype(total[1].dtype), mode="promise_in_bounds"),
        )


def wide_zeros(x: Array) -> Array:
    return jnp.zeros(x.shape, jnp.float32 if x.dtype.itemsize < 4 else x.dtype)
