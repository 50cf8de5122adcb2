"""A joint network that looks its logits up in a table. So JointLogits can hold a dense array of any values, NaN too.

Its gradient with respect to `encoded` is then that with respect to the logits, element by element.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt


def look_up(params, e, p):
    """Returns row `p` of the table [U+1, W] in `e`, and reads no other row."""
    table = e.reshape(e.shape[0], -1, params["width"].shape[0])
    row = p.astype(jnp.int32)[:, :, None]
    return jnp.take_along_axis(table, row, axis=1)[:, 0]


def joint_logits(logits: jax.Array, **options) -> jax_rnnt.JointLogits:
    """Makes `logits` [B, T, U+1, W] the output of a joint network."""
    b, t, u1, w = logits.shape
    position = jnp.broadcast_to(jnp.arange(u1, dtype=logits.dtype)[None, :, None], (b, u1, 1))
    params = {"width": np.zeros(w, np.int32)}
    return jax_rnnt.JointLogits(look_up, params, logits.reshape(b, t, u1 * w), position, **options)
