"""Times the losses of two models beside dense JAX, joint networks included, interleaved in one run, with their memory.

python benchmarks/two_models.py
python benchmarks/two_models.py --large    # only the memory of 18.4 GiB of logits of each model, which never exist

Both models are trained by this script, the teacher for twice as many steps. A side computes the divergence and its
gradient with respect to the student's parameters and inputs, or the student's logits; with "both" those of both models.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from cases import ragged, sizes
from clock import compiled, interleaved
from joint import CODE, inputs_of_joint, joint, new_model, relative_error, trained, utterances

import jax_rnnt

LOSS = jax_rnnt.RNNTLoss()
LEAST = 1e-4  # occupancies below count as 0


def models(shape: tuple[int, ...], steps: int):
    """The operands of the joint networks of a student and its teacher, and the labels."""
    b, t, u, d, v = shape
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(v, CODE)).astype(np.float32)
    codes[:, 0] = np.where(np.arange(v) % 2, 6, -6)
    both = []
    for seed, count in ((1, steps // 2), (2, steps)):
        of_model = np.random.default_rng(seed)
        model, value = trained(new_model(of_model, codes, d), of_model, codes, count)
        print(f"{count} steps: {value:.2f} nats per label", flush=True)
        both.append(model)
    frames, labels = utterances(rng, codes, b, t, u)
    return *((m["joint"], *inputs_of_joint(m, codes, frames, labels)) for m in both), jnp.asarray(labels)


def tiles(model):
    return jax_rnnt.JointLogits(joint, *model)


def dense(model):
    params, encoded, predicted = model
    return joint(params, encoded[:, :, None], predicted[:, None])


def naive(student, teacher, labels, t_b, u_b, weights, both: bool = False):
    """What one would write in JAX, of two dense arrays."""
    log_p, log_q = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    stop = jax.lax.stop_gradient
    values = jnp.sum(jnp.exp(stop(log_q)) * (stop(log_q) - log_p), axis=-1)
    if both:
        values = (values + jnp.sum(jnp.exp(stop(log_p)) * (stop(log_p) - log_q), axis=-1)) / 2
    _, frames, positions = values.shape
    inside = jnp.arange(frames)[None, :, None] < t_b[:, None, None]
    inside &= jnp.arange(positions)[None, None] <= u_b[:, None, None]
    w = jnp.where(inside, weights, 0)
    return jnp.mean(jnp.sum(w * values, axis=(1, 2)) / jnp.sum(w, axis=(1, 2)))


def ours(student, teacher, *batch, weights, both: bool = False):
    call = jax_rnnt.consistency_loss if both else jax_rnnt.distillation_loss
    return call(LOSS, student, teacher, *batch, node_weights=weights)


def occupancies(model, *batch):
    _, posteriors = jax_rnnt.lattice_posteriors(*jax_rnnt.alignment.loss_lattice(LOSS, tiles(model), *batch))
    occupancy = posteriors.sum(axis=-1)
    return jnp.where(occupancy < LEAST, 0, occupancy)


def sides(labels):
    """name: a function of (student, teacher, T_b, U_b, weights), each with what it makes of the two models."""

    def of(compare, make, both: bool = False):
        def run(student, teacher, t_b, u_b, weights):
            return compare(make(student), make(teacher), labels, t_b, u_b, weights=weights, both=both)

        return jax.value_and_grad(run, (0, 1) if both else 0)

    def cost(student, teacher, t_b, u_b, weights):
        return jax_rnnt.rnnt_loss(tiles(student), labels, t_b, u_b)

    return {
        "rnnt_loss of the student": jax.value_and_grad(cost),
        "distillation: naive": of(naive, dense),
        "distillation: tiles": of(ours, tiles),
        "distillation: tiles, weights > 1e-4": of(ours, tiles),
        "consistency: naive": of(naive, dense, both=True),
        "consistency: tiles": of(ours, tiles, both=True),
        "arrays: naive": of(naive, lambda logits: logits),
        "arrays: tiles": of(ours, lambda logits: logits),
    }


def compare(kind: str, shape: tuple[int, ...], student, teacher, labels, rounds: int) -> None:
    b, t, u, *_ = shape
    full = np.full(b, t, np.int32), np.full(b, u, np.int32)
    lengths = full if kind == "full" else ragged(np.random.default_rng(1), b, t, u)
    ones, weights = jnp.ones((b, t, u + 1)), jax.jit(occupancies)(teacher, labels, *lengths)
    logits = tuple(jax.jit(dense)(model) for model in (student, teacher))
    calls, memory = {}, {}
    for name, side in sides(labels).items():
        two = logits if name.startswith("arrays") else (student, teacher)
        calls[name], memory[name], _ = compiled(side, *two, *lengths, weights if "weights" in name else ones)
    for name in ("distillation", "consistency", "arrays"):
        error = relative_error(calls[f"{name}: tiles"]()[1], calls[f"{name}: naive"]()[1])
        assert error < 1e-4, (name, error)
    nodes = int(np.sum(lengths[0] * (lengths[1] + 1)))
    print(f"\n{kind}: {nodes} nodes, {int((weights > 0).sum()) / nodes:.1%} of them have an occupancy above {LEAST}")
    times = interleaved(calls, rounds)
    for name, x in times.items():
        base = name.split(":")[0] + ": naive"
        shares = f"{x.median / times[base].median:.2f} | {memory[name] / memory[base]:.1%}" if base in times else " | "
        print(
            f"| {name} | {1e3 * x.median:.0f} | {1e3 * min(x):.0f} | {memory[name] / 2**20:.1f} | {shares} |",
            flush=True,
        )


def large() -> None:
    b, t, u, d, v = 16, 500, 150, 512, 4096
    model = {"kernel": jax.ShapeDtypeStruct((d, v), jnp.float32), "bias": jax.ShapeDtypeStruct((v,), jnp.float32)}
    inputs = [jax.ShapeDtypeStruct((b, n, d), jnp.float32) for n in (t, u + 1)]
    lengths = [jax.ShapeDtypeStruct((b,), jnp.int32)] * 2
    weights = jax.ShapeDtypeStruct((b, t, u + 1), jnp.float32)
    every = sides(jnp.ones((b, u), jnp.int32))
    for name in ("distillation: tiles", "consistency: tiles", "distillation: naive", "consistency: naive"):
        step = jax.jit(every[name]).lower((model, *inputs), (model, *inputs), *lengths, weights).compile()
        print(f"| {name} | {step.memory_analysis().temp_size_in_bytes / 2**20:.0f} MiB |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", type=sizes, default="8x200x50x256x500", help="B x T x U x D x V")
    parser.add_argument("--steps", type=int, default=300, help="of the teacher's training")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax_rnnt.build_info()['simd']}, medians of {arguments.rounds} rounds", flush=True)
    if arguments.large:
        return large()
    models_and_labels = models(arguments.shape, arguments.steps)
    print("\n| side | median, ms | minimum, ms | temporaries, MiB | time / naive | memory / naive |")
    for kind in ("full", "ragged"):
        compare(kind, arguments.shape, *models_and_labels, arguments.rounds)


if __name__ == "__main__":
    main()
