"""Runs launches of nvcc's machine code for sm_90 on the CPU, and counts the instructions of each warp.

Lanes that part are run one after the other, the one that is behind first; each turn counts as an instruction of the
warp. Warps run from barrier to barrier, in an order that changes with each barrier.
"""

import re
from typing import NamedTuple

import numpy as np
from instructions import Instructions
from operands import LANES, Memory
from shared_memory import Shared

PARAMETERS = 0x210  # where a kernel's own begin in the constant bank
BANK = 1 << 12


class Instruction(NamedTuple):
    predicate: str  # "" if there is none
    kind: str
    modifiers: list[str]
    operands: list[str]


def parse(code: list[str]) -> dict[int, Instruction]:
    """The instructions by address."""
    result = {}
    for line in code:
        address, rest = line.replace(".reuse", "").split(maxsplit=1)
        predicate, name, operands = re.fullmatch(r"(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*?)\s*", rest).groups()
        kind, *modifiers = name.split(".")
        operands = [x.strip() for x in re.split(r",(?![^\[]*\])", operands)] if operands else []
        result[int(address, 16)] = Instruction(predicate or "", kind, modifiers, operands)
    return result


class Warp(Instructions):
    """One warp, which runs ``code``."""

    def __init__(self, code: dict, constants: bytes, memory: Memory, shared: Shared, block: int, warp: int):
        super().__init__(constants, memory, shared, block, warp)
        self.code, self.count = code, 0
        self.lanes = {min(code): np.ones(LANES, bool)}  # by address, those that are there
        self.alive = np.ones(LANES, bool)
        self.meetings = {}  # of BSSY, by its register: the lanes that BSYNC waits for
        self.barrier, self.vote = "", False  # the one that it waits at; whether one of its threads says so there

    def run(self) -> None:
        """Runs it to the next barrier of the block, or to its end."""
        self.barrier, self.shared.warp = "", self.warp
        while self.lanes and not self.barrier:
            here = min((a for a, lanes in self.lanes.items() if not self._waits(a, lanes)), default=None)
            if here is None:
                raise RuntimeError(f"lanes wait for others that do not come, at {', '.join(map(hex, self.lanes))}")
            lanes, (predicate, kind, modifiers, x) = self.lanes.pop(here), self.code[here]
            self.count += 1
            chosen = lanes & self.predicate(predicate) if predicate else lanes
            if kind == "EXIT":
                self.alive &= ~chosen
                lanes = lanes & ~chosen
            elif kind == "BRA":
                if modifiers == ["DIV"]:
                    chosen = np.zeros(LANES, bool) if lanes.all() else chosen
                elif len(x) == 2:
                    chosen = chosen & self.predicate(x[0])
                self._move(int(x[-1], 16), chosen)
                lanes = lanes & ~chosen
            elif kind == "BSSY":
                self.meetings[x[0]] = lanes
            elif kind == "BAR":
                self.active, self.barrier = chosen, f"{modifiers[0]} {x[0]}"
                self.vote = len(x) > 1 and bool((self.predicate(x[1]) & chosen).any())
            elif kind not in ("BSYNC", "NOP", "WARPSYNC") and chosen.any():
                self.active = chosen
                self.step(kind, modifiers, x)
            self._move(here + 16, lanes)

    def _move(self, to: int, lanes: np.ndarray) -> None:
        if lanes.any():
            self.lanes[to] = self.lanes[to] | lanes if to in self.lanes else lanes

    def _waits(self, here: int, lanes: np.ndarray) -> bool:
        """Whether lanes that are here must wait for others."""
        _, kind, modifiers, x = self.code[here]
        if kind == "BSYNC":
            return bool((self.meetings[x[0]] & self.alive & ~lanes).any())
        if kind == "WARPSYNC" and modifiers != ["ALL"]:
            raise NotImplementedError(f"WARPSYNC.{modifiers}")
        return kind in ("BAR", "WARPSYNC") and bool((self.alive & ~lanes).any())


def _run_block(warps: list[Warp], shared: Shared) -> None:
    while warps:
        for warp in warps:
            warp.run()
        warps = [warp for warp in reversed(warps) if warp.lanes]
        if len({warp.barrier for warp in warps}) > 1:
            raise RuntimeError("warps of a block wait at different barriers")
        any_thread = any(warp.vote for warp in warps)
        for warp in warps:
            warp.any_thread = any_thread
        shared.end_turn()


def launch(code: list[str], operand: bytes, memory: Memory, blocks: int, threads: int, shared: int) -> np.ndarray:
    """Runs a grid with ``shared`` bytes per block, and returns the instructions of each warp [blocks, warps]."""
    bank = (threads.to_bytes(4, "little").ljust(PARAMETERS, b"\0") + operand).ljust(BANK, b"\0")
    parsed = parse(code)
    counts = []
    for block in range(blocks):
        of_block = Shared(shared)
        warps = [Warp(parsed, bank, memory, of_block, block, warp) for warp in range(threads // LANES)]
        _run_block(warps, of_block)
        counts.append([warp.count for warp in warps])
    return np.array(counts)


def require(what: str, got: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    error = np.abs(got - wanted).max()
    if not error <= tolerance:
        raise SystemExit(f"{what}: nvcc's code is off by {error:.3g}, more than {tolerance:.3g}")
