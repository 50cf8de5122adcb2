"""Checks of the values of concrete arrays, on the host. Tracing cannot see these values."""

import jax
import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core.loss import Logits
from jax_rnnt.logits.source import Source
from jax_rnnt.ops.labels import resolve_column


def check_inputs(
    logits: Logits | jax.ShapeDtypeStruct,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = -1,
) -> None:
    """Raises a ValueError that names the first bad example, with its index and value; meant for a data loader.

    Inside ``jit`` values are not known; there the loss gives NaN for a bad example, and for that example only.

    Args:
      logits: ``[B, T, U+1, V]``: an array, a ``jax.ShapeDtypeStruct``, or another form of logits that a loss takes. Its
        values are not read.
      targets: ``[B, U]``, integers; entries before U_b must lie in [0, V) and differ from blank.
      logit_lengths: ``[B]``, integers in [0, T]; 0 only where U_b is 0 too.
      target_lengths: ``[B]``, integers in [0, U].
      blank: index of the blank, in [-V, V).

    Raises:
      TypeError, ValueError: as :func:`rnnt_loss` does for types and shapes, and ValueError for the first bad value.

    Example:
      >>> import numpy as np
      >>> import jax_rnnt
      >>> logits = np.zeros((1, 4, 3, 5), np.float32)
      >>> jax_rnnt.check_inputs(logits, np.array([[1, 4]]), np.array([4]), np.array([2]))
      Traceback (most recent call last):
        ...
      ValueError: `targets[0, 1]` is 4, the blank (blank=-1). Targets must not contain blank: the loss inserts it.
    """
    arrays = {"targets": targets, "logit_lengths": logit_lengths, "target_lengths": target_lengths}
    if any(checks.is_tracer(x) for x in (logits, *arrays.values())):
        raise TypeError(
            "`check_inputs` needs concrete arrays; it was called on traced ones (inside jit, grad or vmap)."
        )
    labels, t_b, u_b = (checks.on_host(name, x) for name, x in arrays.items())
    if isinstance(logits, Source):
        logits.check()
        logits = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    shaped = logits if isinstance(logits, checks.Shaped) else checks.on_host("logits", logits)
    checks.loss_arguments(shaped, labels, t_b, u_b)
    _, t_max, u1, v = shaped.shape
    column = resolve_column(blank, v, "blank")
    for name, x, limit, letter in (("logit_lengths", t_b, t_max, "T"), ("target_lengths", u_b, u1 - 1, "U")):
        for b in np.flatnonzero((x < 0) | (x > limit))[:1]:
            raise ValueError(f"`{name}[{b}]` must be in [0, {letter}] = [0, {limit}], got {x[b]}.")
    for b in np.flatnonzero((t_b == 0) & (u_b > 0))[:1]:
        raise ValueError(
            f"`logit_lengths[{b}]` is 0 with target_lengths[{b}] == {u_b[b]}: labels need at least one frame."
        )
    used = np.arange(u1 - 1)[None] < u_b[:, None]
    for b, u in np.argwhere(used & ((labels < 0) | (labels >= v) | (labels == column)))[:1]:
        value = labels[b, u]
        if value == column:
            raise ValueError(
                f"`targets[{b}, {u}]` is {value}, the blank (blank={blank}). "
                "Targets must not contain blank: the loss inserts it."
            )
        raise ValueError(f"`targets[{b}, {u}]` must be in [0, V) = [0, {v}), got {value}.")
