"""Draws two pictures from the report of bench.py: time against the floor for each shape, and growth against T and V.

python benchmarks/plot.py default.json --to docs --format svg
"""

import argparse
import pathlib

import matplotlib
from cases import FORWARD, GRADIENT
from report import Report
from targets import FLOOR

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TITLES = {FORWARD: "cost", GRADIENT: "cost and gradient"}
STYLE = {  # side: label, colour, marker
    "native": ("jax_rnnt, kernels", "#0b6e4f", "o"),
    "lax": ("jax_rnnt, lax form", "#3d6fb6", "s"),
    "naive": ("naive JAX", "#c9862b", "D"),
    "torchaudio": ("torchaudio", "#b03a48", "^"),
    "floor": ("floor", "#777777", "_"),
}


def _label(case: dict) -> str:
    sizes = f"({case['b']}, {case['t']}, {case['u']}, {case['v']})"
    if case["kind"] == "lattice":
        return f"lattice ({case['b']}, {case['t']}, {case['u']})"
    return sizes + {"bfloat16": " bf16", "float16": " f16"}.get(case["dtype"], "")


def against_floor(report: Report, operations: tuple[str, ...] = (FORWARD, GRADIENT)) -> plt.Figure:
    # The time of a tiny call is that of calling, not that of its bytes. It has its own target, which is not the
    # floor's.
    keys = [r["case"]["key"] for r in report.of("table") if r["operation"] == FORWARD and r["case"]["bytes"] > 1 << 20]
    figure, axes = plt.subplots(1, 2, figsize=(10, 1.6 + 0.36 * len(keys)), sharey=True, layout="constrained")
    for axis, operation in zip(axes, operations, strict=True):
        for side, (label, colour, marker) in STYLE.items():
            points = [(report.ratio(key, operation, side, "floor"), row) for row, key in enumerate(keys)]
            if side != "floor" and any(x is not None for x, _ in points):
                axis.plot(*zip(*[p for p in points if p[0]], strict=True), marker, color=colour, label=label)
        limits = [(FLOOR[key][operations.index(operation)], row) for row, key in enumerate(keys) if key in FLOOR]
        if limits:
            axis.plot(*zip(*limits, strict=True), "|", color="black", markersize=13, label="target")
        axis.axvline(1, color=STYLE["floor"][1], linewidth=1)
        axis.set(xscale="log", xlabel="time / floor of the memory", title=TITLES[operation])
        axis.grid(axis="x", alpha=0.3)
    labels = [_label(report.record(key, FORWARD)["case"]) for key in keys]
    axes[0].set_yticks(range(len(keys)), labels)
    axes[0].set_ylim(len(keys) - 0.5, -0.5)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
    return figure


def growth(report: Report, operation: str = GRADIENT) -> plt.Figure:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, size in zip(axes, "tv", strict=True):
        records = [r for r in report.of(f"growth-{size}") if r["operation"] == operation]
        fits = [r for r in report.data["growth"] if (r["size"], r["operation"]) == (size, operation)]
        for side, exponent in (fits[0]["exponents"] if fits else {}).items():
            label, colour, marker = STYLE[side]
            points = [(r["case"][size], r["sides"][side]["median"] * 1e3) for r in records]
            style = "--" if side == "floor" else "-"
            name = f"{label}: {size.upper()}$^{{{exponent:.2f}}}$"
            axis.plot(*zip(*points, strict=True), style, marker=marker, color=colour, label=name)
        axis.set(xscale="log", yscale="log", xlabel=size.upper(), ylabel=f"ms, {TITLES[operation]}")
        for ticker in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            ticker(matplotlib.ticker.LogFormatter(minor_thresholds=(2, 0.8)))
        if records:
            ticks, others = [r["case"][size] for r in records], "btuv".replace(size, "")
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.xaxis.minorticks_off()
            axis.set_title(", ".join(f"{other.upper()} = {records[0]['case'][other]}" for other in others))
            axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=pathlib.Path, help="a JSON file of bench.py")
    parser.add_argument("--to", type=pathlib.Path, default=pathlib.Path(), help="the folder to draw into")
    parser.add_argument("--format", default="svg", choices=("svg", "png"))
    arguments = parser.parse_args()
    report = Report(arguments.report)
    matplotlib.rcParams["svg.hashsalt"] = "jax_rnnt"  # the same numbers give the same file
    for name, figure in (("cpu_against_floor", against_floor(report)), ("cpu_growth", growth(report))):
        figure.suptitle(report.title(), fontsize=8)
        path = arguments.to / f"{name}.{arguments.format}"
        figure.savefig(path, dpi=150, metadata={"Date": None} if arguments.format == "svg" else None)
        print(path)


if __name__ == "__main__":
    main()
