"""The activations of hidden rows, and their derivatives. cuda/activation.cuh has the same."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_GELU_SCALE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


class Activation(NamedTuple):
    """A function of an array of any shape, element by element, and its derivative."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def _tanh_of_gelu(x: Array) -> Array:
    return jnp.tanh(_GELU_SCALE * (x + _GELU_CUBE * x * x * x))


def _gelu_slope(x: Array) -> Array:
    y = _tanh_of_gelu(x)
    return 0.5 * (1 + y + x * (1 - y * y) * _GELU_SCALE * (1 + 3 * _GELU_CUBE * x * x))


def _tanh_slope(x: Array) -> Array:
    y = jnp.tanh(x)
    return 1 - y * y


def _sigmoid_slope(x: Array) -> Array:
    y = jax.nn.sigmoid(x)
    return y * (1 - y)


ACTIVATIONS = {
    "tanh": Activation(jnp.tanh, _tanh_slope),
    "relu": Activation(jax.nn.relu, lambda x: jnp.where(x > 0, jnp.ones_like(x), jnp.zeros_like(x))),
    "gelu": Activation(lambda x: 0.5 * x * (1 + _tanh_of_gelu(x)), _gelu_slope),  # as flax.linen.gelu
    "sigmoid": Activation(jax.nn.sigmoid, _sigmoid_slope),
    "identity": Activation(lambda x: x, jnp.ones_like),
}
"""By name, in the order of the numbers that the kernels have for them."""
