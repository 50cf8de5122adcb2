"""Decides, when a custom call is lowered, whether its result should take the memory of an operand.

XLA has no alias of a custom call that it may decline. With an alias it copies an operand that must be kept. Without
one, the result never takes the memory of the operand. So this file decides, by where the operand comes from. An
argument that the caller keeps is not overwritten. An array that the program itself has computed is overwritten, because
it is large and rarely used again.
"""

import math

from jaxlib.mlir import ir

# Result number i of these operations is a view of operand number i. (Of a broadcast: if it only adds dimensions of 1.)
_SAME_MEMORY = (
    "stablehlo.reshape",
    "stablehlo.broadcast_in_dim",
    "stablehlo.optimization_barrier",
    "sdy.sharding_constraint",
)
_DONATED = ("tf.aliasing_output", "jax.buffer_donor")


def _entries(value: ir.Value) -> int:
    """The number of entries; 0 if it is known only at run time."""
    shape = ir.RankedTensorType(value.type)
    return math.prod(shape.shape) if shape.has_static_shape else 0


def worth_overwriting(value: ir.Value) -> bool:
    """False for an argument of the whole program that is not donated, and for a view of such an argument."""
    while not isinstance(value.owner, ir.Block):
        operation = value.owner.operation
        if operation.name not in _SAME_MEMORY:
            return True
        view, value = value, operation.operands[ir.OpResult(value).result_number]
        if _entries(view) != _entries(value):
            return True
    function = value.owner.owner.operation
    if function.name != "func.func" or ir.StringAttr(function.attributes["sym_name"]).value != "main":
        return True  # a value that a loop carries, or an argument of an inner function, whose caller is unknown here
    if "arg_attrs" not in function.attributes:
        return False
    attributes = ir.ArrayAttr(function.attributes["arg_attrs"])[ir.BlockArgument(value).arg_number]
    return any(name in ir.DictAttr(attributes) for name in _DONATED)
