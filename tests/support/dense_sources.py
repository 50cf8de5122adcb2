"""Sources of logits that are made from a dense array, inside of a function that JAX transforms."""

import jax.numpy as jnp
from losses import T, U
from sources import KEPT
from table_joint import joint_logits

import jax_rnnt


def packed(x, first, t_b, u_b):
    b, frames, _, width = x.shape
    u = jnp.broadcast_to(jnp.arange(U + 1.0)[None, :, None], (b, U + 1, 1))
    rows = (b if isinstance(b, int) else 4) * T * (U + 1)
    frame, position = jax_rnnt.PackedLogits.pack(x.reshape(b, frames, (U + 1) * width), u, t_b, u_b, num_rows=rows)
    place = position.astype(jnp.int32)[:, :, None]
    rows = jnp.take_along_axis(frame.reshape(-1, U + 1, width), place, axis=1)[:, 0]
    return jax_rnnt.PackedLogits(rows, t_b, u_b, num_frames=frames, num_labels=U)


def pruned(x, first, t_b, u_b):
    place = jnp.minimum(first[:, :, None] + jnp.arange(KEPT, dtype=jnp.int32)[None, None], U)
    return jax_rnnt.PrunedLogits(jnp.take_along_axis(x, place[..., None], axis=2), first, num_labels=U)


def additive(x, first, t_b, u_b):
    return jax_rnnt.AdditiveLogits(x[:, :, 1], x[:, 0])


def tiled(x, first, t_b, u_b):
    return joint_logits(x, gradient_budget=1e-12)


SOURCES = (packed, pruned, additive)
