"""Models how many cycles a step of each lattice kernel takes, from its machine code: a table of docs/cuda.md.

    python scripts/cuda_cycles.py [--architecture 90] [--arcs 2] [--cuda FOLDER]

FOLDER holds other kernels than those of cuda/, such as an older version's, with the headers of its cpp/ beside it. A
step is a diagonal. A row of the table is a loop over them: the slower one of alpha and beta, over the whole lattice
(ShortKernel), or both of them in a half of it (LatticeKernel).
--arcs: how often loops over a node's arcs turn, where the number is not known when compiling.

The model follows the loop's instructions in order, three turns of it, and takes the time of the last. An instruction
starts a cycle after the one before it, when the registers and predicates that it reads are there (LATENCY), and when
the unit that it needs is free (UNITS: for a whole warp on a quarter of a multiprocessor). "One warp" is what a step
takes for a warp that has its scheduler to itself, but for the warp that copies for it. "Two warps" is what it takes
with two such warps on each scheduler: the longer of a warp's own time and twice what the issue or the busiest unit
takes. Conditional code counts as taken. Of two branches that exclude each other the one without float64 counts, else
the longer one. Not modelled: instruction fetches, bank conflicts, register banks, waiting for the other warps at a
barrier. Modelled, never run on a GPU.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import check_nvcc

# Cycles from the start of an instruction to that of one that reads its result; the first that fits. Measured on V100 to
# H100 by several groups: 4 to 6 for arithmetic, 23 to 33 for shuffles and shared memory, 20 to 40 for the special
# functions' unit, about 270 to 300 for what the L2 cache has.
LATENCY = (
    (r"SHFL", 25), (r"LDS", 30), (r"LDGSTS|LDGDEPBAR|DEPBAR", 1), (r"LDG|LD\b|ATOM", 300), (r"LDC|ULDC|S2R|S2UR", 40),
    (r"MUFU", 30), (r"F2I|I2F|F2F|FRND", 25), (r"D(ADD|MUL|FMA|SETP)", 10), (r"BAR", 30), (r"WARPSYNC|VOTE", 12),
    (r"BRA|BSSY|BSYNC|EXIT", 1), (r"IMAD|.*SETP|PLOP3|VIADDMNMX", 5), (r"", 5),
)  # fmt: skip
# Cycles that an instruction keeps a unit: 16 lanes of integers and comparisons, 32 of float32, 4 of special functions.
# Shared memory and shuffles: a quarter of what the multiprocessor does, 128 bytes a cycle.
UNITS = (
    ("special", r"MUFU|F2I|I2F|F2F|FRND", 8), ("float64", r"D(ADD|MUL|FMA|SETP)", 2),
    ("memory", r"LDGSTS|(LDS|STS)\.64|(LDG|STG|LD|ST)\b", 8), ("memory", r"LDS|STS|SHFL", 4),
    ("float32", r"F(FMA|MUL|ADD)\b", 1), ("integer", r"IMAD", 2),
    ("control", r"BRA|BSSY|BSYNC|BAR|WARPSYNC|NOP|EXIT", 1), ("uniform", r"U[A-Z0-9]+", 2), ("compare", r"", 2),
)  # fmt: skip
STORES = ("STS", "STG", "ST", "LDGSTS")  # they write no register
TURNS = 3


class Instruction(NamedTuple):
    address: int
    guard: str
    operation: str
    operands: tuple[str, ...]

    @property
    def target(self) -> int | None:
        if not re.match(r"BRA(\.U)?$", self.operation):  # not BRA.DIV, which a warp that is together never takes
            return None
        return int(self.operands[-1], 16)


def parse(line: str) -> Instruction:
    address, text = line.split(maxsplit=1)
    guard, operation, rest = re.match(r"(@!?U?P\w+\s+)?(\S+)\s*(.*)", text).groups()
    operands = tuple(o.strip() for o in rest.replace("desc", "").split(",") if o.strip())
    return Instruction(int(address, 16), (guard or "").strip(" @!"), operation, operands)


def registers(text: str, width: int = 1) -> set[str]:
    found = set()
    for kind, number, pair in re.findall(r"\b(U?[RP])(\d+)\b(?:\.reuse)?(\.64)?", text):
        wide = max(width, 2 if pair else 1) if kind.endswith("R") else 1
        found |= {f"{kind}{int(number) + i}" for i in range(wide)}
    return found


def reads_and_writes(i: Instruction) -> tuple[set[str], set[str]]:
    name = i.operation.split(".")[0]
    width = 4 if ".128" in i.operation else 2 if re.search(r"\.64|WIDE|^CS2R|^D[AMF]|F64", i.operation) else 1
    writes: set[str] = set()
    count = 0
    if name not in STORES and name not in (
        "BRA",
        "BAR",
        "WARPSYNC",
        "BSSY",
        "BSYNC",
        "EXIT",
        "NOP",
        "DEPBAR",
        "LDGDEPBAR",
    ):
        count = 1
        if len(i.operands) > 1 and (
            i.operands[0].startswith(("P", "UP")) or (re.match(r"U?P\d$", i.operands[1]) and name in ("IADD3", "LEA"))
        ):
            count = 2
    for operand in i.operands[:count]:
        writes |= registers(operand, width)
    reads = registers(i.guard)
    for k, operand in enumerate(i.operands[count:], count):
        wide = 1
        if "[" not in operand and (name in STORES or name.startswith("D")):
            wide = width
        elif "WIDE" in i.operation and k == len(i.operands) - 1:
            wide = 2
        reads |= registers(operand, wide)
    return reads, writes


class Loop(NamedTuple):
    first: int  # indices of instructions
    last: int

    def holds(self, other: "Loop") -> bool:
        return self != other and self.first <= other.first and other.last <= self.last


def loops_of(code: list[Instruction]) -> list[Loop]:
    index = {i.address: k for k, i in enumerate(code)}
    last: dict[int, int] = {}
    for k, i in enumerate(code):
        if i.target is not None and i.target < i.address:
            last[index[i.target]] = k
    return [Loop(*pair) for pair in last.items()]


def turn_of(code: list[Instruction], loop: Loop, inner: list[Loop], arcs: int) -> list[Instruction]:
    """The instructions of a turn of a loop."""
    index = {i.address: k for k, i in enumerate(code)}
    turns = {w.last: 1 if any(w.holds(v) for v in inner) else arcs for w in inner}
    taken: list[Instruction] = []
    left: dict[int, int] = {}
    k = loop.first
    while k <= loop.last:
        i = code[k]
        taken.append(i)
        if i.target is None or k == loop.last:
            k += 1
            continue
        to = index[i.target]
        if to < k:
            left[k] = left.get(k, turns.get(k, 1)) - 1
            again = left[k] > 0
            if not again:
                del left[k]
            k = to if again else k + 1
        elif not i.guard:
            k = to
        elif to <= loop.last and code[to - 1].target is not None and not code[to - 1].guard and to > k + 1:
            end = index[code[to - 1].target]
            branches = code[k + 1 : to], code[to : max(end, to)]
            slow = [any(re.match(r"D(ADD|MUL|FMA)", j.operation) for j in b) for b in branches]
            first = (slow[0], -len(branches[0])) <= (slow[1], -len(branches[1]))
            k = k + 1 if first else to
        else:
            k += 1
    return taken


class Model(NamedTuple):
    instructions: int
    chain: int
    units: dict[str, int]


def model(turn: list[Instruction]) -> Model:
    parsed = [(i, *reads_and_writes(i)) for i in turn]
    ready: dict[str, int] = {}
    free: dict[str, int] = {}
    now, begun, ended = 0, 0, 0
    for _ in range(TURNS):
        begun = now
        for i, reads, writes in parsed:
            unit, _, busy = next(row for row in UNITS if re.match(row[1], i.operation))
            latency = next(cycles for pattern, cycles in LATENCY if re.match(pattern, i.operation))
            now = max([now + 1, free.get(unit, 0), *(ready.get(r, 0) for r in reads)])
            free[unit] = now + busy
            for r in writes:
                ready[r] = now + latency
            if i.operation.startswith(("BAR", "WARPSYNC")):
                now += latency
        ended = now
    units: dict[str, int] = {}
    for i in turn:
        unit, _, busy = next(row for row in UNITS if re.match(row[1], i.operation))
        units[unit] = units.get(unit, 0) + busy
    return Model(len(turn), ended - begun, units)


class Step(NamedTuple):
    """What a step takes: of instructions, of cycles alone, of cycles of the busiest unit."""

    part: str
    instructions: float
    chain: float
    busiest: float

    def cycles(self, warps: int) -> float:
        """With so many warps on a scheduler, not counting those that copy."""
        return max(self.chain, warps * self.busiest)


def steps_of(kernel: check_nvcc.Kernel, text: list[str], arcs: int = 2) -> Iterator[Step]:
    code = [parse(line) for line in text]
    apart = [int(i.operands[-1], 16) for i in code if i.operation == "BRA.DIV"]  # code for warps that are not together
    code = [i for i in code if i.address < min(apart, default=1 << 32)]
    short = kernel.kind == "ShortKernel"
    marker = r"SHFL\.UP" if short else r"MUFU\.EX2"
    all_loops = loops_of(code)

    def outer(marker: str) -> list[Loop]:
        marked = [w for w in all_loops if any(re.match(marker, i.operation) for i in code[w.first : w.last + 1])]
        return sorted(w for w in marked if not any(v.holds(w) for v in marked))

    def turn(loop: Loop) -> list[Instruction]:
        return turn_of(code, loop, [w for w in all_loops if loop.holds(w)], arcs)

    copies = [model(turn(loop)) for loop in outer("LDGSTS")]
    found = []
    for part, loop in zip(("first", "posteriors"), outer(marker), strict=False):
        instructions = turn(loop)
        steps = sum(re.match(marker, i.operation) is not None for i in instructions) / (2 if short else 2 * arcs)
        found.append(step_of("whole" if short else part, steps, model(instructions), copies))
    yield from [max(found, key=lambda step: step.cycles(1))] if short else found  # the slower one of alpha and beta


def step_of(part: str, steps: float, own: Model, copies: list[Model]) -> Step:
    """A step of a warp, and of the warp that copies for it, where there is one."""
    both = [own, *sorted(copies, key=lambda m: m.instructions)[-1:]]
    instructions = sum(m.instructions for m in both)
    units = [sum(m.units.get(name, 0) for m in both) for name in own.units]
    chain = max(m.chain for m in both)
    return Step(part, instructions / steps, chain / steps, max(instructions, *units) / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="90")
    parser.add_argument("--arcs", type=int, default=2)
    parser.add_argument("--cuda", type=pathlib.Path, default=check_nvcc.ROOT / "cuda")
    arguments = parser.parse_args()
    sources = [p for p in sorted(arguments.cuda.glob("lattice*.cu")) if "__global__" in p.read_text()]
    print("| kernel | part | instructions | one warp | two warps |\n|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(check_nvcc.compile_for, s, arguments.architecture, pathlib.Path(folder)) for s in sources]
        for cubin, kernels, _ in (job.result() for job in jobs):
            code = check_nvcc.machine_code(cubin)
            for kernel in kernels:
                if kernel.kind in ("LatticeKernel", "ShortKernel") and "double" not in kernel.name:
                    for s in steps_of(kernel, code[kernel.name], arguments.arcs):
                        cycles = f"{s.cycles(1):.0f} | {s.cycles(2):.0f}"
                        print(f"| `{kernel.name}` | {s.part} | {s.instructions:.0f} | {cycles} |")


if __name__ == "__main__":
    main()
