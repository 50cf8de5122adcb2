"""Calls of the user's functions. Errors say how a decoder called them, and what they must return."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_rnnt import checks

Predictor = Callable[[Any, Any, Array], tuple[Any, Any]]
Joint = Callable[[Any, Array, Any], Array]


def with_state(name: str, result: str, function: Predictor, params: Any, state: Any, label: Array) -> tuple[Any, Any]:
    """``function(params, state, label)``, which returns the state after the label, and its ``result``."""
    returned = _called(f"{name}(params, state, label)", function, params, state, label)
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise TypeError(f"`{name}` must return a pair (state, {result}), got {type(returned).__name__}.")
    after, found = returned
    given, got = (jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x).name), x) for x in (state, after))
    if given != got:
        raise ValueError(f"`{name}` must return a state of shapes and dtypes {given}, as it got it, but has {got}.")
    return after, found


def logits_of(joint: Joint, params: Any, rows: Array, predicted: Any) -> Array:
    """The joint network's output ``[R, W]``."""
    logits = _called("joint(params, encoded, predicted)", joint, params, rows, predicted)
    if getattr(logits, "ndim", None) != 2 or logits.shape[0] != rows.shape[0]:
        raise ValueError(f"`joint` must return logits [R, W] for R = {rows.shape[0]} rows, got {shape_of(logits)}.")
    checks.floating("logits", logits)
    return logits


def shape_of(x: Any) -> str:
    """The shape of what a function returned, or a description of what is not an array."""
    return f"shape {x.shape}" if hasattr(x, "shape") else checks.described(x)


def _called(signature: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (TypeError, ValueError) as error:
        names = signature.removesuffix(")").split(", ")[1:]
        shapes = [jax.tree.map(lambda x: tuple(jnp.shape(x)), x) for x in arguments[1:]]
        given = ", ".join(f"`{name}` of shape {x}" for name, x in zip(names, shapes, strict=True))
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"A decoder calls {signature}, here with {given}; this failed: {error}") from error
