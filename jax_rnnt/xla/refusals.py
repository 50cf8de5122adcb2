"""Derivatives that there are not, refused in words: the errors of JAX itself name its machinery, not our arguments."""

import functools

import jax
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def no_second_order(x: Array, argument: str) -> Array:
    """``x`` itself, in the forward pass of a ``custom_vjp``; differentiating that pass is a TypeError."""
    return x


@no_second_order.defjvp
def _refuse_second_order(argument: str, primals, tangents):
    raise TypeError(f"With `{argument}` the loss has no second derivatives: its gradient can't be differentiated.")


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def no_forward_mode(x: Array, argument: str) -> Array:
    """``x`` itself, before a ``custom_vjp``; forward mode is a TypeError, and reverse mode passes.

    JAX begins both modes with the rule below. A tangent that is then evaluated, or differentiated, is forward mode's;
    reverse mode only transposes it.
    """
    return x


@no_forward_mode.defjvp
def _mark_tangent(argument: str, primals, tangents):
    # With `x` among its operands the mark is differentiated whenever what comes after it is: reverse over forward mode.
    return primals[0], _mark.bind(tangents[0], primals[0], argument=argument)


def _refuse_forward_mode(*_, argument: str):
    raise TypeError(
        f"With `{argument}` the loss has no forward mode (jax.jvp, jax.jacfwd, jax.linearize); "
        "reverse mode is there (jax.grad, jax.vjp, jax.jacrev)."
    )


def _batch(args, dims, **parameters):
    return _mark.bind(*args, **parameters), dims[0]


_mark = Primitive("jax_rnnt_no_forward_mode")
_mark.def_abstract_eval(lambda tangent, x, *, argument: tangent)
_mark.def_impl(_refuse_forward_mode)
mlir.register_lowering(_mark, _refuse_forward_mode)
ad.primitive_jvps[_mark] = _refuse_forward_mode
ad.primitive_transposes[_mark] = lambda cotangent, tangent, x, *, argument: (cotangent, None)
batching.primitive_batchers[_mark] = _batch
