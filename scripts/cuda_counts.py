"""Counts what the CUDA kernels move and do, without a GPU, and models their time on an H100: tables of docs/cuda.md.

    python tests/cuda_on_cpu/build.py library build/cuda_on_cpu.so
    python scripts/cuda_counts.py build/cuda_on_cpu.so

Bytes are counted by running the very kernels on the CPU: the 128-byte segments that each block reads and writes, each
once a block, since they stay in its cache. Instructions are those of whole launches of nvcc's machine code for sm_90
(row_instructions.py). A part of one utterance is run of each shape; rows and utterances are independent, so ratios are
those of the whole batch.
"""

import ctypes
import dataclasses
import functools
import pathlib
import sys
import tempfile

import check_nvcc
import cuda_cycles
import row_instructions

sys.path.insert(0, str(check_nvcc.ROOT / "tests"))
from cuda_on_cpu import module

stand_in = module.load(str(pathlib.Path(sys.argv[1]).resolve()))
sys.modules["jax_rnnt._native"] = stand_in

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jax_rnnt.ops import arcs, lattice  # noqa: E402

# NVIDIA's data sheet of the H100 SXM: bytes a second, instructions of warps a second (132 multiprocessors, 4 a cycle).
BANDWIDTH, CLOCK = 3.35e12, 1.755e9
ISSUE = 132 * 4 * CLOCK
SEGMENT = 128  # bytes that the L2 cache moves together
# Of one utterance. As in the whole batches, rows are a multiple of 16: so blocks begin where those of the batch begin.
FRAMES = 96


@dataclasses.dataclass(frozen=True)
class Shape:
    b: int
    t: int
    u: int
    v: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"({self.b},{self.t},{self.u},{self.v}) {self.dtype}"

    @property
    def rows(self) -> int:
        return self.b * self.t * (self.u + 1)


SHAPES = (
    Shape(8, 200, 50, 500),
    Shape(4, 300, 60, 1024),
    Shape(32, 300, 60, 1024, "bfloat16"),
    Shape(8, 150, 40, 28),
)


def aligned(make):
    """What `make` returns, once all arrays of it begin with a segment. On a GPU, XLA's arrays do; on a CPU, half do."""
    ctypes.CDLL(None).mallopt(ctypes.c_int(-4), ctypes.c_int(0))  # M_MMAP_MAX: else large ones lie alike in their pages
    kept = []  # so that the next arrays lie elsewhere
    for _ in range(100):
        kept.append(jax.block_until_ready(make()))
        if all(x.unsafe_buffer_pointer() % SEGMENT == 0 for x in jax.tree.leaves(kept[-1])):
            return kept[-1]
        kept.append(np.zeros(16 * len(kept), np.uint8))
    raise SystemExit(f"in 100 tries, not all arrays began with a segment of {SEGMENT} bytes")


def counted(function, *operands) -> list[dict[str, int]]:
    """The counts of the launches that `function` makes, for arrays that begin with a segment."""
    jitted = jax.jit(function)
    operands = [aligned(functools.partial(jnp.copy, x)) for x in operands]

    def launch():
        stand_in.start_counting()
        return jitted(*operands)

    aligned(launch)
    return stand_in.counts()


