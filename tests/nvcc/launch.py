"""Runs launches of nvcc's machine code for sm_90 on the CPU, and counts the instructions of each warp.

Lanes that part are run one after the other, the one that is behind first; each turn counts as an instruction of the
warp. Warps run in turn, each until it comes to a barrier, sets a count, or waits for one that another warp sets. Their
order changes with each turn.
"""

import re
from typing import NamedTuple

import numpy as np
from instructions import Instructions
from operands import LANES, Memory
from shared_memory import Shared

PARAMETERS = 0x210  # where a kernel's own begin in the constant bank
BANK = 1 << 12
LOOP = 16  # a count that is read again after fewer instructions is waited for


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
        self.asked: tuple[int, int, bytes] | None = None  # where and when it read counts last, and what they were

    def run(self) -> bool:
        """Runs it until it waits, has set a count, or ends. Returns whether it has run at all."""
        self.shared.warp, before = self.warp, self.count
        while self.lanes and not self.barrier:
            here = min((a for a, lanes in self.lanes.items() if not self._waits(a, lanes)), default=None)
            if here is None:
                raise RuntimeError(f"lanes wait for others that do not come, at {', '.join(map(hex, self.lanes))}")
            lanes, (predicate, kind, modifiers, x) = self.lanes.pop(here), self.code[here]
            set_count = False
            if kind in ("LDS", "STS") and self.shared.is_count(at := self.address(x[kind == "LDS"]), lanes):
                if kind == "LDS" and self._asks_again(here, at[lanes]):
                    self.lanes[here] = lanes
                    break
                set_count = kind == "STS" and self.shared.fenced
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
            elif kind not in ("BSYNC", "NOP", "WARPSYNC", "YIELD") and chosen.any():
                self.active = chosen
                self.step(kind, modifiers, x)
            self._move(here + 16, lanes)
            if set_count:
                break
        return self.count > before

    def _asks_again(self, here: int, at: np.ndarray) -> bool:
        """Whether it reads counts in a loop, and they are what they were."""
        values = self.shared.bytes.view(np.int32)[at // 4].tobytes()
        last, self.asked = self.asked, (here, self.count, values)
        return last is not None and last[0] == here and self.count - last[1] < LOOP and last[2] == values

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
        have_run = [warp.run() for warp in warps]
        warps = [warp for warp in reversed(warps) if warp.lanes]
        if warps and all(warp.barrier for warp in warps):
            if len({warp.barrier for warp in warps}) > 1:
                raise RuntimeError("warps of a block wait at different barriers")
            any_thread = any(warp.vote for warp in warps)
            for warp in warps:
                warp.any_thread, warp.barrier = any_thread, ""
            shared.end_turn()
        elif not any(have_run):
            raise RuntimeError("all warps wait for one another")


def launch(
    code: list[str],
    operand: bytes,
    memory: Memory,
    blocks: int,
    threads: int,
    shared: int,
    counts: range = range(0),
) -> np.ndarray:
    """Runs a grid with ``shared`` bytes per block, and returns the instructions of each warp [blocks, warps].

    ``counts``: which of these bytes are counts that warps wait for.
    """
    bank = (threads.to_bytes(4, "little").ljust(PARAMETERS, b"\0") + operand).ljust(BANK, b"\0")
    parsed = parse(code)
    totals = []
    for block in range(blocks):
        of_block = Shared(shared, threads // LANES, counts)
        warps = [Warp(parsed, bank, memory, of_block, block, warp) for warp in range(threads // LANES)]
        _run_block(warps, of_block)
        totals.append([warp.count for warp in warps])
    return np.array(totals)


def require(what: str, got: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    error = np.abs(got - wanted).max()
    if not error <= tolerance:
        raise SystemExit(f"{what}: nvcc's code is off by {error:.3g}, more than {tolerance:.3g}")
