"""Runs nvcc's machine code of the kernels for short moves on the CPU, and holds its results to float64.

    python tests/nvcc/run_lattices.py

Runs two utterances of different lengths through the kernels that cuda/lattice_short.cu chooses. Scores are normal
numbers and some -inf, and NaN beyond the lengths. Holds costs and posteriors to a recursion in float64. This is the
only check of the kernels' PTX: of copies, stores with a predicate, barriers and 2^x. In float32, 2^x is exact here; on
a GPU it is right within 2 ULP. instructions.py does not know the instructions of the general walk. No case needs it.

Prints the instructions of a warp that computes, and of one that copies, divided by its steps; how many instructions of
warps compute 32 posteriors of the array; and how many warps of the cost alone take for the arcs across the middle of an
utterance.
"""

import struct
from typing import NamedTuple

import cubin
import numpy as np
import operands
from launch import launch, require

# As in cuda/lattice.h and the cuda/*.cuh of short moves.
MAX_MOVES, WARP_BYTES, CHUNK, POSITIONS, MARGIN, POSTERIOR_THREADS, TILE = 64, 512, 4, 33, 3, 256, (16, 64)
MOST_CROSSINGS = 81  # pairs of an arc and a diagonal
SUMS_SIZE, COLUMN_MARGIN, ROW_MARGIN = 8, 8, 6
HANDED_ON, AHEAD = 4, 3  # in chunks
SLOTS = ((1, 1), (1, 2), (4, 1), (8, 1), (4, 5), (8, 9))  # in the order in which WithSlots asks them
FLOAT_ONLY = (4, 1)
LANES, WARPS = operands.LANES, 2  # warps of a block that compute, at most

MOVES = {
    "RNN-T": ((1, 0), (0, 1)),
    "monotonic": ((1, 0), (1, 1)),
    "multi-blank": ((1, 0), (2, 0), (4, 0), (0, 1)),
    "TDT": (*((d, 0) for d in range(1, 5)), *((d, 1) for d in range(5))),
    "blanks to 8": ((1, 0), (2, 0), (8, 0), (0, 1)),
    "TDT to 8": (*((d, 0) for d in range(1, 9)), *((d, 1) for d in range(9))),
}
# Lengths in frames and in labels of both utterances, frames and positions of the array.
SMALL = (9, 7), (5, 3), 10, 6
TWO_WARPS = (11, 13), (40, 33), 13, 42
MORE_FRAMES = (44, 38), (40, 33), 45, 42  # monotonic paths have at most one label per frame
LONG = (130, 116), (31, 24), 131, 32  # what a launch does once weighs less
STRIPS = (24, 15), (65, 40), 25, 67  # of two warps
CASES = [
    (name, *shape, with_posteriors, np.float32)
    for name in MOVES
    for shape in (SMALL, MORE_FRAMES if name == "monotonic" else TWO_WARPS, LONG)
    for with_posteriors in (True, False)
    if shape is not LONG or not with_posteriors
] + [(name, *STRIPS, with_posteriors, np.float32) for name in ("RNN-T", "TDT") for with_posteriors in (True, False)]
CASES += [
    ("RNN-T", *TWO_WARPS, True, np.float64),
    ("RNN-T", *STRIPS, False, np.float64),
    *((name, *LONG, False, np.float64) for name in ("RNN-T", "monotonic", "TDT")),
    ("TDT to 8", *SMALL, True, np.float64),
]
# Relative; of costs below 1, absolute. Of costs and of posteriors.
TOLERANCES = {np.float32: (1e-6, 1e-5), np.float64: (1e-13, 1e-12)}


