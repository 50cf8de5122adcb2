"""Runs nvcc's machine code of hidden rows and of their backward on the CPU, and holds its results to float64.

    python tests/nvcc/run_hidden_rows.py

Two tiles go through the kernels that cuda/hidden_rows.cu chooses. One is the second tile of the nodes of a mask, filled
up with copies of its last node. The other one has all nodes of one utterance; for that one it prints the instructions
of all warps, times the lanes of a warp, per number of the rows: of the rows, and of both sums. tanh is exact here; on a
GPU that of 16-bit types is right within 2^-11.
"""

import math
import struct
import sys
from typing import NamedTuple

import budgets
import cubin
import numpy as np
import operands
from launch import launch, require

sys.path.append(str(budgets.ROOT / "tests" / "support"))
import philox

# As in cuda/hidden_rows.cuh.
THREADS, VECTORS, SUM_VECTORS, SUM_PARTS, STEPS = 256, 4, 64, 4, 1 << 16
TYPES = {"bfloat16": "BFloat16", "float16": "Half", "float32": "float"}
ACTIVATIONS = ("tanh", "relu")  # the first two of jax_rnnt/ops/activations.py
KINDS = [("bfloat16", "tanh", 0), ("bfloat16", "relu", 0), ("bfloat16", "tanh", 6554), ("float16", "tanh", 0)]
KINDS += [("float32", "tanh", 0), ("float32", "relu", 6554)]
SEED = np.array([7, 2**32 - 9], np.uint32)
# Of a row's number; sums add up to 32 numbers of size 1, in float32.
TOLERANCE, SUM_TOLERANCE = {"bfloat16": 2**-7, "float16": 2**-9, "float32": 2e-6}, 3e-5


def stored(x: np.ndarray, dtype: str) -> np.ndarray:
    return operands.to_bfloat16(x.astype(np.float32)) if dtype == "bfloat16" else x.astype(dtype)


def exact(x: np.ndarray, dtype: str) -> np.ndarray:
    return (operands.from_bfloat16(x) if dtype == "bfloat16" else x).astype(np.float64)


def divisor(by: int) -> bytes:
    """The struct Divisor of cuda/divisor.h."""
    shift = 31 + (by - 1).bit_length()
    return struct.pack("<IIi", by, -(-(1 << shift) // by), shift)


class Tile(NamedTuple):
    """Rows of some nodes of an array [batch, frames, positions]."""

    shape: tuple[int, int, int]
    place: np.ndarray
    row: np.ndarray  # of each node, from the first tile on, or -1
    real: int  # the number of rows that are no copies
    vectors: int  # in a row


def second_tile() -> Tile:
    shape, rows = (2, 12, 16), 128
    mask = np.random.default_rng(0).random(math.prod(shape)) < 0.6
    own = np.flatnonzero(mask)[rows:]
    assert 0 < len(own) < rows
    place = np.pad(own, (0, rows - len(own)), mode="edge")
    return Tile(shape, place.astype(np.int32), np.where(mask, np.cumsum(mask) - 1, -1).astype(np.int32), len(own), 3)


def whole_tile() -> Tile:
    shape = 1, 32, 32
    nodes = np.arange(math.prod(shape), dtype=np.int32)
    return Tile(shape, nodes, nodes, len(nodes), 2)


def count(codes: dict[str, list[str]], tile: Tile, dtype: str, activation: str, dropped: int) -> tuple[float, float]:
    """Instructions per number: of the rows, and of both sums."""
    random, (batch, frames, positions), vectors = np.random.default_rng(1), tile.shape, tile.vectors
    rows, width = len(tile.place), vectors * 16 // (4 if dtype == "float32" else 2)
    shapes = (batch, frames, width), (batch, positions, width), (rows, width)
    encoded, predicted, gradient = (stored(random.normal(0, 1, shape), dtype) for shape in shapes)
    b, t, u = np.unravel_index(tile.place, tile.shape)
    x = exact(encoded, dtype)[b, t] + exact(predicted, dtype)[b, u]
    value, slope = (np.tanh(x), 1 - np.tanh(x) ** 2) if activation == "tanh" else (np.maximum(x, 0), x > 0)
    factor = (philox.bits_of_nodes(SEED, b, t, u, width) >= dropped) * STEPS / (STEPS - dropped)
    template = f"<{TYPES[dtype]}, {ACTIVATIONS.index(activation)}>"
    what = f"{dtype}, {activation}, {dropped} dropped"
    dropout = (dropped, STEPS / (STEPS - dropped))

    memory = operands.Memory(encoded, predicted, tile.place, SEED, np.zeros_like(gradient))
    at = memory.addresses
    operand = struct.pack("<QQQQQIf", *at[:3], at[4], at[3], *dropout)
    operand += struct.pack("<qii", rows, len(tile.row), vectors)
    operand += divisor(vectors) + divisor(positions) + divisor(frames)
    blocks = -(-rows * vectors // (THREADS * VECTORS))
    of_rows = launch(codes[f"HiddenKernel{template}"], operand, memory, blocks, THREADS, 0).sum()
    wanted = value * factor
    scale = np.maximum(np.abs(wanted), 2.0**-8)
    got = exact(memory.array(at[4], gradient), dtype)
    require(f"{what}, rows", got / scale, wanted / scale, TOLERANCE[dtype])

    each = (exact(gradient, dtype) * slope * factor)[: tile.real]
    of_sums = 0
    for of_frames in (True, False):
        own, other = (encoded, predicted) if of_frames else (predicted, encoded)
        before = random.normal(0, 1, own.shape).astype(np.float32)
        memory = operands.Memory(gradient, own, other, before, tile.place, tile.row, SEED)
        at = memory.addresses
        lines = own.shape[0] * own.shape[1]
        blocks = -(-lines * vectors // SUM_VECTORS)
        operand = struct.pack("<QQQQQQQ", *at[:4], at[3], *at[4:6]) + struct.pack("<QIf", at[6], *dropout)
        operand += struct.pack(
            "<qqiiiii?xxx", rows, lines, len(tile.row), vectors, frames, positions, blocks, of_frames
        )
        shared = 4 * (width // vectors) * SUM_VECTORS * (SUM_PARTS - 1)
        code = codes[f"HiddenSumsKernel{template}"]
        of_sums += launch(code, operand, memory, blocks, SUM_VECTORS * SUM_PARTS, shared).sum()
        wanted = before.astype(np.float64)
        np.add.at(wanted, (b[: tile.real], (t if of_frames else u)[: tile.real]), each)
        got = memory.array(at[3], before)
        require(f"{what}, sums of {'frames' if of_frames else 'positions'}", got, wanted, SUM_TOLERANCE)
    numbers = rows * width
    return of_rows * operands.LANES / numbers, of_sums * operands.LANES / numbers


def main() -> None:
    codes = cubin.of_source("hidden_rows")
    print("| rows | activation | dropout, in 2^-16 | rows | both sums |")
    print("|---|---|--:|--:|--:|")
    for kind in KINDS:
        count(codes, second_tile(), *kind)
        rows, sums = count(codes, whole_tile(), *kind)
        print(f"| {' | '.join(map(str, kind))} | {rows:.1f} | {sums:.1f} |", flush=True)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
