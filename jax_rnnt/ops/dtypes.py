"""Small functions on arrays that the ``lax`` forms of both operations and the sources need."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """float64 for float64, float32 for every narrower type."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def copied(copy: Callable[[Array], Array], x: Array) -> Array:
    """``copy(x)``, a gather or a broadcast, whose gradient adds up the copies in float32 at least.

    A sum of 16 bits stops growing where its terms are less than half of its last digit.
    """
    if not (jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4):
        return copy(x)
    return copy(x.astype(jnp.float32)).astype(x.dtype)
