"""Checks of options while tracing: numbers and integers that must be static. Errors name the option and its value."""

import contextlib
import operator
import reprlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def described(x: object) -> str:
    """``x`` as an error message shows it."""
    if isinstance(x, np.ndarray | Array):
        return f"an array of dtype {x.dtype} and shape {x.shape}"
    return f"{reprlib.repr(x)} of type {type(x).__name__}"


def is_tracer(x: object) -> bool:
    return isinstance(x, jax.core.Tracer)


def static(name: str, x: object, otherwise: str = "") -> None:
    if is_tracer(x):
        argument = name.partition("[")[0]
        raise TypeError(
            f"`{name}` must be static, that is, known when JAX traces the function; got the traced value {x}. Jit "
            f"the function with static_argnames={argument!r}, or let it take `{argument}` from a closure{otherwise}."
        )


def boolean(name: str, x: object) -> None:
    static(name, x)
    if not isinstance(x, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, got {described(x)}.")


def number(name: str, x: object, hint: str = "") -> None:
    """A real number, as a Python or NumPy scalar or as an array without dimensions."""
    static(name, x)
    is_scalar = isinstance(x, int | float | np.generic | np.ndarray | Array) and np.ndim(x) == 0
    dtype = np.asarray(x).dtype if is_scalar else np.dtype(object)
    if not (jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"`{name}` must be a number, got {described(x)}.{hint}")
    if np.isnan(np.asarray(x)):
        raise ValueError(f"`{name}` must be a number, got NaN.")


def random_key(name: str, x: object) -> None:
    """A key of JAX, typed or as the integers of ``jax.random.PRNGKey``."""
    if not hasattr(x, "dtype"):
        raise TypeError(f"`{name}` must be a JAX random key, such as jax.random.key(0), got {described(x)}.")


def static_index(name: str, x: Any) -> int:
    """``x`` as a Python integer."""
    static(name, x)
    with contextlib.suppress(TypeError):
        if not isinstance(x, bool | np.bool_):  # Python counts a bool as an integer; here it is a mistake
            return operator.index(x)
    raise TypeError(f"`{name}` must be an integer, got {described(x)}.")


def static_integers(name: str, x: Iterable[int]) -> tuple[int, ...]:
    """``x`` as a tuple of Python integers."""
    static(name, x)
    try:
        each = tuple(x)
    except TypeError as error:
        raise TypeError(f"`{name}` must be a sequence of integers, such as (1, 2), got {described(x)}.") from error
    return tuple(static_index(f"{name}[{i}]", entry) for i, entry in enumerate(each))
