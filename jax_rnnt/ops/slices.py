"""Two small things that both operations' ``lax`` forms need."""

import numpy as np
from jax import Array, lax


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """float64 for float64, float32 for every narrower type."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def at(x: Array, index: int, axis: int = -1) -> Array:
    """``x[..., index]``, as the slice that it is: until jax 0.7 brackets make it a gather (:func:`may_gather`)."""
    return lax.index_in_dim(x, index, axis, keepdims=False)
