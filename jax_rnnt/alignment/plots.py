"""Pictures of one utterance: its lattice, and its labels over time. Only this file needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.ops.labels import RNNT_MOVES, check_moves

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _axes_or_new(axes: Axes | None, caller: str, size: tuple[float, float]) -> Axes:
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(f"`{caller}` needs matplotlib, which is not installed: pip install matplotlib") from error
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _host(name: str, x: ArrayLike, letters: str) -> np.ndarray:
    if checks.is_tracer(x):
        raise TypeError(f"`{name}` must be a concrete array to be drawn, got a traced one (inside jit, grad or vmap).")
    array = checks.on_host(name, x)
    checks.rank(name, array, letters)
    return array


def _texts(labels: Sequence[object] | None, count: int) -> list[str]:
    if labels is None:
        return [str(u) for u in range(count)]
    if len(labels) < count:
        raise ValueError(f"`labels` must hold a text for each of the U = {count} labels, got {len(labels)}.")
    return ["␣" if text == " " else str(text) for text in labels[:count]]


def _time_axis(axes: Axes, seconds_per_frame: float | None) -> float:
    """Names the axis, and returns the length of one frame on it."""
    axes.set_xlabel("frame" if seconds_per_frame is None else "seconds")
    return 1.0 if seconds_per_frame is None else seconds_per_frame


def plot_lattice(
    posteriors: ArrayLike,
    arcs: ArrayLike | None = None,
    moves: Sequence[Sequence[int]] = RNNT_MOVES,
    *,
    labels: Sequence[object] | None = None,
    seconds_per_frame: float | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draws the posteriors of one utterance's lattice, and the best path over them.

    The more probable a node is, the brighter it is. A circle stands where a label is emitted. The more probable the
    label is there, the larger the circle. The line is the best path, from node to node.

    Args:
      posteriors: ``[T_b, U_b+1, K]``, those of :func:`lattice_posteriors`, cut to the lengths of the utterance.
      arcs: ``[N]``, the arcs of the best path of :func:`best_alignment` or :func:`lattice_best_path` (N may be that of
        the whole batch); None draws no path.
      moves: the ``K`` moves of the lattice.
      labels: the texts of the U_b labels; None: their numbers.
      seconds_per_frame: the length of a frame; None: time is in frames.
      axes: where to draw; None: a new figure.

    Returns:
      The axes. On them a frame begins at its number, so frame 3 goes from 3 to 4.

    Raises:
      ImportError: if ``axes`` is None and matplotlib is not installed.
      TypeError, ValueError: if an array is traced, or a shape does not match.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> batch = jnp.zeros((1, 9, 4, 5)), jnp.array([[3, 1, 2]]), jnp.array([9]), jnp.array([3])
      >>> lattice = jax_rnnt.alignment.loss_lattice(jax_rnnt.RNNTLoss(blank=0), *batch)
      >>> cost, posteriors = jax_rnnt.lattice_posteriors(*lattice)
      >>> best = jax_rnnt.alignment.lattice_best_path(*lattice)
      >>> path = best.arcs[0]
      >>> axes = jax_rnnt.alignment.plot_lattice(posteriors[0], path, lattice.moves, labels="cab")  # doctest: +SKIP
      >>> axes.figure.savefig("lattice.png")  # doctest: +SKIP
    """
    p = _host("posteriors", posteriors, "T, U+1, K")
    num_frames, num_positions, k = p.shape
    pairs = check_moves(moves, k, "posteriors")
    path = None if arcs is None else _host("arcs", arcs, "N")
    names = [*_texts(labels, num_positions - 1), "end"]
    axes = _axes_or_new(axes, "plot_lattice", (9, 1.5 + 0.25 * num_positions))
    unit = _time_axis(axes, seconds_per_frame)
    image = axes.imshow(
        p.sum(axis=-1).T,  # a path leaves each of its nodes by one arc
        origin="lower", aspect="auto", interpolation="nearest",
        extent=(0, num_frames * unit, -0.5, num_positions - 0.5),
        cmap="magma", vmin=0, vmax=1.4,  # without the palest colours, so that the path and the circles stand out
    )  # fmt: skip
    emitted = p[..., [du > 0 for _, du in pairs]].sum(axis=-1)
    t, u = np.nonzero(emitted > 0.05)
    axes.scatter(
        (t + 0.5) * unit, u, s=40 * emitted[t, u],
        facecolors="none", edgecolors="cyan", linewidths=1.2, label="label emitted here",
    )  # fmt: skip
    if path is not None:
        nodes = _nodes(path, pairs)
        axes.plot((nodes[:, 0] + 0.5) * unit, nodes[:, 1], color="lime", linewidth=1.2, label="best path")
    axes.set_yticks(range(num_positions), names)
    axes.set(xlim=(0, num_frames * unit), ylim=(-0.5, num_positions - 0.5), ylabel="next label")
    # The legend lies on the picture, which is dark, so its colours do not follow the page's.
    axes.legend(loc="upper left", facecolor="black", edgecolor="gray", labelcolor="white")
    bar = axes.figure.colorbar(image, ax=axes, label="posterior probability of the node", pad=0.01)
    bar.ax.set_ylim(0, 1)
    return axes