class Lattice(NamedTuple):
    """``scores``: [utterance, frame, position, arc]."""

    moves: tuple[tuple[int, int], ...]
    logit_lengths: tuple[int, ...]
    target_lengths: tuple[int, ...]
    scores: np.ndarray

    def steps(self, to_end: bool) -> int:
        """Those of all warps that compute: whole chunks, of the nodes of 32 positions. Or up to the middle."""
        total = 0
        for length_t, length_u in zip(self.logit_lengths, self.target_lengths, strict=True):
            all_steps = length_t + length_u - 1
            of_alpha = min(-(-all_steps // (2 * CHUNK)) * CHUNK, all_steps)
            for most in [length_t + length_u] * 2 if to_end else [of_alpha, all_steps - of_alpha]:
                for first in range(0, length_u + 1, LANES):
                    last = min(length_t + min(first + LANES - 1, length_u), most)
                    total += max(-(-last // CHUNK) - max(first - 1, 0) // CHUNK, 0) * CHUNK
        return total


def lattice_of(
    name: str,
    logit_lengths: tuple[int, ...],
    target_lengths: tuple[int, ...],
    num_frames: int,
    num_positions: int,
    dtype: type,
) -> Lattice:
    moves, random = MOVES[name], np.random.default_rng(0)
    scores = random.normal(-1, 1, (len(logit_lengths), num_frames, num_positions, len(moves))).astype(dtype)
    scores[random.random(scores.shape) < 0.05] = -np.inf
    for b, (t, u) in enumerate(zip(logit_lengths, target_lengths, strict=True)):
        scores[b, t:] = scores[b, :, u + 1 :] = np.nan
    return Lattice(moves, logit_lengths, target_lengths, scores)


def expected(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Costs [utterance] and posteriors, of the shape of the scores."""
    costs, posteriors = [], np.zeros(lattice.scores.shape)
    for b, (length_t, length_u) in enumerate(zip(lattice.logit_lengths, lattice.target_lengths, strict=True)):
        p = np.exp(lattice.scores[b].astype(np.float64))
        alpha, beta = np.zeros((2, length_t + 1, length_u + 1))  # the last frame: the end of all paths
        alpha[0, 0] = beta[length_t, length_u] = 1
        nodes = [(t, u) for t in range(length_t) for u in range(length_u + 1)]
        arcs = [
            (t, u, t + dt, u + du, k)
            for t, u in nodes
            for k, (dt, du) in enumerate(lattice.moves)
            if (t + dt < length_t and u + du <= length_u) or (t + dt, u + du) == (length_t, length_u)
        ]
        for t, u, to_t, to_u, k in arcs:
            alpha[to_t, to_u] += alpha[t, u] * p[t, u, k]
        for t, u, to_t, to_u, k in reversed(arcs):
            beta[t, u] += beta[to_t, to_u] * p[t, u, k]
        for t, u, to_t, to_u, k in arcs:
            posteriors[b, t, u, k] = alpha[t, u] * p[t, u, k] * beta[to_t, to_u] / beta[0, 0]
        costs.append(-np.log(beta[0, 0]))
    return np.array(costs), posteriors


class Counts(NamedTuple):
    """Instructions of all warps that compute, of all that copy, and of those of the second launch."""

    compute: int
    copy: int
    second: int


def count(codes: dict[str, list[str]], what: str, lattice: Lattice, with_posteriors: bool) -> Counts:
    """Runs the launches of LaunchOf in cuda/lattice_short.cu, and holds their results to what is expected."""
    batch, num_frames, num_positions, num_arcs = lattice.scores.shape
    depth, workspace_size = depth_and_workspace_size(lattice, with_posteriors)
    dtype, size = lattice.scores.dtype.type, lattice.scores.itemsize
    kind_type = "double" if dtype is np.float64 else "float"
    cost = np.full(batch, np.nan, dtype)
    posteriors = np.full(lattice.scores.shape, np.nan, dtype)
    workspace = np.full((batch, workspace_size), np.nan, dtype)
    lengths = np.array(lattice.logit_lengths, np.int32), np.array(lattice.target_lengths, np.int32)
    memory = operands.Memory(lattice.scores, *lengths, cost, posteriors, workspace)
    pointers = memory.addresses if with_posteriors else [*memory.addresses[:4], 0, memory.addresses[5]]
    dt, du = ([move[i] for move in lattice.moves] + [0] * (MAX_MOVES - num_arcs) for i in (0, 1))
    operand = struct.pack("<6Qq4i", *pointers, workspace_size, num_frames, num_positions, num_arcs, depth)
    operand += struct.pack(f"<{2 * MAX_MOVES}i", *dt, *du)

    own, with_label = next(
        s for s in SLOTS if all(_has(*s, *move) for move in lattice.moves) and (s != FLOAT_ONLY or dtype is np.float32)
    )
    warps = min(-(-num_positions // LANES), WARPS)
    needed = 1 + (max(own, with_label) - 1 + CHUNK - 1) // CHUNK
    ring = (needed + AHEAD) * CHUNK * (POSITIONS + 2 * MARGIN) * ((own + with_label) | 1)
    first_count = WARP_BYTES + size * warps * ring + 2 * size * (warps + 1) * HANDED_ON * CHUNK
    counts = range(first_count, first_count + 4 * (2 * warps + 2))
    code = codes[f"ShortKernel<{kind_type}, {own}, {with_label}>"]
    sums = launch(
        code,
        operand + struct.pack("<i", AHEAD),
        memory,
        batch * 2,
        2 * warps * LANES,
        counts.stop,
        counts,
    )
    pairs = [(k, back) for k, move in enumerate(lattice.moves) for back in range(sum(move))]
    table = np.zeros((2, MOST_CROSSINGS), np.uint8)
    table[:, : len(pairs)] = np.transpose(pairs)
    operand += struct.pack("<i", len(pairs)) + table.tobytes()
    operand += bytes(-len(operand) % 8)
    blocks, name = batch, f"CostKernel<{kind_type}>"
    if with_posteriors:
        of_row = -(-num_positions * num_arcs // TILE[1])
        tiles = -(-num_frames // TILE[0]) * of_row
        operand += struct.pack("<3i", tiles, of_row, (1 << 20) // num_arcs + 1)
        blocks, name = batch * (tiles + 1), f"PosteriorKernel<{kind_type}>"
    second = launch(codes[name], operand, memory, blocks, POSTERIOR_THREADS, WARP_BYTES).sum()
    costs, wanted = expected(lattice)
    scale = np.maximum(np.abs(costs), 1)
    got = memory.array(memory.addresses[3], cost)
    require(f"{what}, cost", got / scale, costs / scale, TOLERANCES[dtype][0])
    if with_posteriors:
        scale = np.maximum(wanted, np.finfo(dtype).tiny)  # where a posterior is 0, it must be 0
        got = memory.array(memory.addresses[4], posteriors)
        require(f"{what}, posteriors", got / scale, wanted / scale, TOLERANCES[dtype][1])
    return Counts(sums[:, :warps].sum(), sums[:, warps:].sum(), second)


def depth_and_workspace_size(lattice: Lattice, with_posteriors: bool) -> tuple[int, int]:
    """Depth of cuda/lattice.cc, and WorkspaceOf."""
    _, num_frames, num_positions, num_arcs = lattice.scores.shape
    depth = 2
    while depth <= max(dt + du for dt, du in lattice.moves):
        depth *= 2
    diagonals, of_walk = num_frames + num_positions, 2 * (num_arcs + 1) * depth
    of_position = 4 * diagonals + of_walk if with_posteriors else max(4 * (depth + ROW_MARGIN), of_walk)
    return depth, of_position * num_positions + 4 * 2 * (diagonals + COLUMN_MARGIN) + SUMS_SIZE


def _has(own: int, with_label: int, dt: int, du: int) -> bool:
    return 1 <= dt <= own if du == 0 else du == 1 and 0 <= dt < with_label


def main() -> None:
    codes = cubin.of_source("lattice_short")
    print("| moves | T, U of the array | compute, a step | copy, a step | posteriors, 32 of them | middle |")
    print("|---|---|--:|--:|--:|--:|")
    for name, logit_lengths, target_lengths, num_frames, num_positions, with_posteriors, dtype in CASES:
        of_type = ", float64" if dtype is np.float64 else ""
        what = f"{name}{of_type}{'' if with_posteriors else ', the cost alone'} | {num_frames}, {num_positions - 1}"
        lattice = lattice_of(name, logit_lengths, target_lengths, num_frames, num_positions, dtype)
        counts = count(codes, what, lattice, with_posteriors)
        steps = lattice.steps(to_end=with_posteriors)
        each = counts.second * LANES / lattice.scores.size if with_posteriors else counts.second / len(lattice.scores)
        seconds = f"{each:.0f} | -" if with_posteriors else f"- | {each:.0f}"
        print(f"| {what} | {counts.compute / steps:.0f} | {counts.copy / steps:.0f} | {seconds} |", flush=True)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
