"""Draws the time of each shape against the floor: `python benchmarks/draw.py results/default.json --to docs`."""

import argparse
import json
import pathlib

import matplotlib
from cases import OPERATIONS, Case
from tables import ratio, sides_of, title

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STYLE = {  # side: label, colour, marker
    "native": ("jax_rnnt, kernels", "#0b6e4f", "o"),
    "lax": ("jax_rnnt, lax form", "#3d6fb6", "s"),
    "torchaudio": ("torchaudio", "#b03a48", "^"),
}


def _label(case: Case) -> str:
    if case.kind == "lattice":
        return f"lattice ({case.b}, {case.t}, {case.u})"
    return f"({case.b}, {case.t}, {case.u}, {case.v})" + {"bfloat16": " bf16", "float16": " f16"}.get(case.dtype, "")


def against_floor(report: dict) -> plt.Figure:
    described = {r["case"]["key"]: r["case"] for r in report["records"] if r["series"] == "table"}
    # The time of a tiny call is the cost of the call itself, not of its bytes.
    known = {field.name for field in Case.__dataclass_fields__.values()}
    shapes = [Case(**{k: x for k, x in c.items() if k in known}) for c in described.values() if c["bytes"] > 1 << 20]
    table = sides_of(report, "table")
    figure, axes = plt.subplots(1, 2, figsize=(10, 1.6 + 0.36 * len(shapes)), sharey=True, layout="constrained")
    for axis, operation, of in zip(axes, OPERATIONS, ("cost", "cost and gradient"), strict=True):
        for side, (label, colour, marker) in STYLE.items():
            points = [(ratio(table[case.key, operation], side, "floor"), row) for row, case in enumerate(shapes)]
            if points := [point for point in points if point[0]]:
                axis.plot(*zip(*points, strict=True), marker, color=colour, label=label)
        axis.axvline(1, color="#777777", linewidth=1)
        axis.set(xscale="log", xlabel="time / floor of the memory", title=of)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(shapes)), [_label(case) for case in shapes])
    axes[0].set_ylim(len(shapes) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title(report), fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=pathlib.Path, help="a JSON file of bench.py")
    parser.add_argument("--to", type=pathlib.Path, default=pathlib.Path(), help="the folder to draw into")
    arguments = parser.parse_args()
    matplotlib.rcParams["svg.hashsalt"] = "jax_rnnt"  # the same numbers give the same file
    figure = against_floor(json.loads(arguments.report.read_text()))
    figure.savefig(arguments.to / "cpu_against_floor.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
