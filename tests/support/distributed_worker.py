"""One process of test_distributed.py. It trains a small transducer and writes losses and weights to a file.

    python distributed_worker.py OUT [PORT COUNT INDEX]

With PORT it is one of COUNT processes on this machine. Each process has two devices and its own part of every batch.
Without PORT it trains on one device. The test compares the other processes with this run.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_rnnt

STEPS, BATCH, FRAMES, LABELS, VOCABULARY = 20, 8, 7, 4, 6
CHANNELS, HIDDEN = 5, 16
BLANK, RATE = 0, 0.3


def start(arguments: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")
    if arguments:
        port, count, index = map(int, arguments)
        jax.config.update("jax_num_cpu_devices", 2)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=60)


def loss_of(weights, sound, frames, labels, label_lengths):
    encoder, embedding, joint = weights
    before = jnp.pad(labels, ((0, 0), (1, 0)), constant_values=BLANK)
    hidden = jnp.tanh((sound @ encoder)[:, :, None] + embedding[before][:, None])
    return jax_rnnt.rnnt_loss(hidden @ joint, labels, frames, label_lengths, blank=BLANK)


@jax.jit
def step(weights, *batch):
    loss, gradient = jax.value_and_grad(loss_of)(weights, *batch)
    return jax.tree.map(lambda w, g: w - RATE * g, weights, gradient), loss


def train(out: str) -> None:
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    divided, replicated = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    index, count = jax.process_index(), jax.process_count()
    mine = slice(index * BATCH // count, (index + 1) * BATCH // count)
    rng = np.random.default_rng(0)
    shapes = (CHANNELS, HIDDEN), (VOCABULARY, HIDDEN), (HIDDEN, VOCABULARY)
    weights = [rng.normal(size=shape).astype(np.float32) / shape[0] ** 0.5 for shape in shapes]
    weights = [jax.make_array_from_callback(w.shape, replicated, w.__getitem__) for w in weights]
    meaning = rng.normal(size=(VOCABULARY, CHANNELS))  # the sound of each label
    losses = []
    for _ in range(STEPS):
        labels = rng.integers(1, VOCABULARY, (BATCH, LABELS))
        sound = np.zeros((BATCH, FRAMES, CHANNELS))
        sound[:, :LABELS] = meaning[labels]
        batch = (
            (sound + 0.1 * rng.normal(size=sound.shape)).astype(np.float32),
            rng.integers(LABELS, FRAMES + 1, BATCH).astype(np.int32),
            labels.astype(np.int32),
            rng.integers(0, LABELS + 1, BATCH).astype(np.int32),
        )
        parts = (jax.make_array_from_process_local_data(divided, a[mine], a.shape) for a in batch)
        weights, loss = step(weights, *parts)
        losses.append(float(loss))
    flat = [np.asarray(w.addressable_data(0)).ravel() for w in weights]
    np.savez(out, losses=losses, weights=np.concatenate(flat))
    print(
        f"process {index} of {count}, {jax.device_count()} devices, {jax_rnnt.build_info()['implementations']}: "
        f"loss {losses[0]:.6f} to {losses[-1]:.6f} in {STEPS} steps",
        flush=True,
    )


if __name__ == "__main__":
    start(sys.argv[2:])
    train(sys.argv[1])
