"""The plots: what is drawn where, read back from the axes. Nothing is opened and nothing is shown."""

import sys

import jax
import numpy as np
import pytest

import jax_rnnt

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import colors, pyplot  # noqa: E402

pytestmark = pytest.mark.once

MOVES = ((1, 0), (0, 1), (2, 1))
T, U = 6, 2
PATH = np.array([0, 2, -1, -1, 1, 0, 0, 0, -1])  # its batch has more frames and labels, so N > T + U
NODES = [(0, 0), (1, 0), (3, 1), (3, 2), (4, 2), (5, 2), (6, 2)]


@pytest.fixture
def axes():
    figure, made = pyplot.subplots()
    yield made
    pyplot.close(figure)


def _posteriors() -> np.ndarray:
    """The posteriors of the path alone."""
    p = np.zeros((T, U + 1, 3))
    for (t, u), k in zip(NODES[:-1], PATH[PATH >= 0], strict=True):
        p[t, u, k] = 1.0
    return p


def test_lattice(axes) -> None:
    assert (
        jax_rnnt.alignment.plot_lattice(_posteriors(), PATH, MOVES, labels="a ", seconds_per_frame=0.5, axes=axes)
        is axes
    )
    (image,) = axes.images
    expected = np.zeros((U + 1, T))
    for t, u in NODES[:-1]:
        expected[u, t] = 1
    np.testing.assert_array_equal(image.get_array(), expected)
    assert image.get_extent() == [0, T * 0.5, -0.5, U + 0.5]
    (circles,) = axes.collections
    np.testing.assert_array_equal(circles.get_offsets(), [(0.75, 0), (1.75, 1)])  # the middles of frames 1 and 3
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [((t + 0.5) * 0.5, u) for t, u in NODES])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "␣", "end"]
    assert axes.get_xlabel() == "seconds"
    axes.figure.canvas.draw()


def test_lattice_without_a_path(axes) -> None:
    """First no path is asked for. Then the utterance has none."""
    jax_rnnt.alignment.plot_lattice(_posteriors(), moves=MOVES, axes=axes)
    assert not axes.lines
    assert axes.get_xlabel() == "frame"
    jax_rnnt.alignment.plot_lattice(np.zeros((T, U + 1, 3)), np.full(9, -1), MOVES, axes=axes)
    assert axes.lines[0].get_xydata().shape == (0, 2)
    axes.figure.canvas.draw()


def test_alignment_over_a_spectrogram(axes) -> None:
    frames, durations = np.array([1, -1, 3, -1]), np.array([2, -1, 0, -1])
    features = np.arange(60.0).reshape(12, 5)
    options = {"labels": ["one", "two", "three"], "features": features, "features_per_frame": 2, "axes": axes}
    assert jax_rnnt.alignment.plot_alignment(frames, durations, seconds_per_frame=0.1, **options) is axes
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), features.T)
    np.testing.assert_allclose(image.get_extent(), [0, 0.6, 0, 5])
    np.testing.assert_allclose([line.get_xdata()[0] for line in axes.lines], [0.1, 0.3])
    assert [text.get_text() for text in axes.texts] == ["one", "three"]
    (span,) = axes.patches
    np.testing.assert_allclose([span.get_extents().x0, span.get_extents().x1], _on_screen(axes, 0.1, 0.3))
    first, second = (colors.to_rgba(line.get_color()) for line in axes.lines)
    assert first != second
    axes.figure.canvas.draw()


def _on_screen(axes, *x: float) -> np.ndarray:
    return axes.transData.transform([(value, 0) for value in x])[:, 0]


def test_labels_of_one_frame_share_a_line(axes) -> None:
    jax_rnnt.alignment.plot_alignment(np.array([2, 2, 4, 4]), np.array([0, 1, 1, 1]), labels="six!", axes=axes)
    assert [text.get_text() for text in axes.texts] == ["si", "x!"]
    assert len(axes.lines) == len(axes.patches) == 2
    words = jax_rnnt.alignment.plot_alignment(np.array([2, 2]), labels=["one", "two"], axes=axes)
    assert words.texts[-1].get_text() == "one two"


def test_alignment_alone() -> None:
    """Draws in a figure of its own, with expected frames, and with numbers as labels."""
    made = jax_rnnt.alignment.plot_alignment(np.array([0.5, 2.25, -1.0], np.float32))
    assert [line.get_xdata()[0] for line in made.lines] == [0.5, 2.25]
    assert [text.get_text() for text in made.texts] == ["0", "1"]
    assert made.get_xlim() == (0, 3.25)
    pyplot.close(made.figure)
    nothing = jax_rnnt.alignment.plot_alignment(np.array([-1, -1]))
    assert not nothing.lines
    pyplot.close(nothing.figure)


REFUSED = [
    (
        lambda: jax_rnnt.alignment.plot_lattice(np.zeros((1, T, U + 1, 2))),
        ValueError,
        "`posteriors` must have 3 dimensions",
    ),
    (lambda: jax_rnnt.alignment.plot_lattice(np.zeros((T, U + 1, 3))), ValueError, "`moves`.*3 arcs, got 2"),
    (
        lambda: jax_rnnt.alignment.plot_lattice(np.zeros((T, 3, 2)), labels="a"),
        ValueError,
        "`labels`.*U = 2 labels, got 1",
    ),
    (
        lambda: jax_rnnt.alignment.plot_alignment(np.zeros(2), np.zeros(3)),
        ValueError,
        r"`durations` must have shape \(2,\)",
    ),
    (
        lambda: jax_rnnt.alignment.plot_alignment(np.array([1, 7]), features=np.zeros((24, 5)), features_per_frame=4),
        ValueError,
        "`features` has 24 rows, which are 6 frames with `features_per_frame` = 4, and a label is at frame 7",
    ),
    (lambda: jax.jit(jax_rnnt.alignment.plot_alignment)(np.zeros(2)), TypeError, "`frames` must be a concrete array"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_refusals(call, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
    assert not pyplot.get_fignums()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, axes) -> None:
    """The functions draw on axes that are given. Without axes the error says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name, array in (("plot_lattice", np.zeros((T, 3, 2))), ("plot_alignment", np.zeros(2))):
        with pytest.raises(ImportError, match=f"`{name}` needs matplotlib.*pip install matplotlib"):
            getattr(jax_rnnt.alignment, name)(array)
    jax_rnnt.alignment.plot_alignment(np.zeros(2), axes=axes)
