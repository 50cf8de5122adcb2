"""What the integers at the door of the two operations mean: labels of rows, columns of blanks, the window,
moves of arcs."""

import operator
from collections.abc import Sequence

NO_LABEL = -1  # no label leaves this node: its entry is -inf
PADDING = -2  # the row is neither read nor given a gradient
INVALID = -3  # like every other label outside the vocabulary: the row is NaN

Window = tuple[int, int]
Moves = tuple[tuple[int, int], ...]

RNNT_MOVES: Moves = ((1, 0), (0, 1))
"""The moves of RNN-T (Graves 2012): blank takes (t, u) to (t + 1, u), a label takes it to (t, u + 1)."""


def resolve_column(column: int, vocabulary: int, name: str) -> int:
    """The index in [0, V) that ``column`` names; negative numbers count from the end."""
    try:
        index = operator.index(column)
    except TypeError as error:
        raise TypeError(f"`{name}` must be an integer, got {column!r} of type {type(column).__name__}.") from error
    if not -vocabulary <= index < vocabulary:
        raise ValueError(
            f"`{name}` must be in [{-vocabulary}, {vocabulary}) for a vocabulary of {vocabulary} entries "
            f"(logits.shape[-1]), got {index}."
        )
    return index % vocabulary


def resolve_window(window: Sequence[int] | None, vocabulary: int) -> Window:
    """``window`` as a pair (first, stop); None is the whole vocabulary, and every empty window is (0, 0)."""
    if window is None:
        return 0, vocabulary
    try:
        first, stop = (operator.index(entry) for entry in window)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`window` must be a pair (first, stop) of integers or None, got {window!r}.") from error
    if not 0 <= first <= stop <= vocabulary:
        raise ValueError(
            f"`window` (first, stop) must have 0 <= first <= stop <= {vocabulary}, the entries of the vocabulary "
            f"(logits.shape[-1]), got ({first}, {stop})."
        )
    return (first, stop) if first < stop else (0, 0)


def check_moves(moves: Sequence[Sequence[int]], arcs: int) -> Moves:
    """``moves`` as a tuple of pairs, one for each of the ``arcs`` entries of a node."""
    try:
        pairs = tuple((operator.index(dt), operator.index(du)) for dt, du in moves)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`moves` must be a sequence of (dt, du) pairs of integers, got {moves!r}.") from error
    if len(pairs) != arcs:
        raise ValueError(
            f"`moves` must hold a (dt, du) pair for each of log_probs.shape[-1] == {arcs} arcs, got {len(pairs)} pairs."
        )
    for k, (dt, du) in enumerate(pairs):
        if dt < 0 or du < 0 or dt + du < 1:
            raise ValueError(f"`moves[{k}]` must have dt >= 0, du >= 0 and dt + du >= 1, got ({dt}, {du}).")
    return pairs
