"""Times each source of logits and its joint network beside dense logits and their joint network, in one run.

python benchmarks/sources.py
python benchmarks/sources.py --rounds 9 --shapes 8x200x50x500 --torch PYTHON  # torchaudio and fast_rnnt beside them

A side computes the loss and its gradient with respect to the encoder's output, the predictor's output and the side's
parameters. The joint network is tanh(e + p), then a linear layer from 256 entries to V. Additive logits have a linear
layer of e and one of p instead.
"""

import argparse
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from cases import ragged, sizes
from clock import Process, compiled, interleaved

import jax_rnnt

WIDTH, KEPT = 256, 5


def joint(params, e, p):
    return jnp.tanh(e + p) @ params["joint"]


def simple_logits(params, e, p):
    return jax_rnnt.AdditiveLogits(e @ params["am"], p @ params["lm"])


def dense(params, e, p, targets, t_b, u_b):
    logits = joint(params, e[:, :, None], p[:, None])
    return jax_rnnt.rnnt_loss(logits, targets, t_b, u_b, blank=0)


def packed(params, e, p, targets, t_b, u_b, rows: int):
    logits = joint(params, *jax_rnnt.PackedLogits.pack(e, p, t_b, u_b, rows))
    source = jax_rnnt.PackedLogits(logits, t_b, u_b, num_frames=e.shape[1], num_labels=targets.shape[1])
    return jax_rnnt.rnnt_loss(source, targets, t_b, u_b, blank=0)


def additive(params, e, p, targets, t_b, u_b):
    return jax_rnnt.rnnt_loss(simple_logits(params, e, p), targets, t_b, u_b, blank=0)


def pruned(params, e, p, targets, t_b, u_b):
    """The simple loss plus the pruned loss. The posteriors of the simple loss choose the positions that are kept."""
    simple = simple_logits(params, e, p)
    costs, posteriors = jax_rnnt.lattice_posteriors(
        *jax_rnnt.alignment.loss_lattice(jax_rnnt.RNNTLoss(blank=0), simple, targets, t_b, u_b)
    )
    ranges = jax_rnnt.PrunedLogits.best_ranges(posteriors, t_b, u_b, KEPT)
    logits = joint(params, *jax_rnnt.PrunedLogits.prune(e, p, ranges, KEPT))
    source = jax_rnnt.PrunedLogits(logits, ranges, num_labels=targets.shape[1])
    return 0.5 * jnp.mean(costs) + jax_rnnt.rnnt_loss(source, targets, t_b, u_b, blank=0)


def inputs(b: int, t: int, u: int, v: int) -> tuple:
    """Parameters, a batch (e, p, targets), full lengths and ragged ones."""
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    params = {name: normal(WIDTH, v, scale=WIDTH**-0.5) for name in ("joint", "am", "lm")}
    batch = normal(b, t, WIDTH), normal(b, u + 1, WIDTH), jnp.asarray(rng.integers(1, v, (b, u)), jnp.int32)
    full = jnp.full(b, t, jnp.int32), jnp.full(b, u, jnp.int32)
    return params, batch, full, tuple(map(jnp.asarray, ragged(rng, b, t, u)))


def measure(b: int, t: int, u: int, v: int, rounds: int, torch: Process | None) -> None:
    params, batch, full, part = inputs(b, t, u, v)
    nodes = {"full": b * t * (u + 1), "ragged": int((part[0] * (part[1] + 1)).sum())}
    sides = {
        "dense": (dense, ["joint"], full),
        "additive": (additive, ["am", "lm"], full),
        f"simple and pruned, S = {KEPT}": (pruned, ["am", "lm", "joint"], full),
        "packed": (functools.partial(packed, rows=nodes["full"]), ["joint"], full),
        "dense, ragged": (dense, ["joint"], part),
        "packed, ragged": (functools.partial(packed, rows=nodes["ragged"]), ["joint"], part),
    }
    calls, memory = {}, {}
    for name, (loss, needed, lengths) in sides.items():
        of_side = {key: params[key] for key in needed}
        calls[name], *planned = compiled(jax.value_and_grad(loss, (0, 1, 2)), of_side, *batch, *lengths)
        memory[name] = sum(planned)
    if torch:
        arrays = {**params, **dict(zip(("e", "p", "targets", "t_b", "u_b"), (*batch, *full), strict=True))}
        calls |= torch.calls(arrays, of="sources", kept=KEPT)
    times = interleaved(calls, rounds)
    print(f"\n(B, T, U+1, V) = ({b}, {t}, {u + 1}, {v}); ragged: {nodes['ragged'] / nodes['full']:.3f} of the nodes\n")
    print("| | ms | of dense | MB | of dense | loss |\n|---|--:|--:|--:|--:|--:|")
    for name, call in calls.items():
        ms, of = 1e3 * times[name].median, 1e3 * times["dense"].median
        planned = f"{memory[name] / 1e6:.1f} | {memory[name] / memory['dense']:.4f}" if name in memory else " | "
        print(f"| {name} | {ms:.0f} | {ms / of:.3f} | {planned} | {float(call()[0]):.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default="8x200x50x500,4x300x60x1024", help="B x T x U x V, ...")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that imports torchaudio, or fast_rnnt, or both")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, float32, {args.rounds} rounds; bytes are results and temporaries as XLA plans them")
    torch = Process(args.torch, "torch_sides", len(os.sched_getaffinity(0))) if args.torch else None
    for shape in map(sizes, args.shapes.split(",")):
        measure(*shape, args.rounds, torch)
    if torch:
        torch.close()


if __name__ == "__main__":
    main()
