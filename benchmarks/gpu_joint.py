"""Times JointLogits with an additive joint on a GPU beside dense logits of the same joint: loss and all gradients.

    python benchmarks/gpu_joint.py [--rounds 10] [--shapes 16x300x60x640x1024]

*Trained* logits are those of a model whose best path holds nearly all of the posterior; its utterances are ragged.
Memory is that of XLA's temporaries. For both sides in less time, set

    XLA_FLAGS="--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE,\
CONDITIONAL --xla_gpu_graph_min_graph_size=1"
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from cases import sizes
from clock import compiled, interleaved

import jax_rnnt

JOINT = jax_rnnt.additive_joint("tanh")
BUDGET = 1e-5
STRENGTH = 30  # of the votes of a trained model's hidden units


def operands(b: int, t: int, u: int, d: int, v: int, trained: bool):
    """Parameters, encoded and predicted in bfloat16, targets and lengths."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(d, v)) / np.sqrt(d)
    targets = rng.integers(1, v, (b, u)).astype(np.int32)
    encoded, predicted = rng.normal(size=(b, t, d)), rng.normal(size=(b, u + 1, d))
    frames, labels = np.full(b, t), np.full(b, u)
    if trained:
        frames, labels = rng.integers(t // 2, t + 1, b), rng.integers(2 * u // 5, min(u, t // 2) + 1, b)
        symbols = np.zeros((b, t), int)
        for row in range(b):  # a frame votes for the label that is spoken there, or for blank
            symbols[row, np.sort(rng.choice(frames[row], labels[row], replace=False))] = targets[row, : labels[row]]
        votes = kernel / np.linalg.norm(kernel, axis=0)
        encoded, predicted = 0.2 * encoded + STRENGTH * votes.T[symbols], 0.2 * predicted
    narrow = functools.partial(jnp.asarray, dtype=jnp.bfloat16)
    params = {"kernel": narrow(kernel), "bias": jnp.zeros(v, jnp.bfloat16)}
    lengths = frames.astype(np.int32), labels.astype(np.int32)
    return params, narrow(encoded), narrow(predicted), *map(jnp.asarray, (targets, *lengths))


def dense(params, encoded, predicted, *rest):
    return jax_rnnt.rnnt_loss(JOINT(params, encoded[:, :, None], predicted[:, None]), *rest, blank=0)


def tiled(params, encoded, predicted, *rest, **options):
    return jax_rnnt.rnnt_loss(jax_rnnt.JointLogits(JOINT, params, encoded, predicted, **options), *rest, blank=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shapes", default="16x300x60x640x1024,32x400x80x640x1024", help="B x T x U x D x V, ...")
    arguments = parser.parse_args()
    print(jax.devices()[0].device_kind, "jax", jax.__version__)
    gradients = functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    functions = {
        "dense": gradients(dense),
        "JointLogits": gradients(tiled),
        f"budget {BUDGET:g}": gradients(functools.partial(tiled, gradient_budget=BUDGET)),
        "16384 rows": gradients(functools.partial(tiled, tile_rows=16384)),
        "loss alone": tiled,
    }
    for shape in map(sizes, arguments.shapes.split(",")):
        for trained in (False, True):
            batch = operands(*shape, trained)
            programs = {name: compiled(function, *batch) for name, function in functions.items()}
            calls = {name: call for name, (call, _, _) in programs.items()}
            times = {name: x.median for name, x in interleaved(calls, arguments.rounds).items()}
            memory = {name: temporary for name, (_, temporary, _) in programs.items()}
            print(f"{'x'.join(map(str, shape))} {'ragged, trained' if trained else 'full, random'}")
            for name in times:
                ratios = times[name] / times["dense"], memory[name] / memory["dense"]
                size = memory[name] / 2**20
                print(f"  {name:14} {1e3 * times[name]:7.2f} ms ({ratios[0]:.2f}) {size:6.0f} MiB ({ratios[1]:.0%})")


if __name__ == "__main__":
    main()
