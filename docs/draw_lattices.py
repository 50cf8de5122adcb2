"""Draws the lattices of the losses; needs matplotlib.

docs/lattices.svg shows the arcs that leave one node, a panel for each loss. docs/losses/NAME.svg shows the whole
lattice of "cat" in five frames: every arc faintly, and one path.

python docs/draw_lattices.py
"""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BLANK, LABEL = "#3d6fb6", "#b03a48"
Moves = tuple[tuple[int, int], ...]
LATTICES: dict[str, Moves] = {  # moves (dt, du) of each loss
    "RNN-T, HAT": ((1, 0), (0, 1)),
    "monotonic": ((1, 0), (1, 1)),
    "multi-blank (2, 4)": ((1, 0), (2, 0), (4, 0), (0, 1)),
    "TDT (0, 1, 2)": ((1, 0), (2, 0), (0, 1), (1, 1), (2, 1)),
}
PATHS: dict[str, tuple[str, Moves]] = {  # of each page: its lattice, and the path that is drawn
    "rnnt": ("RNN-T, HAT", ((1, 0), (0, 1), (1, 0), (0, 1), (0, 1), (1, 0), (1, 0), (1, 0))),
    "monotonic": ("monotonic", ((1, 1), (1, 0), (1, 1), (1, 1), (1, 0))),
    "multiblank": ("multi-blank (2, 4)", ((0, 1), (2, 0), (0, 1), (0, 1), (1, 0), (2, 0))),
    "tdt": ("TDT (0, 1, 2)", ((2, 1), (0, 1), (1, 1), (2, 0))),
    "hat": ("RNN-T, HAT", ((0, 1), (1, 0), (1, 0), (0, 1), (1, 0), (0, 1), (1, 0), (1, 0))),
}
FRAMES, POSITIONS = 5, 2  # of a panel
WORD = "cat"


def arrow(axis: plt.Axes, start: tuple[int, int], move: tuple[int, int], width: float, alpha: float) -> None:
    dt, du = move
    bend = 0.12 * (dt - 1) if du == 0 else 0  # blanks side by side, not one behind the other
    style = {"arrowstyle": "->", "color": LABEL if du else BLANK, "connectionstyle": f"arc3,rad={bend}"}
    style |= {"shrinkA": 3, "shrinkB": 3, "linewidth": width, "alpha": alpha}
    axis.annotate("", xy=(start[0] + dt, start[1] + du), xytext=start, arrowprops=style)


def bare(axis: plt.Axes) -> None:
    axis.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axis.tick_params(length=0)


def panel(axis: plt.Axes, title: str, moves: Moves) -> None:
    """The arcs that leave one node."""
    for t in range(FRAMES):
        axis.plot([t] * POSITIONS, range(POSITIONS), "o", color="#999999", markersize=4)
    for move in moves:
        arrow(axis, (0, 0), move, 1, 1)
    axis.set(title=title, xlim=(-0.4, FRAMES - 0.6), ylim=(-0.8, POSITIONS - 0.6), aspect="equal")
    axis.set_xticks(range(FRAMES), ["t", *(f"+{i}" for i in range(1, FRAMES))])
    axis.set_yticks(range(POSITIONS), ["u", "u+1"])
    bare(axis)


def lattice(axis: plt.Axes, moves: Moves, path: Moves) -> None:
    """All arcs between the nodes and to the end, and one path from (0, 0) to the end."""
    end = FRAMES, len(WORD)
    blanks = [dt for dt, du in moves if du == 0]
    label_ends = max(dt for dt, du in moves if du) < 2  # under TDT a path ends with a blank
    nodes = [(t, u) for t in range(FRAMES) for u in range(len(WORD) + 1)]
    for t, u in nodes:
        axis.plot(t, u, "o", color="#999999", markersize=4)
        for dt, du in moves:
            to = t + dt, u + du
            if to in nodes or (to == end and (du == 0 or label_ends)):
                arrow(axis, (t, u), (dt, du), 0.8, 0.35)
    at = 0, 0
    for move in path:
        arrow(axis, at, move, 2, 1)
        at = at[0] + move[0], at[1] + move[1]
    assert at == end, path
    axis.plot(*end, "s", color="black", markersize=6)
    axis.set(xlim=(-0.5, FRAMES + 0.5), ylim=(-0.15 * max(blanks) - 0.1, len(WORD) + 0.3), aspect="equal")
    axis.set_xticks(range(FRAMES + 1), [*(f"frame {t}" for t in range(FRAMES)), "end"])
    axis.set_yticks(range(len(WORD) + 1), ["nothing", *(f'"{WORD[:u]}"' for u in range(1, len(WORD) + 1))])
    bare(axis)


def saved(figure: plt.Figure, name: str) -> None:
    figure.savefig(pathlib.Path(__file__).parent / name, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    plt.rcParams |= {"svg.hashsalt": "lattices", "svg.fonttype": "none", "font.size": 8}
    figure, axes = plt.subplots(1, len(LATTICES), figsize=(9.5, 1.8), layout="constrained")
    for axis, (title, moves) in zip(axes, LATTICES.items(), strict=True):
        panel(axis, title, moves)
    saved(figure, "lattices.svg")
    for name, (loss, path) in PATHS.items():
        figure, axis = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
        lattice(axis, LATTICES[loss], path)
        saved(figure, f"losses/{name}.svg")


if __name__ == "__main__":
    main()
