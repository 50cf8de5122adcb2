"""Which arcs a node of a loss's lattice has, and what they are worth."""

import dataclasses
from collections.abc import Callable

from jax import Array

from jax_rnnt.ops.labels import Moves

Scores = Callable[[Array, Array, Array], Array]
"""From entries ``[B, T, U+1, K']``, T_b and U_b ``[B]`` to the scores of arcs ``[B, T, U+1, K]``; hashable.

All entries are finite or -inf. Scores of arcs that leave the lattice do not matter."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """The arcs of a node, as static values.

    ``columns`` and ``window`` are those of operation 1, ``moves`` those of operation 2: ``moves[k]`` belongs to the
    k-th arc of ``scores(entries)``, or to the k-th entry where ``scores`` is None. Labels lie in ``[0, vocabulary)``,
    and are none of ``blanks``. An arc emits a label where its move has du > 0.
    """

    columns: tuple[int, ...]
    window: tuple[int, int]
    moves: Moves
    vocabulary: int
    blanks: tuple[int, ...]
    scores: Scores | None = None

    def label_arcs(self) -> tuple[bool, ...]:
        return tuple(du > 0 for _, du in self.moves)

    def frame_arc(self) -> int:
        """The arc that takes a frame and emits nothing: the blank of duration 1."""
        return self.moves.index((1, 0))
