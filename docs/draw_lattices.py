"""Draws the arcs that leave a node of each loss's lattice into docs/lattices.svg; needs matplotlib.

python docs/draw_lattices.py
"""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLANK, LABEL = "#3d6fb6", "#b03a48"
LATTICES = {  # moves (dt, du) of each loss
    "RNN-T, HAT": ((1, 0), (0, 1)),
    "monotonic": ((1, 0), (1, 1)),
    "multi-blank (2, 4)": ((1, 0), (2, 0), (4, 0), (0, 1)),
    "TDT (0, 1, 2)": ((1, 0), (2, 0), (0, 1), (1, 1), (2, 1)),
}
FRAMES, POSITIONS = 5, 2


def draw(axis: plt.Axes, title: str, moves: tuple[tuple[int, int], ...]) -> None:
    for t in range(FRAMES):
        axis.plot([t] * POSITIONS, range(POSITIONS), "o", color="#999999", markersize=4)
    for dt, du in moves:
        bend = 0.12 * (dt - 1) if du == 0 else 0  # blanks side by side, not one behind the other
        style = {"arrowstyle": "->", "color": LABEL if du else BLANK, "connectionstyle": f"arc3,rad={bend}"}
        axis.annotate("", xy=(dt, du), xytext=(0, 0), arrowprops=style | {"shrinkA": 3, "shrinkB": 3})
    axis.set(title=title, xlim=(-0.4, FRAMES - 0.6), ylim=(-0.8, POSITIONS - 0.6), aspect="equal")
    axis.set_xticks(range(FRAMES), ["t", *(f"+{i}" for i in range(1, FRAMES))])
    axis.set_yticks(range(POSITIONS), ["u", "u+1"])
    axis.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axis.tick_params(length=0)


def main() -> None:
    plt.rcParams |= {"svg.hashsalt": "lattices", "svg.fonttype": "none", "font.size": 8}
    figure, axes = plt.subplots(1, len(LATTICES), figsize=(9.5, 1.8), layout="constrained")
    for axis, (title, moves) in zip(axes, LATTICES.items(), strict=True):
        draw(axis, title, moves)
    figure.savefig(pathlib.Path(__file__).with_name("lattices.svg"), metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
