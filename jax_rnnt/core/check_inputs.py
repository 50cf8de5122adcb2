"""Checks of the values of concrete arrays, on the host. Tracing cannot see these values."""

from __future__ import annotations

import jax
import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.core.batch import Logits
from jax_rnnt.core.batch_values import check_log_probs, check_values
from jax_rnnt.core.loss import LogSoftmaxLoss, Loss, checked_loss
from jax_rnnt.logits.source import Source


def check_inputs(
    loss: Loss,
    logits: Logits | jax.ShapeDtypeStruct,
    targets: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
) -> None:
    """Raises a ValueError that names the first bad value of a batch and its index; meant for a data loader.

    Inside ``jit`` values are not known. There the loss gives NaN for a bad example, and for that example only.
    :func:`debug_inputs` makes the same checks inside ``jit``.

    Args:
      loss: the loss that the batch is for. It says which entries are blanks and how many frames the labels need.
      logits: ``[B, T, U+1, W]``: an array, a ``jax.ShapeDtypeStruct``, or another form of logits that a loss takes. The
        values of an array are read only if the loss has ``fused_log_softmax=False``.
      targets: ``[B, U]``, integers; entries before U_b must lie in [0, V) and differ from all blanks.
      logit_lengths: ``[B]``, integers in [0, T], enough for the labels. They count frames of the logits, after the
        encoder's subsampling.
      target_lengths: ``[B]``, integers in [0, U].

    Raises:
      TypeError, ValueError: as the loss does for types and shapes, and ValueError for the first bad value.

    Example:
      >>> import numpy as np
      >>> import jax_rnnt
      >>> logits = np.zeros((1, 4, 3, 5), np.float32)
      >>> loss = jax_rnnt.RNNTLoss(blank=0)
      >>> jax_rnnt.check_inputs(loss, logits, np.array([[1, 0]]), np.array([4]), np.array([2]))
      Traceback (most recent call last):
        ...
      ValueError: `targets[0, 1]` is 0, the blank (blank=0). Targets must not contain blank: the loss inserts it.
    """
    checked_loss(loss)
    arrays = {"targets": targets, "logit_lengths": logit_lengths, "target_lengths": target_lengths}
    if any(checks.is_tracer(x) for x in (logits, *arrays.values())):
        raise TypeError(
            "`check_inputs` needs concrete arrays; it was called on traced ones (inside jit, grad or vmap). "
            "`with jax_rnnt.debug_inputs():` makes the same checks there."
        )
    labels, t_b, u_b = (checks.on_host(name, x) for name, x in arrays.items())
    if isinstance(logits, Source):
        logits._check()
        logits = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    shaped = logits if isinstance(logits, checks.Shaped) else checks.on_host("logits", logits)
    checks.loss_arguments(shaped, labels, t_b, u_b)
    check_values(loss, shaped.shape, labels, t_b, u_b)
    if isinstance(loss, LogSoftmaxLoss) and not loss.fused_log_softmax and not isinstance(shaped, jax.ShapeDtypeStruct):
        check_log_probs(loss.topology(shaped.shape[-1]), np.asarray(shaped), t_b, u_b)
