"""Small lattices of every family of moves, and the corner cases of their lengths."""

import numpy as np
import reference

# Nobody has published the last four. They are: labels in pairs, with moves that jump over diagonals and over each
# other; a single diagonal; moves longer than the lattice; and the same move twice (two arcs between the same nodes).
MOVE_SETS = {
    "rnnt": reference.RNNT,
    "monotonic": reference.MONOTONIC,
    "multi_blank": reference.MULTI_BLANK,
    "tdt": reference.TDT,
    "jumps": ((2, 1), (1, 0), (0, 2), (3, 3), (0, 1)),
    "diagonal": ((1, 1),),
    "too_long": ((1, 0), (0, 1), (9, 0), (0, 7), (40, 0)),
    "twice": ((0, 1), (1, 0), (1, 0)),
}
T, U = 4, 3
# All tests of small lattices have this batch size, so that they share compiled functions.
T_B = np.array([4, 4, 3, 1, 2, 0, 0, 4, 3, 1, 2, 3], np.int32)
U_B = np.array([3, 2, 3, 2, 0, 0, 1, 1, 1, 0, 2, 0], np.int32)

CORNERS = [  # t_b, u_b, cost, value of all posteriors (None: by the oracle)
    (0, 0, 0.0, 0.0),
    (0, 2, np.inf, 0.0),
    (-1, 2, np.nan, np.nan),
    (T + 1, 2, np.nan, np.nan),
    (2**31 - 1, 2, np.nan, np.nan),
    (-(2**31), 2, np.nan, np.nan),
    (3, -1, np.nan, np.nan),
    (3, U + 1, np.nan, np.nan),
    (3, -(2**31), np.nan, np.nan),
    (3, 2**31 - 1, np.nan, np.nan),
    (4, 3, None, None),
    (2, 1, None, None),
]


def random_log_probs(
    moves: reference.Moves, seed: int = 0, t: int = T, u: int = U, batch: int = len(T_B)
) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, t, u + 1, len(moves))) - 1.5
