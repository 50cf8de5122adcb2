"""A small transducer in Flax nnx: conformer encoder, stateless predictor, joint network.

Rows of a batch never mix (layer norms, no batch norms) and padded frames never reach valid ones, so an utterance has
the same logits alone, in any bucket and beside filler rows.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from speech_data import ALPHABET, BLANK, MELS, log_mel
from speech_loss import LOSSES, Objective
from speech_mesh import by_rows, over_vocabulary

CONTEXT = 2  # previous labels that the predictor sees


class Sizes(NamedTuple):
    width: int = 96
    layers: int = 2
    heads: int = 4
    kernel: int = 9  # encoder frames that one convolution sees
    joint: int = 128
    dropout: float = 0.1


def feed_forward(width: int, rngs: nnx.Rngs) -> nnx.Sequential:
    norm, expand = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 4 * width, rngs=rngs)
    return nnx.Sequential(norm, expand, nnx.silu, nnx.Linear(4 * width, width, rngs=rngs))


class Convolution(nnx.Module):
    """Gated depthwise convolution over time."""

    def __init__(self, width: int, kernel: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.gate = nnx.Linear(width, 2 * width, rngs=rngs)
        self.taps = nnx.Param(jax.random.normal(rngs.params(), (kernel, width)) / kernel**0.5)
        self.middle_norm = nnx.LayerNorm(width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:
        x = jnp.where(valid[..., None], nnx.glu(self.gate(self.norm(x))), 0)
        # A sum of shifted arrays, which XLA fuses into one loop; its convolution is slow on the CPU.
        kernel, time = self.taps.shape[0], x.shape[1]
        padded = jnp.pad(x, ((0, 0), (kernel // 2, kernel - 1 - kernel // 2), (0, 0)))
        mixed = functools.reduce(jnp.add, [padded[:, k : k + time] * self.taps[k] for k in range(kernel)])
        return self.out(nnx.silu(self.middle_norm(mixed)))


class ConformerBlock(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        width = sizes.width
        self.first = feed_forward(width, rngs)
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(sizes.heads, width, decode=False, rngs=rngs)
        self.convolution = Convolution(width, sizes.kernel, rngs)
        self.second = feed_forward(width, rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(sizes.dropout)

    def __call__(self, x: jax.Array, valid: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        dropout = functools.partial(self.dropout, deterministic=rngs is None, rngs=rngs)
        x = x + dropout(self.first(x)) / 2
        x = x + self.attention(self.attention_norm(x), mask=valid[:, None, None, :])
        x = x + dropout(self.convolution(x, valid))
        x = x + dropout(self.second(x)) / 2
        return self.norm(x)


class Joint(nnx.Module):
    """Projected encoder frames and predictions, broadcast against each other, to logits [..., classes]."""

    def __init__(self, width: int, classes: int, rngs: nnx.Rngs):
        self.output = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, frame: jax.Array, prediction: jax.Array) -> jax.Array:
        nodes = frame + prediction
        hidden = jnp.tanh(nodes.reshape(-1, nodes.shape[-1]))  # XLA transposes rows that are not flat on a GPU
        rows = over_vocabulary(self.output, jax.lax.optimization_barrier(hidden))  # and takes tanh into the product
        return rows.reshape(*nodes.shape[:-1], -1)


class Transducer(nnx.Module):
    def __init__(self, sizes: Sizes, rngs: nnx.Rngs, objective: Objective = LOSSES["rnnt"]):
        self.objective = objective
        self.project = nnx.Linear(objective.stack * MELS, sizes.width, rngs=rngs)
        self.blocks = nnx.List([ConformerBlock(sizes, rngs) for _ in range(sizes.layers)])
        self.embedding = nnx.Embed(len(ALPHABET), sizes.joint, rngs=rngs)
        self.predictor = nnx.Linear(CONTEXT * sizes.joint, sizes.joint, rngs=rngs)
        self.encoder_projection = nnx.Linear(sizes.width, sizes.joint, rngs=rngs)
        self.predictor_projection = nnx.Linear(sizes.joint, sizes.joint, use_bias=False, rngs=rngs)
        self.join = Joint(sizes.joint, objective.classes, rngs)
        if objective.joint == "pruned":
            self.simple_encoder = nnx.Linear(sizes.joint, objective.classes, rngs=rngs)
            self.simple_predictor = nnx.Linear(sizes.joint, objective.classes, rngs=rngs)

    def encode(self, audio: jax.Array, samples: jax.Array, rngs: nnx.Rngs | None = None) -> tuple:
        """Audio [B, N] with lengths [B] to frames [B, T, joint] with lengths [B]; `rngs` switches dropout on."""
        features, stack = by_rows(log_mel, audio, samples), self.objective.stack
        batch, time = len(features), features.shape[1] // stack
        x = self.project(features[:, : time * stack].reshape(batch, time, stack * MELS))
        lengths = self.objective.frames(samples)
        valid = jnp.arange(time)[None, :] < lengths[:, None]
        for block in self.blocks:
            x = block(x, valid, rngs)
        return self.encoder_projection(x), lengths

    def predict(self, context: jax.Array) -> jax.Array:
        """The last labels [..., CONTEXT], blank where there are none yet, to [..., joint]."""
        embedded = self.embedding(context).reshape(*context.shape[:-1], -1)
        return self.predictor_projection(nnx.relu(self.predictor(embedded)))

    def predict_all(self, labels: jax.Array) -> jax.Array:
        """Labels [B, U] to predictions [B, U + 1, joint]: what is known before each label, and behind the last."""
        width = labels.shape[1] + 1
        history = jnp.pad(labels, ((0, 0), (CONTEXT, 0)), constant_values=BLANK)
        return self.predict(jnp.stack([history[:, k : k + width] for k in range(CONTEXT)], axis=-1))
