"""The integers that both operations take: labels of rows, columns of blanks, the window, the moves of arcs."""

import operator
from collections.abc import Iterable, Sequence

from jax_rnnt import checks

NO_LABEL = -1  # no label leaves this node: its entry is -inf
PADDING = -2  # the row is neither read nor given a gradient
INVALID = -3  # like every other label outside the vocabulary: the row is NaN

Window = tuple[int, int]
Moves = tuple[tuple[int, int], ...]

RNNT_MOVES: Moves = ((1, 0), (0, 1))
"""The moves of RNN-T (Graves 2012): blank takes (t, u) to (t + 1, u), a label takes it to (t, u + 1)."""


def resolve_column(column: int, vocabulary: int, name: str) -> int:
    """The index in [0, V) that ``column`` names; negative numbers count from the end."""
    index = checks.static_index(name, column)
    if not -vocabulary <= index < vocabulary:
        raise ValueError(
            f"`{name}` must be in [{-vocabulary}, {vocabulary}) for a vocabulary of {vocabulary} entries "
            f"(logits.shape[-1]), got {index}."
        )
    return index % vocabulary


def resolve_columns(columns: Iterable[int], vocabulary: int, name: str) -> tuple[int, ...]:
    """:func:`resolve_column` of each of ``columns``."""
    each = checks.static_integers(name, columns)
    return tuple(resolve_column(c, vocabulary, f"{name}[{i}]") for i, c in enumerate(each))


def resolve_window(window: Sequence[int] | None, vocabulary: int) -> Window:
    """``window`` as a pair (first, stop); None is the whole vocabulary, and every empty window is (0, 0)."""
    if window is None:
        return 0, vocabulary
    pair = checks.static_integers("window", window)
    if len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= vocabulary:
        raise ValueError(
            f"`window` must be a pair (first, stop) with 0 <= first <= stop <= {vocabulary}, the entries of the "
            f"vocabulary (logits.shape[-1]), got {pair}."
        )
    return pair if pair[0] < pair[1] else (0, 0)


def check_moves(moves: Sequence[Sequence[int]], arcs: int, name: str = "log_probs") -> Moves:
    """``moves`` as a tuple of pairs, one for each of the ``arcs`` entries that a node of the array ``name`` has."""
    try:
        pairs = tuple((operator.index(dt), operator.index(du)) for dt, du in moves)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`moves` must be a sequence of (dt, du) pairs of integers, got {moves!r}.") from error
    if len(pairs) != arcs:
        raise ValueError(
            f"`moves` must hold a (dt, du) pair for each of {name}.shape[-1] == {arcs} arcs, got {len(pairs)} pairs."
        )
    for k, (dt, du) in enumerate(pairs):
        if dt < 0 or du < 0 or dt + du < 1:
            raise ValueError(f"`moves[{k}]` must have dt >= 0, du >= 0 and dt + du >= 1, got ({dt}, {du}).")
    return pairs
