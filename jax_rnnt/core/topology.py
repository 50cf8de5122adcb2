"""Which arcs leave a node of a loss's lattice, and how they are scored."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jax import Array

from jax_rnnt.ops.labels import Moves

Scores = Callable[[Array, Array, Array], Array]
"""From entries ``[B, T, U+1, K']``, T_b and U_b ``[B]`` to the scores of arcs ``[B, T, U+1, K]``; hashable.

All entries are finite or -inf. Scores of arcs that leave the lattice do not matter."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """The arcs of a node, as static values.

    Operation 1 uses ``columns`` and ``window``, operation 2 uses ``moves``. ``moves[k]`` belongs to the k-th arc of
    ``scores(entries)``, or to the k-th entry if ``scores`` is None. Labels are in ``[0, vocabulary)`` and are not in
    ``blanks``. An arc emits a label if its move has du > 0.
    """

    columns: tuple[int, ...]
    window: tuple[int, int]
    moves: Moves
    vocabulary: int
    blanks: tuple[int, ...]
    scores: Scores | None = None
    ends_with_blank: bool = False  # whether ``scores`` close the arcs of labels that lead to the end

    def label_arcs(self) -> tuple[bool, ...]:
        return tuple(du > 0 for _, du in self.moves)

    def frame_arc(self) -> int:
        """The arc that takes one frame and emits nothing: the blank of duration 1."""
        return self.moves.index((1, 0))

    def least_frames(self, labels: np.ndarray) -> np.ndarray:
        """The fewest frames ``[B]`` of a path that emits so many ``labels [B]``, at least one each."""
        shortest = min(dt for dt, du in self.moves if du > 0)
        silent = min(dt for dt, du in self.moves if du == 0)
        return labels * shortest + (silent if self.ends_with_blank or shortest == 0 else 0)
