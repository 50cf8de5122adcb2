"""Times JointLogits beside the dense loss with the same joint network, interleaved in one run, and measures its memory.

python benchmarks/joint.py
python benchmarks/joint.py --rounds 7 --shapes 8x200x50x256x500 --models random,trained
python benchmarks/joint.py --large    # 19.8 GB of logits that never exist

The script trains the trained model itself. An utterance is a sequence of random labels. A frame is the code of a label
with noise, or only noise. The timed utterances are not those of the training.
"""

import argparse
import functools
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from cases import ragged, sizes
from clock import compiled, interleaved

import jax_rnnt

SHAPES = "8x200x50x256x500,4x300x60x512x1024,8x150x40x256x28,4x200x40x512x4096"
BUDGET = 1e-5
CODE = 64  # numbers in a frame, and in the code of a label


def joint(params, e, p):
    return jnp.tanh(e + p) @ params["kernel"] + params["bias"]


# --- a model and what it was trained on -------------------------------------------------------------------------------


def utterances(rng: np.random.Generator, codes: np.ndarray, b: int, t: int, u: int) -> tuple[np.ndarray, np.ndarray]:
    """The frames [b, t, CODE] and the labels [b, u] that they contain, in order, each at a frame of its own.

    Even and odd labels alternate. So the last label tells whether the label of a frame was already emitted.
    """
    labels = (2 * rng.integers(0, (len(codes) - 1) // 2, (b, u)) + np.arange(u) % 2).astype(np.int32)
    frames = 0.3 * rng.normal(size=(b, t, CODE))
    for row in range(b):
        at = np.sort(rng.choice(t, u, replace=False))
        frames[row, at] += codes[labels[row]]
    return frames.astype(np.float32), labels


def inputs_of_joint(model, codes, frames, labels):
    previous = jnp.pad(jnp.asarray(codes)[labels], ((0, 0), (1, 0), (0, 0)))
    return frames @ model["encoder"], previous @ model["predictor"]


def new_model(rng: np.random.Generator, codes: np.ndarray, d: int):
    """A new model. The joint's kernel starts from the codes of the labels, as with tied embeddings."""
    encoder, predictor = (jnp.asarray(rng.normal(size=(CODE, d)), jnp.float32) / 24 for _ in range(2))
    kernel = encoder.T @ codes.T * (100 / d)
    return {"encoder": encoder, "predictor": predictor, "joint": {"kernel": kernel, "bias": jnp.zeros(len(codes))}}


def trained(model, rng: np.random.Generator, codes: np.ndarray, steps: int):
    """Trains the model with Adam, each step on new utterances. Returns the model and its last loss per label."""

    def loss(model, frames, labels):
        logits = jax_rnnt.JointLogits(joint, model["joint"], *inputs_of_joint(model, codes, frames, labels))
        b, u = labels.shape
        return jax_rnnt.rnnt_loss(logits, labels, jnp.full(b, frames.shape[1]), jnp.full(b, u)) / u

    @jax.jit
    def step(model, moments, i, frames, labels):
        value, gradient = jax.value_and_grad(loss)(model, frames, labels)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
        second = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g * g, moments[1], gradient)
        rate = 3e-3 * jnp.sqrt(1 - 0.99**i) / (1 - 0.9**i)
        model = jax.tree.map(lambda x, m, s: x - rate * m / (jnp.sqrt(s) + 1e-8), model, first, second)
        return model, (first, second), value

    zeros = jax.tree.map(jnp.zeros_like, model)
    moments, value = (zeros, zeros), jnp.nan
    for i in range(steps):
        model, moments, value = step(model, moments, i + 1.0, *utterances(rng, codes, 8, 40, 10))
    return model, float(value)


def operands(kind: str, shape: tuple[int, ...], steps: int):
    """The arrays that the losses are timed on: the joint's parameters, encoded, predicted, labels."""
    b, t, u, d, v = shape
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(v, CODE)).astype(np.float32)
    codes[:, 0] = np.where(np.arange(v) % 2, 6, -6)
    model = new_model(rng, codes, d)
    if kind != "random":
        model, loss = trained(model, rng, codes, steps)
        print(f"trained {steps} steps at D = {d}, V = {v}: loss {loss:.3f} per label at the end", flush=True)
    frames, labels = utterances(rng, codes, b, t, u)
    encoded, predicted = inputs_of_joint(model, codes, frames, labels)
    return model["joint"], encoded, predicted, jnp.asarray(labels)


# --- what is timed ----------------------------------------------------------------------------------------------------


def dense(params, encoded, predicted, labels, t_b, u_b):
    return jax_rnnt.rnnt_loss(joint(params, encoded[:, :, None], predicted[:, None]), labels, t_b, u_b)


