"""A transducer to copy: `python examples/recipe.py`. docs/recipe.md explains its parts and says what to replace.

Flax nnx in bfloat16, padded buckets, dropout in the encoder and in the joint network, gradient accumulation, warm-up,
checkpoints, one device or several, and greedy decoding with the word error rate.
"""

import argparse
import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_rnnt import JointLogits, RNNTLoss
from jax_rnnt.decoding import edit_distance, greedy_decode

BLANK, CLASSES = 0, 11  # the blank and ten words
FEATURES, SUBSAMPLING = 16, 4  # numbers of a frame, frames of an encoder frame
BUCKETS = ((48, 4), (96, 8))  # frames and words; each shape is compiled once
LOSS = RNNTLoss(blank=BLANK, reduction="sum")


class Batch(NamedTuple):
    features: jax.Array  # float32 [B, T, FEATURES]
    labels: jax.Array  # int32 [B, U]
    frames: jax.Array  # int32 [B]; an empty row has 0 frames and 0 words, and costs 0
    words: jax.Array  # int32 [B]


def utterances(seed: int):
    """Features [frames, FEATURES] and labels. A word is a sound of 5 to 9 frames; 0 to 3 frames of noise follow it."""
    sounds, rng = np.random.default_rng(0).normal(size=(CLASSES, FEATURES)), np.random.default_rng(seed)
    while True:
        labels = rng.integers(1, CLASSES, rng.integers(2, 9))
        lengths = np.stack([rng.integers(5, 10, len(labels)), rng.integers(0, 4, len(labels))], axis=1).ravel()
        x = np.repeat(np.stack([sounds[labels], 0 * sounds[labels]], axis=1).reshape(-1, FEATURES), lengths, axis=0)
        yield x + 0.3 * rng.normal(size=x.shape), labels


def batches(data, rows: int):
    """Batches of so many rows. An utterance goes into the first bucket that has room for it."""
    waiting: dict = {bucket: [] for bucket in BUCKETS}
    for x, labels in data:
        frames, words = bucket = next(b for b in BUCKETS if len(x) <= b[0] and len(labels) <= b[1])
        padded = np.zeros((frames, FEATURES), np.float32), np.zeros(words, np.int32)
        padded[0][: len(x)], padded[1][: len(labels)] = x, labels
        waiting[bucket].append((*padded, np.int32(len(x)), np.int32(len(labels))))
        if len(waiting[bucket]) == rows:
            yield Batch(*(np.stack(column) for column in zip(*waiting[bucket], strict=True)))
            waiting[bucket].clear()


