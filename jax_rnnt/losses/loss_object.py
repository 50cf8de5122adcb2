"""Losses with their options set beforehand: static values, for fields of Flax modules and arguments of jit."""

import dataclasses
import inspect
from collections.abc import Callable

import jax
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.core.loss import Logits
from jax_rnnt.losses.rnnt import RnntOptions, rnnt_loss

_ARRAYS = ("logits", "targets", "logit_lengths", "target_lengths", "weights", "key")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RNNTLoss(RnntOptions):
    """:func:`rnnt_loss` with its options set beforehand: a static value, for fields of Flax modules and jit arguments.

    It has no parameters, so it is not an ``nn.Module``. The options mean the same as in :func:`rnnt_loss`, in the order
    of ``torchaudio.transforms.RNNTLoss``. The constructor refuses wrong options.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> loss = jax_rnnt.RNNTLoss(blank=0, reduction="sum")
      >>> loss(jnp.zeros((1, 2, 2, 4)), jnp.array([[3]]), jnp.array([2]), jnp.array([1])).round(4)
      Array(3.4657, dtype=float32)
    """

    def __call__(
        self,
        logits: Logits,
        targets: ArrayLike,
        logit_lengths: ArrayLike,
        target_lengths: ArrayLike,
        *,
        weights: ArrayLike | None = None,
    ) -> Array:
        """The loss of ``logits [B, T, U+1, V]`` and ``targets [B, U]``; see :func:`rnnt_loss`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return rnnt_loss(logits, targets, logit_lengths, target_lengths, weights=weights, **options)


@jax.tree_util.register_static
class Loss:
    """Any loss of this library with its options set beforehand: a static value, as :class:`RNNTLoss` is.

    Args:
      function: the loss, such as :func:`tdt_loss`.
      **options: its options by name. All of them are static; ``weights`` and ``key`` are given in the call.

    Raises:
      TypeError: if the loss has no such option, or an option cannot be hashed.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> loss = jax_rnnt.Loss(jax_rnnt.monotonic_rnnt_loss, blank=0, reduction="sum")
      >>> loss(jnp.zeros((1, 2, 2, 4)), jnp.array([[3]]), jnp.array([2]), jnp.array([1])).round(4)
      Array(2.0794, dtype=float32)
    """

    def __init__(self, function: Callable[..., Array], **options: object) -> None:
        known = [name for name in inspect.signature(function).parameters if name not in _ARRAYS]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(f"`{function.__name__}` has no option {unknown[0]!r}; it has {', '.join(known)}.")
        frozen = {name: tuple(x) if isinstance(x, list) else x for name, x in options.items()}
        self._key = (function, tuple(sorted(frozen.items())))
        hash(self._key)
        self.function, self.options = function, frozen

    def __call__(
        self,
        logits: Logits,
        targets: ArrayLike,
        logit_lengths: ArrayLike,
        target_lengths: ArrayLike,
        **arrays: ArrayLike,
    ) -> Array:
        """The loss of ``logits [B, T, U+1, W]`` and ``targets [B, U]``."""
        return self.function(logits, targets, logit_lengths, target_lengths, **self.options, **arrays)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and self._key == other._key

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Loss({self.function.__name__}{options})"
