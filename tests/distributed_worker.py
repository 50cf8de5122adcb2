"""One process of the run in test_distributed.py: trains the example's model and writes losses and weights to a file.

    python distributed_worker.py OUT [PORT COUNT INDEX]

With PORT it is one of COUNT processes on this machine, each with two devices and its own part of every batch; without,
it is the run on one device that they are held to.
"""

import sys
from pathlib import Path

import jax

STEPS, BATCH, SAMPLES, LABELS = 20, 8, 8000, 6

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))


def start(arguments: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")
    if arguments:
        port, count, index = map(int, arguments)
        jax.config.update("jax_num_cpu_devices", 2)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=60)


def train(out: str) -> None:
    import numpy as np
    import optax
    from flax import nnx
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from speech_corpus import BLANK, VOCABULARY
    from speech_model import Sizes, Transducer

    import jax_rnnt

    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    divided, replicated = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    mine = slice(
        jax.process_index() * BATCH // jax.process_count(), (jax.process_index() + 1) * BATCH // jax.process_count()
    )
    model = Transducer(Sizes(width=16, layers=1, heads=2, kernel=3, joint=16, dropout=0.0), nnx.Rngs(0))
    graph, weights = nnx.split(model)
    # Attention does not depend on the bias of its keys: that gradient is rounding noise, which Adam would blow up to
    # steps of full size, different ones on one and on two processes. This eps is far above the noise.
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(2e-3, eps=1e-4))

    def loss_of(weights, audio, samples, labels, label_lengths):
        logits, logit_lengths = nnx.merge(graph, weights)(audio, samples, labels)
        return jax_rnnt.rnnt_loss(logits, labels, logit_lengths, label_lengths, blank=BLANK)

    @jax.jit
    def step(weights, state, *batch):
        loss, gradient = jax.value_and_grad(loss_of)(weights, *batch)
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    def everywhere(tree):
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(np.shape(x), replicated, np.asarray(x).__getitem__), tree
        )

    rng = np.random.default_rng(0)
    weights = everywhere(weights)
    state = everywhere(optimizer.init(weights))
    losses = []
    for _ in range(STEPS):
        labels = rng.integers(0, VOCABULARY - 1, (BATCH, LABELS))
        batch = (
            rng.normal(size=(BATCH, SAMPLES)).astype(np.float32),
            rng.integers(SAMPLES // 2, SAMPLES + 1, BATCH).astype(np.int32),
            (labels + (labels >= BLANK)).astype(np.int32),
            rng.integers(0, LABELS + 1, BATCH).astype(np.int32),
        )
        parts = (jax.make_array_from_process_local_data(divided, a[mine], a.shape) for a in batch)
        weights, state, loss = step(weights, state, *parts)
        losses.append(float(loss))
    flat = [np.asarray(w.addressable_data(0)).ravel() for w in jax.tree.leaves(weights)]
    np.savez(out, losses=losses, weights=np.concatenate(flat))
    info = jax_rnnt.build_info()["implementations"]
    print(
        f"process {jax.process_index()} of {jax.process_count()}, {jax.device_count()} devices, {info}: "
        f"loss {losses[0]:.6f} to {losses[-1]:.6f} in {STEPS} steps",
        flush=True,
    )


if __name__ == "__main__":
    start(sys.argv[2:])
    train(sys.argv[1])
