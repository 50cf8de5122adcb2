"""A small transducer in Flax nnx: conformer encoder, stateless predictor, joint network.

Rows of a batch never mix (layer norms, no batch norms) and padded frames never reach valid ones, so an utterance has
the same logits alone, in any bucket and beside filler rows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from speech_corpus import BLANK, VOCABULARY
from speech_features import HOP, MELS, SAMPLE_RATE, WINDOW, Lengths, log_mel, num_frames
from speech_mesh import axes_of_rows, by_rows, over_vocabulary
from speech_objective import PLAIN, STACK, Objective

import jax_rnnt

CONTEXT = 2  # previous labels that the predictor sees
SHORTEST = WINDOW + (STACK - 1) * HOP  # samples of audio that make one encoder frame


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int = 96
    layers: int = 2
    heads: int = 4
    kernel: int = 9  # encoder frames that one convolution sees
    joint: int = 128
    dropout: float = 0.1


def encoder_frames(samples: Lengths, stack: int = STACK) -> Lengths:
    """Encoder frames of so many samples."""
    return num_frames(samples) // stack


class FeedForward(nnx.Module):
    def __init__(self, width: int, dropout: float, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        return self.dropout(self.contract(nnx.silu(self.expand(self.norm(x)))), deterministic=rngs is None, rngs=rngs)


class Convolution(nnx.Module):
    """Gated depthwise convolution over time."""

    def __init__(self, width: int, kernel: int, dropout: float, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.gate = nnx.Linear(width, 2 * width, rngs=rngs)
        self.taps = nnx.Param(jax.random.normal(rngs.params(), (kernel, width)) / kernel**0.5)
        self.middle_norm = nnx.LayerNorm(width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: jax.Array, valid: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = jnp.where(valid[..., None], nnx.glu(self.gate(self.norm(x))), 0)
        # A sum of shifted arrays, which XLA fuses into one loop.
        kernel, time = self.taps.shape[0], x.shape[1]
        padded = jnp.pad(x, ((0, 0), (kernel // 2, kernel - 1 - kernel // 2), (0, 0)))
        mixed = functools.reduce(jnp.add, [padded[:, k : k + time] * self.taps[k] for k in range(kernel)])
        return self.dropout(self.out(nnx.silu(self.middle_norm(mixed))), deterministic=rngs is None, rngs=rngs)


class ConformerBlock(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        width, dropout = sizes.width, sizes.dropout
        self.first = FeedForward(width, dropout, rngs)
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(sizes.heads, width, decode=False, rngs=rngs)
        self.convolution = Convolution(width, sizes.kernel, dropout, rngs)
        self.second = FeedForward(width, dropout, rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, x: jax.Array, valid: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = x + self.first(x, rngs) / 2
        x = x + self.attention(self.attention_norm(x), mask=valid[:, None, None, :])
        x = x + self.convolution(x, valid, rngs)
        x = x + self.second(x, rngs) / 2
        return self.norm(x)


class Encoder(nnx.Module):
    """Stacked log-mel frames through conformer blocks. The convolutions tell the attention what is near."""

    def __init__(self, sizes: Sizes, stack: int, rngs: nnx.Rngs):
        self.stack = stack
        self.project = nnx.Linear(stack * MELS, sizes.width, rngs=rngs)
        blocks = [ConformerBlock(sizes, rngs) for _ in range(sizes.layers)]
        self.blocks = nnx.List(blocks) if hasattr(nnx, "List") else blocks  # until flax 0.12 a plain list is a module's

    def __call__(
        self, audio: jax.Array, samples: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Audio [B, N] with lengths [B] to encoder frames [B, T, width] with lengths [B]."""
        features, _ = by_rows(log_mel, audio, samples)
        lengths = encoder_frames(samples, self.stack)
        time = features.shape[1] // self.stack
        x = self.project(features[:, : time * self.stack].reshape(features.shape[0], time, self.stack * MELS))
        valid = jnp.arange(time)[None, :] < lengths[:, None]
        for block in self.blocks:
            x = block(x, valid, rngs)
        return x, lengths


class Joint(nnx.Module):
    def __init__(self, width: int, classes: int, rngs: nnx.Rngs):
        self.output = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, frame: jax.Array, prediction: jax.Array) -> jax.Array:
        """Projected encoder frames and predictions, broadcast against each other, to logits [..., classes].

        On a mesh with an axis "model" there may be more classes, whose logits are -inf.
        """
        return over_vocabulary(self.output, jnp.tanh(frame + prediction))


class Transducer(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs, objective: Objective = PLAIN):
        self.objective = objective
        self.encoder = Encoder(sizes, objective.stack, rngs)
        self.embedding = nnx.Embed(VOCABULARY, sizes.joint, rngs=rngs)
        self.predictor = nnx.Linear(CONTEXT * sizes.joint, sizes.joint, rngs=rngs)
        self.encoder_projection = nnx.Linear(sizes.width, sizes.joint, rngs=rngs)
        self.predictor_projection = nnx.Linear(sizes.joint, sizes.joint, use_bias=False, rngs=rngs)
        self.join = Joint(sizes.joint, objective.classes, rngs)
        if objective.loss == "pruned":
            self.simple_encoder = nnx.Linear(sizes.joint, objective.classes, rngs=rngs)
            self.simple_predictor = nnx.Linear(sizes.joint, objective.classes, rngs=rngs)

    @property
    def seconds_per_frame(self) -> float:
        return self.objective.stack * HOP / SAMPLE_RATE

    def predict(self, context: jax.Array) -> jax.Array:
        """The last labels [..., CONTEXT], blank where there are none yet, to [..., joint]."""
        embedded = self.embedding(context).reshape(*context.shape[:-1], -1)
        return self.predictor_projection(nnx.relu(self.predictor(embedded)))

    def not_yet_joined(self, frames: jax.Array, predictions: jax.Array) -> jax_rnnt.JointLogits:
        """The logits of frames [B, T, joint] and predictions [B, U + 1, joint], which the loss makes in tiles."""
        joint = jax_rnnt.nnx_joint(self.join)
        return jax_rnnt.JointLogits(*joint, frames, predictions, batch_axis_names=axes_of_rows(len(frames)))

    def simple_parts(self, frames: jax.Array, predictions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T, classes] and [B, U + 1, classes], whose sums are the logits of the simple loss."""
        return self.simple_encoder(frames), self.simple_predictor(predictions)

    def parts(
        self, audio: jax.Array, samples: jax.Array, labels: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Audio [B, N], samples [B], labels [B, U] to frames [B, T, joint], predictions [B, U + 1, joint] and logit
        lengths [B].

        `rngs` switches dropout on.
        """
        frames, lengths = self.encoder(audio, samples, rngs)
        width = labels.shape[1] + 1
        history = jnp.pad(labels, ((0, 0), (CONTEXT, 0)), constant_values=BLANK)
        context = jnp.stack([history[:, k : k + width] for k in range(CONTEXT)], axis=-1)  # [B, U + 1, CONTEXT]
        return self.encoder_projection(frames), self.predict(context), lengths

    def __call__(
        self, audio: jax.Array, samples: jax.Array, labels: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Logits [B, T, U + 1, classes] and logit lengths [B]; see `parts`."""
        frames, predictions, lengths = self.parts(audio, samples, labels, rngs)
        return self.join(frames[:, :, None], predictions[:, None]), lengths
