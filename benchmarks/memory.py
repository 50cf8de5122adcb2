"""Draws memory and time of a training step against V, for every form of logits: docs/memory.svg.

python benchmarks/memory.py --to docs

The batch is ragged. The joint network is tanh, then a linear layer, as in sources.py. Memory is what XLA plans for
results and temporaries.
"""

import argparse
import functools
import pathlib

import matplotlib
import sources

import jax_rnnt

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHAPE = 4, 200, 40  # B, T, U
WIDTHS = 32, 128, 512, 2048, 8192


def fused(params, e, p, targets, t_b, u_b, budget: float = 0.0):
    logits = jax_rnnt.JointLogits(sources.joint, params, e, p, gradient_budget=budget)
    return jax_rnnt.rnnt_loss(logits, targets, t_b, u_b, blank=0)


def measured(v: int, rounds: int) -> dict[str, tuple[float, float]]:
    """The MiB and milliseconds of each form."""
    params, (e, p, targets), _, lengths = sources.inputs(*SHAPE, v)
    rows = int((lengths[0] * (lengths[1] + 1)).sum())
    forms = {
        "dense array": sources.dense,
        "PackedLogits": functools.partial(sources.packed, rows=rows),
        "JointLogits": fused,
        "JointLogits, budget 1e-5": functools.partial(fused, budget=1e-5),
        "simple and PrunedLogits, S = 5": sources.pruned,
        "AdditiveLogits": sources.additive,
    }
    calls, memory = {}, {}
    for name, loss in forms.items():
        calls[name], memory[name] = sources.compiled(loss, params, e, p, targets, *lengths)
    seconds = sources.interleaved(calls, rounds)
    return {name: (memory[name] / 2**20, 1e3 * seconds[name]) for name in forms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--to", type=pathlib.Path, default=pathlib.Path("docs"))
    arguments = parser.parse_args()
    results = {v: measured(v, arguments.rounds) for v in WIDTHS}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for which, (axis, title) in enumerate(zip(axes, ("MiB", "milliseconds"), strict=True)):
        for name in results[WIDTHS[0]]:
            axis.plot(WIDTHS, [results[v][name][which] for v in WIDTHS], "o-", label=name)
            print(title, name, *(f"{results[v][name][which]:.1f}" for v in WIDTHS), sep=" | ")
        axis.set(xscale="log", yscale="log", xlabel="V", title=f"{title}, loss and all gradients")
        axis.set_xticks(WIDTHS, WIDTHS)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(arguments.to / "memory.svg")


if __name__ == "__main__":
    main()