def rows_table(code: dict[str, list[str]]) -> None:
    print("| shape | pass | must move | moves / must | instructions a logit | memory | instructions | bound by |")
    print("|---|---|--:|--:|--:|--:|--:|---|")
    for shape in SHAPES:
        random = np.random.default_rng(0)
        run = (1, FRAMES, shape.u + 1)
        logits = jnp.asarray(random.normal(size=(*run, shape.v)), shape.dtype)
        labels = jnp.asarray(random.integers(0, shape.v, run), jnp.int32)
        norm, ct = jnp.zeros((*run, 2), jnp.float32) + 5, -jnp.ones((*run, 2), jnp.float32)
        static = {"columns": (0,), "vocabulary": shape.v, "window": (0, shape.v), "implementation": "native"}
        logits_bytes, rows = logits.nbytes, labels.size
        runs = (
            ("forward", arcs.forward, (logits, labels), {}, logits_bytes + rows * (4 + 16)),
            (
                "backward",
                arcs.backward,
                (logits, labels, norm, ct),
                {"clipped": False},
                2 * logits_bytes + rows * 20,
            ),
        )
        with np.errstate(all="ignore"):
            instructions = row_instructions.count(code, shape.v, shape.dtype)
        for (name, operation, operands, more, must), per_logit in zip(runs, instructions, strict=True):
            (counts,) = counted(functools.partial(operation, **static, **more), *operands)
            moved = SEGMENT * (counts["segments_read"] + counts["segments_written"])
            memory = shape.rows / rows * moved / BANDWIDTH
            issue = shape.rows * shape.v * per_logit / 32 / ISSUE
            bound = "memory" if memory > issue else "instructions"
            print(
                f"| {shape} | {name} | {shape.rows / rows * must / 1e6:.1f} MB | {moved / must:.3f} | {per_logit:.0f} "
                f"| {memory * 1e6:.0f} us | {issue * 1e6:.0f} us | {bound} |"
            )


def short_steps() -> dict[str, cuda_cycles.Step]:
    """What a step of the kernels for short moves takes, by template arguments."""
    with tempfile.TemporaryDirectory() as folder:
        source = check_nvcc.ROOT / "cuda" / "lattice_short.cu"
        cubin, kernels, _ = check_nvcc.compile_for(source, "90", pathlib.Path(folder))
        code = check_nvcc.machine_code(cubin)
    return {k.arguments: next(cuda_cycles.steps_of(k, code[k.name])) for k in kernels if k.kind == "ShortKernel"}


RNNT = "1, 1", ((1, 0), (0, 1))
TDT = "4, 5", (*((d, 0) for d in range(1, 5)), *((d, 1) for d in range(5)))


def lattice_table(steps: dict[str, cuda_cycles.Step]) -> None:
    stand_in.shared_of_block(227 << 10)  # an H100's
    print("| shape | pass | diagonals | barriers of a block | bytes / (arcs + posteriors) | alpha, beta | posteriors |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for name, (slots, moves) in (("RNN-T", RNNT), ("TDT", TDT)):
        for t, u in ((200, 50), (300, 60), (150, 40), (400, 120), (800, 200)):
            log_probs = jnp.asarray(np.random.default_rng(0).normal(-1, 1, (1, t, u + 1, len(moves))), jnp.float32)
            lengths = jnp.array([t], jnp.int32), jnp.array([u], jnp.int32)
            # All steps in whole chunks, and the chunks by which the last warp is behind.
            count = 4 * (-(-(t + u) // 4) + u // 32)
            warps = -(-(u + 1) // 32)
            for what, operation, must in (
                ("cost", lattice.costs, log_probs.nbytes),
                ("posteriors", lattice.posteriors, 2 * log_probs.nbytes),
            ):
                both = functools.partial(operation, moves=moves, implementation="native")
                launches = counted(both, log_probs, *lengths)
                moved = [SEGMENT * (c["segments_read"] + c["segments_written"]) for c in launches]
                step = steps[f"{slots}, {str(what == 'posteriors').lower()}"]
                second = f"{moved[1] / BANDWIDTH * 1e6:.1f} us" if what == "posteriors" else ""
                print(
                    f"| {name}, T={t}, U={u} | {what} | {t + u} | {launches[0]['barriers']} | {sum(moved) / must:.2f} "
                    f"| {count * step.cycles(-(-warps // 4)) / CLOCK * 1e6:.0f} us | {second} |"
                )


if __name__ == "__main__":
    rows_table(row_instructions.machine_code())
    print()
    lattice_table(short_steps())
