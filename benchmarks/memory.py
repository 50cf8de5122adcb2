"""Draws memory and time of a training step against V, for every form of logits: docs/memory.svg.

python benchmarks/memory.py --to docs

The batch is ragged. The joint network is tanh, then a linear layer, as in sources.py. Memory is what XLA plans for
temporaries.
"""

import argparse
import functools
import pathlib

import jax
import matplotlib
import sources
from cases import sizes
from clock import compiled, interleaved

import jax_rnnt

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def fused(params, e, p, targets, t_b, u_b, budget: float = 0.0):
    logits = jax_rnnt.JointLogits(sources.joint, params, e, p, gradient_budget=budget)
    return jax_rnnt.rnnt_loss(logits, targets, t_b, u_b, blank=0)


def measured(b: int, t: int, u: int, v: int, rounds: int) -> dict[str, tuple[float, float]]:
    """The MiB and milliseconds of each form."""
    params, batch, _, lengths = sources.inputs(b, t, u, v)
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
        step = jax.value_and_grad(loss, (0, 1, 2))
        calls[name], memory[name], _ = compiled(step, params, *batch, *lengths)
    times = interleaved(calls, rounds)
    return {name: (memory[name] / 2**20, 1e3 * times[name].median) for name in forms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", type=sizes, default="4x200x40", help="B x T x U")
    parser.add_argument("--widths", type=lambda text: sizes(text.replace(",", "x")), default="32,128,512,2048,8192")
    parser.add_argument("--to", type=pathlib.Path, default=pathlib.Path("docs"))
    arguments = parser.parse_args()
    widths = arguments.widths
    results = [measured(*arguments.shape, v, arguments.rounds) for v in widths]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for which, (axis, title) in enumerate(zip(axes, ("MiB", "milliseconds"), strict=True)):
        for name in results[0]:
            values = [result[name][which] for result in results]
            axis.plot(widths, values, "o-", label=name)
            print(title, name, *(f"{x:.1f}" for x in values), sep=" | ")
        axis.set(xscale="log", yscale="log", xlabel="V", title=f"{title}, loss and all gradients")
        axis.set_xticks(widths, widths)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(arguments.to / "memory.svg")


if __name__ == "__main__":
    main()
