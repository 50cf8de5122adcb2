"""The pure ``lax`` forms of hidden rows and of their backward."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jax_rnnt.ops.activations import ACTIVATIONS, Activation
from jax_rnnt.ops.dropout_bits import STEPS, kept
from jax_rnnt.ops.dtypes import compute_dtype


class _Nodes(NamedTuple):
    """Nodes ``[N]``: utterance, frame and position, and the rows of ``encoded`` and of ``predicted``."""

    b: Array
    t: Array
    u: Array
    frame: Array  # in [0, B T)
    position: Array  # in [0, B P)


def _nodes(place: Array, frames: int, positions: int) -> _Nodes:
    frame, u = place // positions, place % positions
    b = frame // frames
    return _Nodes(b, frame % frames, u, frame, b * positions + u)


def _rows(x: Array, at: Array) -> Array:
    """Rows ``at [N]`` of ``x [B, L, D]``, counted through the batch, in the type that sums are computed in."""
    return x.reshape(-1, x.shape[-1]).at[at].get(mode="promise_in_bounds").astype(compute_dtype(x.dtype))


def _activation(number: int) -> Activation:
    return list(ACTIVATIONS.values())[number]


def _dropped_out(x: Array, nodes: _Nodes, seed: Array, dropped: int) -> Array:
    if dropped == 0:
        return x
    mask = kept(seed, nodes.b, nodes.t, nodes.u, x.shape[-1], dropped)
    return jnp.where(mask, x * np.asarray(STEPS / (STEPS - dropped), x.dtype), 0)


def hidden_rows(
    encoded: Array, predicted: Array, place: Array, seed: Array, *, activation: int, dropped: int
) -> list[Array]:
    nodes = _nodes(place, encoded.shape[1], predicted.shape[1])
    x = _activation(activation).value(_rows(encoded, nodes.frame) + _rows(predicted, nodes.position))
    return [_dropped_out(x, nodes, seed, dropped).astype(encoded.dtype)]


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
    activation: int,
    dropped: int,
) -> list[Array]:
    nodes = _nodes(place, encoded.shape[1], predicted.shape[1])
    slope = _activation(activation).slope(_rows(encoded, nodes.frame) + _rows(predicted, nodes.position))
    each = _dropped_out(d_hidden.astype(slope.dtype) * slope, nodes, seed, dropped)
    own = row.reshape(-1).at[place].get(mode="promise_in_bounds")
    real = own - own[0] == jnp.arange(place.shape[0], dtype=own.dtype)  # the others are copies of the last row
    each = jnp.where(real[:, None], each, 0)

    def added(sums: Array, at: Array) -> Array:
        flat = sums.reshape(-1, sums.shape[-1])
        return flat.at[at].add(each, mode="promise_in_bounds").reshape(sums.shape)

    return [added(of_encoded, nodes.frame), added(of_predicted, nodes.position)]
