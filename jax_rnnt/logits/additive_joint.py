"""The joint network of nearly every published transducer: one activation of a sum, and one product."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt import checks
from jax_rnnt.ops.activations import ACTIVATIONS
from jax_rnnt.ops.dropout_bits import STEPS
from jax_rnnt.xla import sharding


@dataclasses.dataclass(frozen=True)
class AdditiveJoint:
    """A joint network that the library knows: :func:`additive_joint` makes it, and its call is the network.

    It is static and hashable, and two with the same options are equal.
    """

    activation: str
    dropout_rate: float

    def __call__(self, params: Any, e: Array, p: Array) -> Array:
        """``activation(e + p) @ params["kernel"] + params["bias"]`` without dropout, for a decoder or dense logits.

        Args:
          params: ``{"kernel": [D, W]}``, and ``"bias": [W]`` if there is one.
          e, p: ``[..., D]`` of one floating dtype; they broadcast against each other.

        Returns:
          ``[..., W]``, computed in that dtype.
        """
        summed = e + p
        # On a GPU, XLA transposes arrays with more dimensions than rows have, in front of the product and behind it. A
        # mesh with explicit axes keeps the dimensions apart.
        rows = summed if sharding.explicit_axes(summed) else summed.reshape(-1, summed.shape[-1])
        hidden = ACTIVATIONS[self.activation].value(rows)  # what a gradient keeps of it has the dtype of e
        kernel, bias = self.weights(params, e.dtype)
        # Else XLA would take the activation into the product, which then applies it to each entry many times.
        logits = jnp.matmul(lax.optimization_barrier(hidden), kernel).reshape(*summed.shape[:-1], kernel.shape[-1])
        return logits if bias is None else logits + bias.reshape((1,) * (logits.ndim - 1) + (-1,))

    @property
    def dropped(self) -> int:
        """The dropout rate, in units of 2^-16."""
        return round(self.dropout_rate * STEPS)

    @staticmethod
    def weights(params: Any, dtype: Any) -> tuple[Array, Array | None]:
        """The kernel and the bias, if there is one, in this dtype."""
        bias = params.get("bias")
        return jnp.asarray(params["kernel"]).astype(dtype), None if bias is None else jnp.asarray(bias).astype(dtype)

    def check(self, params: Any, encoded: Array, predicted: Array) -> None:
        """Raises a TypeError or ValueError if these are no operands of this network."""
        if predicted.dtype != encoded.dtype:
            raise TypeError(
                f"`encoded` and `predicted` must have one dtype for an additive joint, got {encoded.dtype} and "
                f"{predicted.dtype}."
            )
        if predicted.shape[-1] != encoded.shape[-1]:
            raise ValueError(
                f"`predicted` must have encoded.shape[-1] == {encoded.shape[-1]} columns for an additive joint, got "
                f"shape {predicted.shape}."
            )
        if not hasattr(params, "keys") or not {"kernel"} <= set(params.keys()) <= {"kernel", "bias"}:
            got = sorted(params.keys()) if hasattr(params, "keys") else checks.described(params)
            raise ValueError(
                f'`params` must be {{"kernel": [D, W]}} or {{"kernel": [D, W], "bias": [W]}} for an additive joint, as '
                f"a Dense layer of Flax has them, got {got}."
            )
        kernel, bias = params["kernel"], params.get("bias")
        checks.array('params["kernel"]', kernel)
        checks.floating('params["kernel"]', kernel)
        checks.rank('params["kernel"]', kernel, "D, W")
        if kernel.shape[0] != encoded.shape[-1]:
            raise ValueError(
                f'`params["kernel"]` must have encoded.shape[-1] == {encoded.shape[-1]} rows, got shape {kernel.shape}.'
            )
        if bias is not None:
            checks.array('params["bias"]', bias)
            checks.floating('params["bias"]', bias)
            checks.shape('params["bias"]', bias, kernel.shape[1:], 'params["kernel"].shape[1:]')


def additive_joint(activation: str = "tanh", dropout_rate: float = 0.0) -> AdditiveJoint:
    r"""The joint network of Graves (2013), as a ``joint`` for :class:`JointLogits` that the library knows.

    .. math:: \text{logits} = f(e + p)\, W + b

    NeMo, icefall, ESPnet and torchaudio have it too. It works on every platform. On CUDA the parts beside its products
    are kernels of the library: no array of a tile is converted, copied or scattered there, and a second call gives the
    same bits. In a loss the sum and the activation are computed in float32 (float64 for float64) and rounded once. On
    CUDA tanh and sigmoid of 16-bit types have an error of 2^-11 (relative, of tanh), less than what the rounding to
    bfloat16 loses.

    The parameters are those of a ``Dense`` layer of Flax: ``{"kernel": [D, W], "bias": [W]}``, or the kernel alone.
    They are rounded to the dtype of ``encoded`` and ``predicted``, which must be the same. Their gradients are summed
    in float32 and have their own dtype.

    Args:
      activation: f: "tanh", "relu", "gelu" (in its form with tanh, as ``flax.linen.gelu``), "sigmoid" or "identity".
      dropout_rate: in [0, 1), the share of the entries of f(e + p) that dropout sets to 0; the others are divided by
        the share that stays. It is rounded to a multiple of 2^-16. Dropout acts only in ``JointLogits`` with a
        ``dropout_key``; without one, as in evaluation, nothing is dropped. The mask is a function of the key, the node
        (b, t, u) and the column alone: Philox4x32-10 (Salmon et al., SC 2011).

    Returns:
      A static, hashable function ``joint(params, e, p) -> logits [..., W]`` for arrays ``[..., D]``. A decoder can
      call it too.

    Raises:
      TypeError: if ``dropout_rate`` is not a number; in the loss, if a dtype is wrong.
      ValueError: if ``activation`` is unknown or ``dropout_rate`` outside of [0, 1); in the loss, if a shape is wrong.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> joint = jax_rnnt.additive_joint("tanh", dropout_rate=0.1)
      >>> params = {"kernel": jnp.ones((8, 5)), "bias": jnp.zeros(5)}
      >>> encoded, predicted = jnp.ones((2, 4, 8)), jnp.ones((2, 3, 8))  # B = 2, T = 4, U = 2
      >>> targets, lengths = jnp.array([[1, 2], [3, 0]]), (jnp.array([4, 3]), jnp.array([2, 1]))
      >>> def loss(params, encoded, predicted, key=None):
      ...     logits = jax_rnnt.JointLogits(joint, params, encoded, predicted, dropout_key=key)
      ...     return jax_rnnt.rnnt_loss(logits, targets, *lengths)
      >>> round(float(loss(params, encoded, predicted)), 2)
      6.35
      >>> jax.grad(loss)(params, encoded, predicted, jax.random.key(0))["bias"].shape
      (5,)
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}.")
    checks.number("dropout_rate", dropout_rate)
    if not 0 <= dropout_rate < 1 or round(dropout_rate * STEPS) == STEPS:
        raise ValueError(f"`dropout_rate` must be in [0, 1), got {dropout_rate}.")
    return AdditiveJoint(activation, float(dropout_rate))
