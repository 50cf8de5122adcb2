"""Checks of types and shapes of arrays while tracing. Errors name the argument and the value that was passed."""

import contextlib
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.checks.static import described

Shaped = Array | np.ndarray | jax.ShapeDtypeStruct

_FLOATING = ("float16", "bfloat16", "float32", "float64")


@contextlib.contextmanager
def _conversion(name: str, x: object) -> Iterator[None]:
    """Turns the errors of NumPy and JAX about values that are not arrays into a sentence that names the argument."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(f"`{name}` holds an integer that its dtype has no room for: {error}.") from error
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array of numbers, or nested lists of them whose rows are equally long, "
            f"got {described(x)}."
        ) from error


def as_array(name: str, x: ArrayLike) -> Array:
    with _conversion(name, x):
        return jnp.asarray(x)


def on_host(name: str, x: object) -> np.ndarray:
    with _conversion(name, x):
        return np.asarray(x)


def floating(name: str, x: Shaped) -> None:
    if x.dtype.name not in _FLOATING:
        raise TypeError(f"`{name}` must be one of {', '.join(_FLOATING)}, got {x.dtype.name}.")


def array(name: str, x: object) -> None:
    """Requires an array of JAX or NumPy: fields of a pytree are not converted."""
    if not isinstance(x, Shaped):
        raise TypeError(f"`{name}` must be an array, got {described(x)}.")


def integer(name: str, x: Shaped) -> None:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"`{name}` must have an integer dtype, got {x.dtype.name}.")


def rank(name: str, x: Shaped, letters: str) -> None:
    expected = len(letters.split(","))
    if x.ndim != expected:
        hint = ""
        if x.ndim == expected + 1 and x.shape[-1] == 1 and expected == 1:
            hint = f" (write {name}[:, 0])"
        elif x.ndim > expected:
            hint = " (use jax.vmap for further batch dimensions)"
        dimensions = "1 dimension" if expected == 1 else f"{expected} dimensions"
        raise ValueError(f"`{name}` must have {dimensions} [{letters}], got {x.ndim}: shape {x.shape}{hint}.")


def shape(name: str, x: Shaped, expected: tuple[int, ...], source: str) -> None:
    if x.shape != expected:
        raise ValueError(f"`{name}` must have shape {expected} ({source}), got {x.shape}.")


def is_symbolic(size: object) -> bool:
    """Whether it is a size such as ``b``, in an export of one program for arrays of any size."""
    export = sys.modules.get("jax.export")  # where symbols come from; importing it needs a further package
    return export is not None and not isinstance(size, int | np.integer) and export.is_symbolic_dim(size)


def exceeds(size: int, limit: int) -> bool:
    """Whether a product of sizes is above a limit. A symbolic size, in an export, is not known and passes."""
    return isinstance(size, int) and size > limit


def as_integers(name: str, x: ArrayLike) -> Array:
    """:func:`as_array`, but 64-bit values that do not fit are not wrapped around when JAX works in 32 bits."""
    if isinstance(x, np.ndarray) and x.dtype in (np.int64, np.uint64):
        info = np.iinfo(np.int32)
        x = np.where((x >= info.min) & (x <= info.max), x.astype(np.int64), info.min).astype(np.int32)
    return as_array(name, x)


def to_int32(x: Array) -> Array:
    """``x`` as int32. Values that do not fit become the lowest int32, which no argument of this library allows."""
    if x.dtype == jnp.int32:
        return x
    info, wide = jnp.iinfo(jnp.int32), jnp.iinfo(x.dtype)
    if wide.min >= info.min and wide.max <= info.max:
        return x.astype(jnp.int32)
    fits = x <= jnp.asarray(info.max, x.dtype)
    if wide.min < info.min:
        fits &= x >= jnp.asarray(info.min, x.dtype)
    return jnp.where(fits, x, 0).astype(jnp.int32) + jnp.where(fits, 0, info.min).astype(jnp.int32)


def loss_arguments(
    logits: Shaped, targets: Shaped, logit_lengths: Shaped, target_lengths: Shaped, name: str = "logits"
) -> None:
    """The types and shapes of the four arrays of a transducer loss: [B, T, U+1, V], [B, U], [B], [B]."""
    floating(name, logits)
    rank(name, logits, "B, T, U+1, V")
    integer("targets", targets)
    rank("targets", targets, "B, U")
    b, _, u1, v = logits.shape
    if targets.shape[0] != b:
        raise ValueError(
            f"`targets` must have {name}.shape[0] == {b} rows, got {targets.shape[0]}: shape {targets.shape}."
        )
    if targets.shape[1] + 1 != u1:
        help_ = ""
        if v == targets.shape[1] + 1 or logits.shape[1] == targets.shape[1] + 1:
            help_ = (
                " Another axis of the logits has that size: the order of axes is batch, frames, positions, vocabulary. "
                "jnp.moveaxis puts them in this order."
            )
        if targets.shape[1] == u1:
            help_ = (
                " If the targets hold a start symbol, remove it. If they hold none, the predictor must also emit a row "
                "for the start symbol, before the first label: prepend it to the predictor's input, so that U labels "
                "give U + 1 rows of logits."
            )
        raise ValueError(
            f"`{name}` of shape [B, T, U+1, V] = {logits.shape} needs `targets` of shape [B, U] = ({b}, {u1 - 1}), "
            f"got {targets.shape}: expected {name}.shape[2] == targets.shape[1] + 1 == {targets.shape[1] + 1}, "
            f"got {u1}.{help_}"
        )
    if v < 1:
        raise ValueError(f"`{name}` must have V >= 1 vocabulary entries, got shape {logits.shape}.")
    lengths(b, logit_lengths, target_lengths, f"{name}.shape[0]")


def lengths(b: int, logit_lengths: Shaped, target_lengths: Shaped, source: str) -> None:
    for name, x in (("logit_lengths", logit_lengths), ("target_lengths", target_lengths)):
        integer(name, x)
        rank(name, x, "B")
        if x.shape[0] != b:
            raise ValueError(
                f"`{name}` must have shape ({b},), one entry per row of the batch ({source} == {b}), got {x.shape}."
            )
