"""Operation 1 on the rows of a joint network, forward and backward, a tile of nodes at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jax_rnnt.logits.node_results import results_of_nodes
from jax_rnnt.logits.row_norms import left_out, row_norms
from jax_rnnt.logits.tiles import compiled_once, over_tiles_of
from jax_rnnt.ops import arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import PADDING

if TYPE_CHECKING:
    from jax_rnnt.logits.joint import JointLogits


class Kept(NamedTuple):
    """The results of the forward pass that the backward pass reads."""

    entries: Array  # [B, T, U+1, K']
    norm: Array  # [B, T, U+1, 2]


@compiled_once
def forward(parameters: ArcParameters, logits: JointLogits, labels: Array) -> tuple[Array, Array]:
    """``entries [B, T, U+1, K']`` and ``norm [B, T, U+1, 2]``."""
    rows, flat = logits._rows(), labels.reshape(-1)
    dtype = compute_dtype(logits.dtype)

    def tile(place: Array, real: Array) -> list[Array]:
        return arcs.forward(rows.read(place), jnp.where(real, flat[place], PADDING), **parameters.asdict())

    empty = [jnp.full((flat.size, len(parameters.columns) + 1), -jnp.inf, dtype), jnp.zeros((flat.size, 2), dtype)]
    entries, norm = results_of_nodes((rows,), logits.dtype, flat != PADDING, tile, empty)
    return entries.reshape(*labels.shape, entries.shape[-1]), norm.reshape(*labels.shape, 2)


@compiled_once
def backward(
    parameters: ArcParameters, logits: JointLogits, labels: Array, kept: Kept, cotangent: Array, bound: Array | None
) -> JointLogits:
    rows, flat = logits._rows(), labels.reshape(-1)
    norm, ct = kept.norm.reshape(flat.size, 2), cotangent.reshape(flat.size, cotangent.shape[-1])
    limit = None if bound is None else bound.reshape(-1)
    lower, upper = row_norms(kept.entries.reshape(ct.shape), flat, ct, parameters)
    asked = (flat != PADDING) & (upper != 0)
    if logits.gradient_budget > 0:
        asked &= ~left_out(logits.gradient_budget, lower, upper, asked, labels.shape)
    rows = rows.over(asked)

    def tile(total, place: Array, real: Array):
        logits_of_tile, add = rows.vjp(place, real)
        optional = () if limit is None else (limit[place],)
        (of_rows,) = arcs.backward(
            logits_of_tile,
            jnp.where(real, flat[place], PADDING),
            norm[place],
            ct[place],
            *optional,
            clipped=limit is not None,
            **parameters.asdict(),
        )
        return add(total, of_rows)

    total: Any = over_tiles_of((rows,), logits.dtype, asked, tile, rows.zeros())  # of the kind that `rows` has
    return rows.gradient(total)
