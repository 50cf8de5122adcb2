"""Hidden rows of an additive joint network, and their backward: what stands beside its matrix products. For sources.

Node (b, t, u) has the place ``(b T + t) P + u``, where P = U + 1. Its hidden row is ``h[d] = f(encoded[b, t, d] +
predicted[b, u, d])``, computed in float32 at least and rounded once. With dropout some entries are 0, and the others
are divided by the share that stays; ``dropout_bits.py`` says which.

A tile has rows for the places ``place [N]``, in ascending order. Its last rows may be copies of its last node's, so
that the tile is whole. The gradients of rows are added to sums over the nodes of each frame and of each position, on
CUDA in a fixed order, so that a second call gives the same bits. Copies add nothing.

CUDA takes rows that fill vectors of 16 bytes: :func:`columns_of` says how many columns that are. tanh of 16-bit types
is an instruction there with an error of 2^-11 (relative); that of float32 is exact to rounding.
"""

import jax
import numpy as np
from jax import Array

from jax_rnnt.ops import lax_hidden_rows
from jax_rnnt.ops.activations import ACTIVATIONS
from jax_rnnt.ops.dropout_bits import STEPS
from jax_rnnt.xla.primitive import Implementation, Operation

_VECTOR_BYTES = 16


def _rows(encoded, predicted, place, seed, **_) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct((place.shape[0], encoded.shape[2]), encoded.dtype)]


def _sums(of_encoded, of_predicted, *_, **__) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (of_encoded, of_predicted)]


_forward = Operation("hidden_rows", _rows, lax_hidden_rows.hidden_rows, None)
_backward = Operation("hidden_rows_backward", _sums, lax_hidden_rows.hidden_rows_backward, None, in_place=2)


def columns_of(width: int, dtype: np.dtype) -> int:
    """The least number of columns, at least ``width``, that fills whole vectors."""
    return -(-width * dtype.itemsize // _VECTOR_BYTES) * _VECTOR_BYTES // dtype.itemsize


def _parameters(activation: str, dropped: int, implementation: Implementation) -> dict:
    if not 0 <= dropped < STEPS:
        raise ValueError(f"`dropped` must be in [0, {STEPS}), got {dropped}.")
    # Only CUDA has these kernels: "native", which insists on one, is meant for operations 1 and 2.
    return {
        "activation": list(ACTIVATIONS).index(activation),
        "dropped": dropped,
        "implementation": "lax" if implementation == "lax" else None,
    }


def hidden_rows(
    encoded: Array,
    predicted: Array,
    place: Array,
    seed: Array,
    *,
    activation: str,
    dropped: int = 0,
    implementation: Implementation = None,
) -> Array:
    """Rows ``[N, D]`` of the nodes at ``place [N]``, int32.

    ``encoded [B, T, D]`` and ``predicted [B, P, D]`` have one floating type. ``seed [2]``, uint32, and ``dropped``, in
    units of 2^-16, are the dropout's.
    """
    return _forward(encoded, predicted, place, seed, **_parameters(activation, dropped, implementation))[0]


def hidden_rows_backward(
    of_encoded: Array,
    of_predicted: Array,
    d_hidden: Array,
    encoded: Array,
    predicted: Array,
    place: Array,
    row: Array,
    seed: Array,
    *,
    activation: str,
    dropped: int = 0,
    implementation: Implementation = None,
) -> tuple[Array, Array]:
    """The sums ``[B, T, D]`` and ``[B, P, D]``, float32 at least, with the gradients ``d_hidden [N, D]`` added.

    ``row [B, T, P]``, int32, has the row of each node, counted from the first tile on, and -1 for nodes without one.
    """
    operands = of_encoded, of_predicted, d_hidden, encoded, predicted, place, row, seed
    frames, positions = _backward(*operands, **_parameters(activation, dropped, implementation))
    return frames, positions
