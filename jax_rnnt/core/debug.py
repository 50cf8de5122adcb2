"""A switch that makes losses and decoders check the values of their inputs, inside compiled functions too."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import jax
from jax import Array

from jax_rnnt import checks
from jax_rnnt.core.batch_values import check_values

if TYPE_CHECKING:
    from jax_rnnt.core.loss import Loss

# A part of the key of JAX's caches, so a function that was compiled without the checks is compiled again with them.
_is_on = jax.make_user_context(os.environ.get("JAX_RNNT_DEBUG", "0") not in ("", "0"))


@contextlib.contextmanager
def debug_inputs() -> Iterator[None]:
    """Inside ``with debug_inputs():``, losses and decoders raise the sentence of :func:`check_inputs` for bad values.

    Without this switch, a bad example costs NaN and nothing says why. The environment variable JAX_RNNT_DEBUG=1 has the
    same effect for a whole process, if it is set before this library is imported.

    The checks run on the host, through ``jax.debug.callback``, wherever the loss runs: outside of ``jit``, inside of
    ``jit``, ``scan`` and ``vmap``, and on meshes, where an index is that within a device's part of the batch. They are
    slow. A function that was compiled outside of the block is compiled again in it.

    Raises:
      ValueError: outside of ``jit``, for the first bad example.
      jax.errors.JaxRuntimeError: inside of ``jit``, with the same sentence, when the result is waited for or when the
        block ends.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> loss = jax_rnnt.RNNTLoss(blank=0)
      >>> batch = jnp.zeros((1, 4, 3, 5)), jnp.array([[1, 7]]), jnp.array([4]), jnp.array([2])
      >>> with jax_rnnt.debug_inputs():
      ...     loss(*batch)
      Traceback (most recent call last):
        ...
      ValueError: `targets[0, 1]` must be in [0, V) = [0, 5), got 7.
    """
    with _is_on(True):
        yield
        jax.effects_barrier()


def check_batch(loss: Loss, shape: tuple[int, ...], targets: Array, t_b: Array, u_b: Array) -> None:
    """Checks the batch of a loss with logits of this ``shape``, (B, T, U+1, W), if the switch is on."""
    check_on_host(functools.partial(check_values, loss, shape), targets, t_b, u_b)


def check_on_host(check: Callable[..., None], *arrays: Array) -> None:
    """Calls ``check`` with the values of the arrays, if the switch is on. An error of it ends the program."""
    if not _is_on.value:
        return
    if any(checks.is_tracer(x) for x in arrays):
        jax.debug.callback(check, *arrays)
    else:
        check(*arrays)
