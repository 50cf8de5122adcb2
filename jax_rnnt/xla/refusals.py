"""Refuses derivatives that do not exist, in words that name our arguments. JAX's own errors name its internals."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Tree = TypeVar("Tree")


def in_floats(refuse: Callable[[Array, str], Array], tree: Tree, argument: str) -> Tree:
    """``tree``, with ``refuse`` applied to its floating-point arrays."""
    return jax.tree.map(lambda x: refuse(x, argument) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def no_second_order(x: Array, argument: str) -> Array:
    """Returns ``x``, in the forward pass of a ``custom_vjp``. To differentiate that pass is a TypeError."""
    return x


@no_second_order.defjvp
def _refuse_second_order(argument: str, primals, tangents):
    raise TypeError(f"With `{argument}` the loss has no second derivatives: its gradient can't be differentiated.")


def no_forward_mode(x: Array, argument: str) -> Array:
    """Returns ``x``, before a ``custom_vjp``. Forward mode is a TypeError; reverse mode is allowed.

    JAX begins both modes with the same rule, and here this rule marks the tangent. Reverse mode only transposes the
    mark. If JAX evaluates, batches or differentiates the mark, it is in forward mode.
    """
    return _identity.bind(x, argument=argument)


def _refuse_forward_mode(*_, argument: str):
    raise TypeError(
        f"With `{argument}` the loss has no forward mode (jax.jvp, jax.jacfwd, jax.linearize); "
        "reverse mode is there (jax.grad, jax.vjp, jax.jacrev)."
    )


def _mark_tangent(primals, tangents, *, argument: str):
    # The result is `x` itself, so second derivatives of what follows still work. `x` is also an operand of the mark, so
    # JAX differentiates the mark whenever it differentiates what follows: that is reverse over forward mode.
    (x,), (tangent,) = primals, tangents
    return x, _mark.bind(ad.instantiate_zeros(tangent), x, argument=argument)


_identity = Primitive("jax_rnnt_no_forward_mode")
_identity.def_impl(lambda x, *, argument: x)
_identity.def_abstract_eval(lambda x, *, argument: x)
mlir.register_lowering(_identity, lambda ctx, x, *, argument: [x])
batching.defvectorized(_identity)
ad.primitive_jvps[_identity] = _mark_tangent

_mark = Primitive("jax_rnnt_forward_mode_tangent")
_mark.def_impl(_refuse_forward_mode)
_mark.def_abstract_eval(lambda tangent, x, *, argument: tangent)
mlir.register_lowering(_mark, _refuse_forward_mode)
batching.primitive_batchers[_mark] = _refuse_forward_mode
ad.primitive_jvps[_mark] = _refuse_forward_mode
ad.primitive_transposes[_mark] = lambda cotangent, tangent, x, *, argument: (cotangent, None)