def fused(params, encoded, predicted, labels, t_b, u_b, budget: float = 0.0):
    logits = jax_rnnt.JointLogits(joint, params, encoded, predicted, gradient_budget=budget)
    return jax_rnnt.rnnt_loss(logits, labels, t_b, u_b)


def products(nodes: int, d: int, v: int):
    """A call of the four matrix products of these nodes: the logits twice, and the gradients of both factors."""
    rng = np.random.default_rng(2)
    hidden, rows = (jnp.asarray(rng.normal(size=(nodes, n)), jnp.float32) for n in (d, v))
    kernel = jnp.asarray(rng.normal(size=(d, v)), jnp.float32)

    @jax.jit
    def run(hidden, rows, kernel):
        again = jax.lax.optimization_barrier(hidden)
        return (hidden @ kernel).sum(), (again @ kernel).sum(), rows @ kernel.T, hidden.T @ rows

    return lambda: run(hidden, rows, kernel)


def relative_error(actual, exact) -> float:
    """The relative error in the L2 norm over all of the joint's parameters."""
    pairs = list(zip(jax.tree.leaves(actual), jax.tree.leaves(exact), strict=True))
    return float(np.sqrt(sum(np.sum((a - e) ** 2) for a, e in pairs) / sum(np.sum(e**2) for _, e in pairs)))


def compare(kind: str, lengths: str, shape: tuple[int, ...], arrays, rounds: int) -> None:
    b, t, u, *_ = shape
    full = np.full(b, t, np.int32), np.full(b, u, np.int32)
    t_b, u_b = full if lengths == "full" else ragged(np.random.default_rng(1), b, t, u)
    arguments = (*arrays, t_b, u_b)
    with_budget = functools.partial(fused, budget=BUDGET)
    steps = {name: jax.value_and_grad(f, (0, 1, 2)) for name, f in [("dense", dense), ("fused", fused)]}
    functions = steps | {"budget": jax.value_and_grad(with_budget, (0, 1, 2)), "dense loss": dense, "fused loss": fused}
    calls, memory = {}, {}
    for name, function in functions.items():
        calls[name], memory[name], _ = compiled(function, *arguments)
    live = int(np.sum(t_b * (u_b + 1)))
    times = interleaved(calls | {"products": products(live, shape[3], shape[4])}, rounds)
    ms = {name: 1e3 * x.median for name, x in times.items()}
    mib = {name: x / 2**20 for name, x in memory.items()}
    error = relative_error(calls["budget"]()[1][0], calls["fused"]()[1][0])
    print(
        f"| {'x'.join(map(str, shape))} | {kind} | {lengths} | {ms['dense']:.0f} / "
        f"{mib['dense']:.0f} | {ms['fused']:.0f} / {mib['fused']:.1f} | {ms['fused'] / ms['dense']:.2f} | "
        f"{ms['budget'] / ms['dense']:.2f} | {error:.0e} | {ms['fused'] / ms['products']:.2f} | "
        f"{ms['fused loss'] / ms['dense loss']:.2f} | {mib['fused'] / mib['dense']:.1%} |",
        flush=True,
    )


def large() -> None:
    """Runs one step on logits that would be too large for an array on this machine."""
    shape = b, t, u, _, v = 16, 500, 150, 512, 4096
    arrays = operands("random", shape, 0)
    call, memory, _ = compiled(
        jax.value_and_grad(fused, (0, 1, 2)), *arrays, *ragged(np.random.default_rng(1), b, t, u)
    )
    start = time.perf_counter()
    value, _ = jax.block_until_ready(call())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"(B, T, U, D, V) = {shape}, ragged: {4 * b * t * (u + 1) * v / 1e9:.1f} GB of logits; loss {value:.1f}, "
        f"{time.perf_counter() - start:.0f} s, temporaries {memory / 2**20:.0f} MiB, peak resident memory "
        f"{peak:.2f} GiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default=SHAPES, help="B x T x U x D x V, with commas between them")
    parser.add_argument("--models", default="random,trained")
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax_rnnt.build_info()['simd']}, medians of {arguments.rounds} rounds")
    if arguments.large:
        return large()
    titles = "shape (B, T, U, D, V) | logits of | lengths | dense, ms / MiB | fused, ms / MiB | fused / dense | "
    titles += f"budget {BUDGET:.0e} / dense | its error | fused / products | loss alone | memory"
    print(f"\n| {titles} |\n|---|---|---|{'--:|' * 8}", flush=True)
    for text in arguments.shapes.split(","):
        shape = sizes(text)
        for kind in arguments.models.split(","):
            arrays = operands(kind, shape, arguments.steps)
            for lengths in ("full", "ragged"):
                compare(kind, lengths, shape, arrays, arguments.rounds)


if __name__ == "__main__":
    main()
