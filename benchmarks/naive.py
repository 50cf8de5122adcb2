"""The loss as a user of JAX first writes it: log_softmax, the textbook recursion as two scans, and autodiff."""

import jax
import jax.numpy as jnp
from jax import Array, lax


def lattice_cost(log_probs: Array, logit_lengths: Array, target_lengths: Array) -> Array:
    """[B, T, U+1, 2] -> [B]: alpha[t, u] = logaddexp(alpha[t-1, u] + blank[t-1, u], alpha[t, u-1] + label[t, u-1])."""
    blank, label = jnp.moveaxis(log_probs, 1, 0)[..., 0], jnp.moveaxis(log_probs[:, :, :-1], 1, 0)[..., 1]
    zero = jnp.zeros_like(label[0, :, :1])
    first = jnp.concatenate([zero, jnp.cumsum(label[0], axis=-1)], axis=-1)

    def frame(alpha, inputs):
        blank_before, label_here = inputs
        stay = alpha + blank_before

        def node(left, inputs):
            from_below, step = inputs
            value = jnp.logaddexp(from_below, left + step)
            return value, value

        _, rest = lax.scan(node, stay[:, 0], (stay[:, 1:].T, label_here.T))
        alpha = jnp.concatenate([stay[:, :1], rest.T], axis=-1)
        return alpha, alpha

    _, rest = lax.scan(frame, first, (blank[:-1], label[1:]))
    alpha = jnp.concatenate([first[None], rest])
    example = jnp.arange(log_probs.shape[0])
    last = (logit_lengths - 1, example, target_lengths)
    return -(alpha[last] + blank[last])


def rnnt_loss(logits: Array, targets: Array, logit_lengths: Array, target_lengths: Array) -> Array:
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    index = jnp.pad(targets, ((0, 0), (0, 1)))[:, None, :, None]
    label = jnp.take_along_axis(log_probs, index, axis=-1)
    return lattice_cost(jnp.concatenate([log_probs[..., -1:], label], axis=-1), logit_lengths, target_lengths)