class Block(nnx.Module):
    """A small conformer block: bfloat16, with parameters in float32."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        common = {"dtype": jnp.bfloat16, "rngs": rngs}
        self.norms = nnx.List([nnx.LayerNorm(width, **common) for _ in range(3)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, **common)
        self.convolution = nnx.Conv(width, width, (5,), feature_group_count=width, **common)
        self.expand, self.shrink = nnx.Linear(width, 4 * width, **common), nnx.Linear(4 * width, width, **common)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x: jax.Array, valid: jax.Array) -> jax.Array:  # [B, T, D] and [B, T]
        x = x + self.dropout(self.attention(self.norms[0](x), mask=valid[:, None, None]))
        x = x + self.dropout(self.convolution(jnp.where(valid[..., None], self.norms[1](x), 0)))
        return x + self.dropout(self.shrink(nnx.silu(self.expand(self.norms[2](x)))))


class Joint(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.output = nnx.Linear(width, CLASSES, dtype=jnp.bfloat16, rngs=rngs)

    def __call__(self, encoded: jax.Array, predicted: jax.Array) -> jax.Array:  # rows [N, D] to logits [N, V]
        return self.output(self.dropout(jnp.tanh(encoded + predicted)))


class Transducer(nnx.Module):
    def __init__(self, width: int, layers: int, rngs: nnx.Rngs):
        common = {"dtype": jnp.bfloat16, "rngs": rngs}
        self.width, self.subsample = width, nnx.Linear(SUBSAMPLING * FEATURES, width, **common)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(layers)])
        self.project = nnx.Linear(width, width, **common)
        self.embedding, self.cell = nnx.Embed(CLASSES, width, **common), nnx.LSTMCell(width, width, **common)
        self.joint = Joint(width, rngs)

    def encode(self, batch: Batch) -> tuple[jax.Array, jax.Array]:  # [B, T / SUBSAMPLING, D] and lengths [B]
        x = self.subsample(batch.features.reshape(len(batch.frames), -1, SUBSAMPLING * FEATURES))
        lengths = -(-batch.frames // SUBSAMPLING)
        valid = jnp.arange(x.shape[1]) < lengths[:, None]
        for block in self.blocks:
            x = nnx.remat(Block.__call__)(block, x, valid)  # the backward pass computes the block once more
        return self.project(x), lengths

    def start(self, rows: int) -> tuple[jax.Array, jax.Array]:
        return (jnp.zeros((rows, self.width), jnp.bfloat16),) * 2

    def predict(self, state, label: jax.Array):  # one step of the predictor: labels [R] to its output [R, D]
        return self.cell(state, self.embedding(label))

    def cost(self, batch: Batch) -> jax.Array:
        encoded, lengths = self.encode(batch)
        before = jnp.pad(batch.labels, ((0, 0), (1, 0)), constant_values=BLANK)  # the label before each position
        _, predicted = jax.lax.scan(self.predict, self.start(len(before)), before.T)
        rows = encoded, predicted.swapaxes(0, 1)
        key = self.joint.dropout.rngs()
        logits = JointLogits.from_nnx(self.joint, *rows, dropout_key=key, batch_axis_names=("data",))
        return LOSS(logits, batch.labels, lengths, batch.words)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(graph: nnx.GraphDef, optimizer: optax.GradientTransformation, state: dict, stacked: Batch):
    """The mean cost of a word, and the next state. `stacked` holds A batches, [A, B, ...], whose gradients add up."""

    def accumulate(carry, batch):
        def cost(params):
            model = nnx.merge(graph, params, carry[0], copy=True)
            return model.cost(batch), nnx.state(model, nnx.RngState)

        (value, streams), gradient = jax.value_and_grad(cost, has_aux=True)(state["params"])
        return (streams, jax.tree.map(jnp.add, carry[1], (value, gradient))), None

    zeros = jnp.float32(0), jax.tree.map(jnp.zeros_like, state["params"])
    (streams, sums), _ = jax.lax.scan(accumulate, (state["streams"], zeros), stacked)
    value, gradient = jax.tree.map(lambda x: x / jnp.sum(stacked.words), sums)
    updates, moments = optimizer.update(gradient, state["moments"], state["params"])
    return value, {"params": optax.apply_updates(state["params"], updates), "streams": streams, "moments": moments}


@functools.partial(jax.jit, static_argnums=0)
def word_errors(graph: nnx.GraphDef, state: dict, batch: Batch) -> jax.Array:
    """How many words greedy decoding gets wrong, [B]."""
    model = nnx.merge(graph, state["params"], state["streams"])
    model.eval()  # no dropout
    encoded, lengths = model.encode(batch)
    quiet, arrays = nnx.split(model)

    def predictor(arrays, state, label):
        return nnx.merge(quiet, arrays).predict(state, label)

    def joint(arrays, encoded, predicted):
        return nnx.merge(quiet, arrays).joint(encoded, predicted)

    found = greedy_decode(LOSS, predictor, joint, arrays, model.start(len(lengths)), encoded, lengths)
    return edit_distance(found.labels, batch.labels, found.lengths, batch.words)


def main(argv=None) -> tuple[list[float], float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"steps": 1000, "every": 100, "batch": 16, "accumulate": 2, "width": 64, "layers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"), help="of checkpoints; a later run continues")
    args = parser.parse_args(argv)
    graph, params, streams = nnx.split(Transducer(args.width, args.layers, nnx.Rngs(0)), nnx.Param, nnx.RngState)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, args.steps // 10, args.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))  # one device or several
    everywhere, rows, by_rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",), (None, "data")))
    start = {"params": params, "streams": streams, "moments": optimizer.init(params)}
    state, losses, rate = jax.device_put(start, everywhere), [], 1.0
    heldout = list(itertools.islice(batches(utterances(seed=1), 4 * args.batch), len(BUCKETS)))
    with jax.set_mesh(mesh), ocp.CheckpointManager(args.out.resolve()) as manager:
        done = manager.latest_step() or 0
        if done:
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
        training = itertools.islice(batches(utterances(seed=2), args.accumulate * args.batch), done, args.steps)
        for step, batch in enumerate(training, done + 1):
            stacked = jax.tree.map(lambda x: x.reshape(args.accumulate, args.batch, *x.shape[1:]), batch)
            value, state = train_step(graph, optimizer, state, jax.device_put(stacked, by_rows))
            losses.append(float(value))
            if step % args.every == 0 or step == args.steps:
                errors = [word_errors(graph, state, jax.device_put(batch, rows)) for batch in heldout]
                rate = sum(map(jnp.sum, errors)) / sum(batch.words.sum() for batch in heldout)
                print(f"step {step}: {losses[-1]:.3f} per word, word error rate {rate:.2%}")
                manager.save(step, args=ocp.args.StandardSave(state))
    return losses, float(rate)


if __name__ == "__main__":
    main()
