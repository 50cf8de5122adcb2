"""Says, when a custom call is lowered, whether its result should take the memory of an operand.

XLA knows no alias of a custom call that it may decline. Where there is one and the operand must be kept, XLA copies the
operand first; where there is none, it never lets the result take the operand's memory. So the choice is made here, by
where the operand comes from. An argument that the caller keeps is not written over. What the program itself has made is
written over, because it is large and rarely used again.
"""

import math

from jaxlib.mlir import ir

# Results stand where the operands of the same number do; those of a broadcast, where it adds dimensions of 1 only.
_SAME_MEMORY = (
    "stablehlo.reshape",
    "stablehlo.broadcast_in_dim",
    "stablehlo.optimization_barrier",
    "sdy.sharding_constraint",
)
_DONATED = ("tf.aliasing_output", "jax.buffer_donor")


def _entries(value: ir.Value) -> int:
    """Their number; 0 where it is known at run time only."""
    shape = ir.RankedTensorType(value.type)
    return math.prod(shape.shape) if shape.has_static_shape else 0


def worth_overwriting(value: ir.Value) -> bool:
    """False for an argument of the whole program that is not donated, and for another view of one."""
    while not isinstance(value.owner, ir.Block):
        operation = value.owner.operation
        if operation.name not in _SAME_MEMORY:
            return True
        view, value = value, operation.operands[ir.OpResult(value).result_number]
        if _entries(view) != _entries(value):
            return True
    function = value.owner.owner.operation
    if function.name != "func.func" or ir.StringAttr(function.attributes["sym_name"]).value != "main":
        return True  # what a loop carries, or the operand of a function, whose caller is not known here
    attributes = ir.ArrayAttr(function.attributes["arg_attrs"])[ir.BlockArgument(value).arg_number]
    return any(name in ir.DictAttr(attributes) for name in _DONATED)
