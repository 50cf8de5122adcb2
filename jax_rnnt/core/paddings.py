"""Lengths from paddings, the convention of optax, axlearn and lingvo."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks


def lengths_from_paddings(paddings: ArrayLike) -> Array:
    """The lengths of sequences whose padding is marked by 1, as in ``optax.ctc_loss``.

    Args:
      paddings: ``[B, N]``, any dtype: 0 for the frames or labels of a sequence, 1 for padding. The padding must come
        last. Inside ``jit`` values are not known, and this is not checked. There the length counts the entries before
        the first 1.

    Returns:
      ``[B]``, int32, in [0, N].

    Raises:
      TypeError: if the dtype is not numeric.
      ValueError: if there are not two dimensions, an entry is neither 0 nor 1, or a 0 follows a 1.

    Example:
      >>> import jax_rnnt
      >>> jax_rnnt.lengths_from_paddings([[0, 0, 1], [0, 0, 0]])
      Array([2, 3], dtype=int32)
    """
    x = checks.as_array("paddings", paddings)
    checks.rank("paddings", x, "B, N")
    is_padding = x.astype(bool)
    if not checks.is_tracer(x):
        values = np.asarray(x)
        for b, n in np.argwhere((values != 0) & (values != 1))[:1]:
            raise ValueError(f"`paddings[{b}, {n}]` must be 0 or 1, got {values[b, n]}.")
        for b, n in np.argwhere((values[:, :-1] == 1) & (values[:, 1:] == 0))[:1]:
            raise ValueError(
                f"`paddings[{b}, {n + 1}]` is 0 and `paddings[{b}, {n}]` is 1: padding must come last in each row. "
                "1 marks padding. If your mask has 1 where there are data, give 1 - mask."
            )
    return jnp.sum(jnp.cumsum(is_padding, axis=1, dtype=jnp.int32) == 0, axis=1, dtype=jnp.int32)
