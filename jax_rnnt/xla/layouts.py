"""The order of an array's dimensions in a TPU's memory, where XLA would choose one that makes a loop slow."""

from typing import Any

from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def first_is_major(x: Array) -> Array:
    """``x``. On a TPU its dimensions stand in memory in their order, from the major one to the minor one.

    Elsewhere, and in an exported program, XLA chooses the order: an exported program must not hold this constraint,
    because XLA gives no promise that later versions read it. It chooses the order of numbers of 64 bits too: XLA makes
    pairs of them on a TPU, and does not know how to do so here.
    """
    return _first_is_major.bind(x)


def _constrained(x: Array) -> Array:
    from jax.experimental import layout  # only programs for TPUs need it

    return layout.with_layout_constraint(x, layout.Layout(major_to_minor=tuple(range(x.ndim))))


def _lower_on_tpu(ctx: mlir.LoweringRuleContext, x: Any) -> Any:
    aval: Any = ctx.avals_in[0]
    if ctx.module_context.lowering_parameters.for_export or aval.dtype.itemsize == 8:
        return [x]
    return mlir.lower_fun(_constrained, multiple_results=False)(ctx, x)


_first_is_major = Primitive("jax_rnnt_first_is_major")
_first_is_major.def_impl(lambda x: x)
_first_is_major.def_abstract_eval(lambda x: x)
mlir.register_lowering(_first_is_major, lambda ctx, x: [x])
mlir.register_lowering(_first_is_major, _lower_on_tpu, platform="tpu")
batching.defvectorized(_first_is_major)
ad.deflinear2(_first_is_major, lambda cotangent, _: [cotangent])
