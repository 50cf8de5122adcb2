"""Checks while tracing: of arrays (types, ranks, shapes) and of static options."""

from jax_rnnt.checks.arrays import (
    Shaped,
    array,
    as_array,
    as_integers,
    exceeds,
    floating,
    integer,
    is_symbolic,
    lengths,
    loss_arguments,
    on_host,
    rank,
    shape,
    to_int32,
)
from jax_rnnt.checks.static import boolean, described, is_tracer, number, static, static_index, static_integers

__all__ = [
    "Shaped",
    "array",
    "as_array",
    "as_integers",
    "boolean",
    "described",
    "exceeds",
    "floating",
    "integer",
    "is_symbolic",
    "is_tracer",
    "lengths",
    "loss_arguments",
    "number",
    "on_host",
    "rank",
    "shape",
    "static",
    "static_index",
    "static_integers",
    "to_int32",
]
