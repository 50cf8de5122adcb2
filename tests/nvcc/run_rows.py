"""Runs nvcc's machine code of operation 1's kernels on the CPU, and holds its results to float64.

    python tests/nvcc/run_rows.py

A few hundred rows of normal logits, with a label each and one static column, go through the kernels that cuda/arcs.cu
chooses. In float32, 2^x is exact here; on a GPU it is right within 2 ULP. Prints the instructions of all warps, times
the lanes of a warp, per logit.
"""

import math
import struct

import cubin
import numpy as np
import operands
from launch import launch, require

# As in cuda/arcs_forward.cuh and cuda/arcs_backward.cuh.
FORWARD_THREADS, BACKWARD_THREADS, TILE_ENTRIES = 256, 128, 2048
TYPES = {"float32": "float", "bfloat16": "BFloat16", "float16": "Half", "float64": "double"}
CASES = [(500, t) for t in TYPES] + [(513, "bfloat16")] + [(v, t) for v in (1024, 28) for t in TYPES]
# Of a gradient; of a norm, and twice that of a log-probability.
TOLERANCE = {"float32": 2e-6, "bfloat16": 5e-3, "float16": 6e-4, "float64": 1e-14}
NORM_TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
ARCS = 2


def lanes_and_unroll(width: int, itemsize: int) -> tuple[int, int]:
    """What ForWidth in cuda/arcs.cu chooses."""
    size = 16 // itemsize
    vectors = width // size + (0 if width % size == 0 else 2)
    many = 8 if itemsize == 4 else 4
    table = ((8, (2, 4)), (16, (4, 4)), (32, (8, 4)), (512, (8, many)))
    return next((choice for limit, choice in table if vectors <= limit), (32, many))


def rows_operand(memory: operands.Memory, count: int, width: int, itemsize: int) -> bytes:
    """The struct Rows of cuda/rows.cuh: logits, their end, labels, no offsets, sizes, columns, window, in a row."""
    logits, labels = memory.addresses[:2]
    pointers = struct.pack("<QQQQq", logits, logits + count * width * itemsize, labels, 0, count)
    return pointers + struct.pack("<iii64iiiii", width, width, ARCS - 1, *[0] * 64, 0, width, 0, width) + bytes(4)


def logits_of(dtype: str, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """As stored, and as float64."""
    x = np.random.default_rng(0).normal(0, 3, (count, width))
    if dtype == "bfloat16":
        stored = operands.to_bfloat16(x.astype(np.float32))
        return stored, operands.from_bfloat16(stored).astype(np.float64)
    stored = x.astype(dtype)
    return stored, stored.astype(np.float64)


def count(codes: dict[str, list[str]], width: int, dtype: str) -> tuple[float, float]:
    """Instructions a logit, times the lanes of a warp: forward, backward."""
    rows = 512 if width < 100 else 64
    stored, x = logits_of(dtype, rows, width)
    size = 16 // stored.itemsize
    compute = np.dtype("float64" if dtype == "float64" else "float32")
    labels = np.random.default_rng(1).integers(1, width, rows).astype(np.int32)
    row = np.arange(rows)
    top = x.max(-1)
    norm = np.stack([top, np.log(np.exp(x - top[:, None]).sum(-1))], -1)
    log_probs = np.stack([x[:, 0], x[row, labels]], -1) - norm.sum(-1)[:, None]

    memory = operands.Memory(stored, labels, np.zeros((rows, ARCS), compute), np.zeros((rows, 2), compute))
    lanes, unroll = lanes_and_unroll(width, stored.itemsize)
    code = codes[f"ForwardKernel<{TYPES[dtype]}, {lanes}, {unroll}>"]
    operand = rows_operand(memory, rows, width, stored.itemsize) + struct.pack("<QQ", *memory.addresses[2:])
    forward = launch(code, operand, memory, -(-rows * lanes // FORWARD_THREADS), FORWARD_THREADS, 0)
    what = f"V {width}, {dtype}"
    tolerance = NORM_TOLERANCE[compute.name]
    require(f"{what}, norm", memory.array(memory.addresses[3], norm.astype(compute)), norm, tolerance)
    got = memory.array(memory.addresses[2], log_probs.astype(compute))
    require(f"{what}, log_probs", got, log_probs, 2 * tolerance)

    cotangent = -np.random.default_rng(2).random((rows, ARCS)).astype(compute)
    norm = norm.astype(compute)
    grad = -cotangent.sum(-1, dtype=np.float64)[:, None] * np.exp(x - norm.astype(np.float64).sum(-1)[:, None])
    grad[:, 0] += cotangent[:, 0]
    grad[row, labels] += cotangent[:, 1]
    memory = operands.Memory(stored, labels, norm, cotangent, np.zeros_like(stored))
    least = size // math.gcd(size, width)
    tile_rows = least * max(1, min(TILE_ENTRIES // (least * width), operands.LANES // least))
    tiles = -(-rows // tile_rows)
    terms = -(-(3 * compute.itemsize + 4) // 16) * 16
    tile_bytes = -(-tile_rows * (terms + 8 + ARCS * (compute.itemsize + 4)) // 16) * 16
    stride = operands.LANES * size
    operand = rows_operand(memory, rows, width, stored.itemsize)
    operand += struct.pack("<QQQQ", memory.addresses[2], memory.addresses[3], 0, memory.addresses[4])
    operand += struct.pack("<iiq???x", tile_rows, tile_bytes, tiles, True, False, False)
    operand += struct.pack("<IIii", -(-(1 << 31) // width), -(-(1 << 31) // ARCS), stride // width, stride % width)
    warps = BACKWARD_THREADS // operands.LANES
    code = codes[f"BackwardKernel<{TYPES[dtype]}>"]
    backward = launch(code, operand, memory, -(-tiles // warps), BACKWARD_THREADS, warps * tile_bytes)
    got = memory.array(memory.addresses[4], stored)
    got = operands.from_bfloat16(got) if dtype == "bfloat16" else got
    require(f"{what}, gradient", got.astype(np.float64), grad, TOLERANCE[dtype])
    return tuple(n.sum() * operands.LANES / (rows * width) for n in (forward, backward))


def machine_code() -> dict[str, list[str]]:
    """Instructions of each row kernel, as nvcc makes them."""
    return cubin.of_source("arcs")


def main() -> None:
    codes = machine_code()
    print("| V | logits | forward | backward |")
    print("|--:|---|--:|--:|")
    for width, dtype in CASES:
        forward, backward = count(codes, width, dtype)
        print(f"| {width} | {dtype} | {forward:.1f} | {backward:.1f} |", flush=True)


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main()