def _nodes(arcs: np.ndarray, moves: Sequence[tuple[int, int]]) -> np.ndarray:
    """``[nodes, 2]``: t and u of the nodes of a path, the end among them where there is a path."""
    steps = np.array([moves[k] for k in arcs if k >= 0], np.int64).reshape(-1, 2)
    return np.concatenate([np.zeros((min(len(steps), 1), 2), np.int64), np.cumsum(steps, axis=0)])


def plot_alignment(
    frames: ArrayLike,
    durations: ArrayLike | None = None,
    *,
    labels: Sequence[object] | None = None,
    features: ArrayLike | None = None,
    features_per_frame: float = 1.0,
    seconds_per_frame: float | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draws the labels of one utterance over time, each label at the frame where it is emitted.

    Labels of the same frame share a line, and their texts stand there as one.

    Args:
      frames: ``[U]``, the frames of the labels: ``frames`` of :func:`best_alignment`, or :func:`emission_times`. Labels
        with a negative frame are left out.
      durations: ``[U]``, ``durations`` of :func:`best_alignment`; the frames that a label takes are shaded.
      labels: the texts of the labels, at least as many as there are labels; None: their numbers.
      features: ``[F, M]``, a spectrogram to draw behind the labels.
      features_per_frame: the rows of ``features`` that a frame takes, that is, the encoder's subsampling.
      seconds_per_frame, axes: as in :func:`plot_lattice`.

    Returns:
      The axes, with time as in :func:`plot_lattice`.

    Raises:
      ImportError, TypeError, ValueError: as :func:`plot_lattice`; ValueError also if a label lies beyond ``features``.

    Example:
      >>> import jax_rnnt
      >>> frames = [1, 1, 6]  # "c" and "a" at frame 1, "b" at frame 6
      >>> axes = jax_rnnt.alignment.plot_alignment(frames, labels="cab", seconds_per_frame=0.04)  # doctest: +SKIP
      >>> axes.figure.savefig("alignment.png")  # doctest: +SKIP
    """
    at = _host("frames", frames, "U")
    lasts = np.zeros(at.shape) if durations is None else _host("durations", durations, "U")
    checks.shape("durations", lasts, at.shape, "frames.shape")
    spectrogram = None if features is None else _host("features", features, "F, M")
    drawn = np.flatnonzero(at > -0.5)  # an expected frame is 0 but for rounding
    if spectrogram is not None and len(drawn) and at[drawn].max() * features_per_frame > len(spectrogram):
        raise ValueError(
            f"`features` has {len(spectrogram)} rows, which are {len(spectrogram) / features_per_frame:g} frames with "
            f"`features_per_frame` = {features_per_frame}, and a label is at frame {at[drawn].max():g}. "
            "`features_per_frame` must be the encoder's subsampling."
        )
    names = _texts(labels, int(drawn[-1]) + 1 if len(drawn) else 0)
    axes = _axes_or_new(axes, "plot_alignment", (9, 2.5))
    unit = _time_axis(axes, seconds_per_frame)
    if spectrogram is not None:
        count, bands = spectrogram.shape
        end = count / features_per_frame * unit
        axes.imshow(spectrogram.T, origin="lower", aspect="auto", extent=(0, end, 0, bands), cmap="gray_r")
        axes.set(xlim=(0, end), ylabel="band")
    else:
        axes.set_yticks([])
        if len(drawn):
            axes.set_xlim(0, (at[drawn] + lasts[drawn]).max() * unit + unit)
    between = "" if all(len(name) == 1 for name in names) else " "
    for place, t in enumerate(np.unique(at[drawn])):
        # Neighbours differ in colour, and in the row above the axes where their texts are.
        here, begin, colour = drawn[at[drawn] == t], t * unit, ("tab:red", "tab:blue")[place % 2]
        axes.axvline(begin, color=colour, linewidth=1)
        if (lasts[here] > 0).any():
            axes.axvspan(begin, begin + lasts[here].max() * unit, color=colour, alpha=0.12, linewidth=0)
        axes.annotate(
            between.join(names[u] for u in here), (begin, 1.0), xytext=(0, 3 + 11 * (place % 2)),
            xycoords=("data", "axes fraction"), textcoords="offset points", va="bottom", color=colour, fontsize=9,
        )  # fmt: skip
    return axes
