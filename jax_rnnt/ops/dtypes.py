"""Two small functions that the ``lax`` forms of both operations need."""

import numpy as np
from jax import Array, lax


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """float64 for float64, float32 for every narrower type."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def at(x: Array, index: int, axis: int = -1) -> Array:
    """``x[..., index]`` as a slice. Until jax 0.7, indexing by brackets makes it a gather (:func:`may_gather`)."""
    return lax.index_in_dim(x, index, axis, keepdims=False)
