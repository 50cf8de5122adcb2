"""Greedy transducer decoding of a whole batch in one compiled loop."""

import jax
import jax.numpy as jnp
from flax import nnx
from speech_corpus import BLANK
from speech_model import CONTEXT, Transducer


@nnx.jit(static_argnames="labels_per_frame")
def greedy_decode(
    model: Transducer, audio: jax.Array, samples: jax.Array, labels_per_frame: int = 5
) -> tuple[jax.Array, jax.Array]:
    """The most probable arc at every step, at most `labels_per_frame` labels before time moves on.

    In each turn of the loop every row either emits a label at its frame or moves to its next frame, so rows are at
    different frames and the loop ends with the slowest of them.

    Args:
        audio: float32 [B, N]. samples: int32 [B].

    Returns:
        labels int32 [B, T * labels_per_frame], blank behind the last one, and their number int32 [B].
    """
    frames, lengths = model.encoder(audio, samples)
    frames = model.encoder_projection(frames)
    rows = jnp.arange(audio.shape[0])
    most = frames.shape[1] * labels_per_frame

    def turn(state):
        time, emitted_here, context, labels, count = state
        going = time < lengths
        logits = model.join(frames[rows, jnp.minimum(time, frames.shape[1] - 1)], model.predict(context))
        best = jnp.argmax(logits, axis=-1).astype(labels.dtype)
        emit = going & (best != BLANK)
        labels = labels.at[rows, count].set(jnp.where(emit, best, BLANK))  # behind the end: dropped by XLA
        context = jnp.where(emit[:, None], jnp.concatenate([context[:, 1:], best[:, None]], axis=1), context)
        count = count + emit
        emitted_here = jnp.where(emit, emitted_here + 1, 0)
        advance = going & (~emit | (emitted_here == labels_per_frame))
        emitted_here = jnp.where(advance, 0, emitted_here)
        return time + advance, emitted_here, context, labels, count

    none = jnp.zeros_like(lengths)
    start = (
        none,
        none,
        jnp.full((audio.shape[0], CONTEXT), BLANK, jnp.int32),
        jnp.full((audio.shape[0], most), BLANK, jnp.int32),
        none,
    )
    *_, labels, count = jax.lax.while_loop(lambda state: jnp.any(state[0] < lengths), turn, start)
    return labels, count
