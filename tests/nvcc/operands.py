"""What a warp of nvcc's machine code reads and writes: registers, predicates, constants, literals, memory.

Every value is that of all 32 lanes of a warp. 32 bits stand in 64 (so that sums keep their carry); a number of 64 bits
stands in two registers.
"""

import functools
import re
from typing import NamedTuple

import numpy as np

LANES = 32
MASK = np.uint64(0xFFFFFFFF)
GAP = 256  # bytes between arrays


class Memory:
    """Arrays, aligned to 256 bytes as XLA's are. What lies between them is NaN."""

    def __init__(self, *arrays: np.ndarray):
        self.addresses, end = [], GAP
        for array in arrays:
            self.addresses.append(end)
            end += -(-array.nbytes // GAP) * GAP + GAP
        self.bytes = np.full(end, 0xFF, np.uint8)
        for address, array in zip(self.addresses, arrays, strict=True):
            self.bytes[address : address + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)

    def read(self, at: np.ndarray, active: np.ndarray, size: int) -> np.ndarray:
        return self.bytes.view(f"u{size}")[self.places(at, active, size)]

    def write(self, at: np.ndarray, active: np.ndarray, value: np.ndarray, size: int) -> None:
        self.bytes.view(f"u{size}")[self.places(at, active, size)[active]] = value[active]

    def places(self, at: np.ndarray, active: np.ndarray, size: int) -> np.ndarray:
        """The indices of numbers of `size` bytes; of lanes that are not active, any."""
        at = np.where(active, at, GAP)
        if (at < GAP).any():
            raise IndexError(f"an access at {at.min():#x}, below all arrays")
        return at // size

    def array(self, address: int, like: np.ndarray) -> np.ndarray:
        return np.frombuffer(self.bytes[address : address + like.nbytes].tobytes(), like.dtype).reshape(like.shape)


def floats(x: np.ndarray) -> np.ndarray:
    return x.astype(np.uint32).view(np.float32)


def bits(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)


def signed(x: np.ndarray) -> np.ndarray:
    return x.astype(np.uint32).view(np.int32).astype(np.int64)


def bfloat16(x: np.ndarray) -> np.ndarray:
    wide = bits(x)
    rounded = (wide + np.uint64(0x7FFF) + (wide >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(x), np.uint64(0x7FFF), rounded)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    return bfloat16(x).astype(np.uint16)


def from_bfloat16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)


def float16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).view(np.uint16).astype(np.uint64)


def from_float16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.uint16).view(np.float16).astype(np.float32)


class Operand(NamedTuple):
    """An operand as the listing has it: [sign]body, where the body is a register, a constant or a literal."""

    sign: str
    file: str  # R, UR or "" for none
    number: int  # of the register; the offset of a constant
    index: int | None  # the register that is added to a constant's offset
    half: int | None  # of a register: which 16 bits
    literal: tuple[np.ndarray, np.ndarray] | None  # 32 bits, and those above them


@functools.cache
def decode(text: str) -> Operand:
    sign, body = re.fullmatch(r"([-~|]*)(.*?)\|?\s*", text).groups()
    half = re.search(r"\.H([01])_H[01]$", body)
    body = re.sub(r"\.\w+$", "", body) if half or body.endswith(".64") else body
    which = int(half[1]) if half else None
    if found := re.fullmatch(r"(U?R)(\d+)", body):
        return Operand(sign, found[1], int(found[2]), None, which, None)
    if found := re.fullmatch(r"c\[0x0\]\[(?:R(\d+)\+|RZ)?(0x[0-9a-f]+)?\]", body):
        return Operand(sign, "c", int(found[2] or "0", 16), int(found[1]) if found[1] else None, None, None)
    if body in ("RZ", "URZ", "SRZ"):
        value = 0
    elif body.startswith("0x"):
        value = int(body, 16)
    else:
        value = int(np.float32(body).view(np.uint32))
    return Operand(sign, "", 0, None, which, (np.full(LANES, value, np.uint64), np.zeros(LANES, np.uint64)))


@functools.cache
def predicate_of(text: str) -> tuple[bool, int, bool]:
    """Whether it is uniform, its number, whether it is negated."""
    name = text.lstrip("!")
    number = name.lstrip("UP")
    return name.startswith("U"), 7 if number == "T" else int(number), text.startswith("!")


@functools.cache
def address_of(text: str) -> tuple[str, bool, str, int]:
    """Of [R.64+UR+offset]: the register, whether it is one of 64 bits, the uniform register, the offset."""
    found = re.search(r"\[(?:(R\d+|RZ)(\.64|\.U32)?)?\+?(UR\d+)?\+?(-?0x[0-9a-f]+)?\]$", text)
    base, wide, uniform, offset = found.groups()
    base = "" if base is None or base == "RZ" else base
    return base, wide == ".64", uniform or "", int(offset, 16) if offset else 0


class Operands:
    """Of one warp: ``block`` and ``warp`` are its place in the grid, ``constants`` the bank with its parameters."""

    def __init__(self, constants: bytes, block: int, warp: int):
        self.constants = np.frombuffer(constants, np.uint8)
        self.r = np.zeros((256, LANES), np.uint64)
        self.u = np.zeros((64, LANES), np.uint64)
        self.p = np.zeros((8, LANES), bool)
        self.up = np.zeros((8, LANES), bool)
        self.p[7] = self.up[7] = True
        self.block, self.warp = block, warp
        self.threads = warp * LANES + np.arange(LANES, dtype=np.uint64)
        self.active = np.ones(LANES, bool)

    def predicate(self, text: str) -> np.ndarray:
        uniform, number, negated = predicate_of(text)
        value = (self.up if uniform else self.p)[number]
        return ~value if negated else value

    def constant(self, text: str, size: int) -> np.ndarray:
        operand = decode(text)
        at = np.full(LANES, operand.number)
        if operand.index is not None:
            at = np.where(self.active, at + signed(self.r[operand.index]), 0)
        rows = self.constants[at[:, None] + np.arange(size)].astype(np.uint64)
        return sum(rows[:, i] << np.uint64(8 * i) for i in range(size))

    def value(self, text: str, floating: bool = False, second: int = 0) -> np.ndarray:
        """32 bits of an operand, `second` of a pair; a sum takes -x for 2^32 - x, so that its carry is right."""
        operand = decode(text)
        sign = operand.sign
        if operand.literal is not None:
            value = operand.literal[min(second, 1)]
        elif operand.file == "c":
            value = self.constant(text, 8 if second else 4) >> np.uint64(32 * second)
        else:
            value = (self.u if operand.file == "UR" else self.r)[operand.number + second]
        if operand.half is not None:
            value = value >> np.uint64(16 * operand.half) & np.uint64(0xFFFF)
        if not sign:
            return value
        if "|" in sign:
            value = value & np.uint64(0x7FFFFFFF)
        if "~" in sign:
            return value ^ MASK
        if "-" in sign:
            return value ^ np.uint64(0x80000000) if floating else np.uint64(1 << 32) - value
        return value

    def number(self, text: str) -> np.ndarray:
        return floats(self.value(text, floating=True) & MASK)

    def double(self, text: str) -> np.ndarray:
        sign, body = re.fullmatch(r"(-?\|?)(.*?)\|?\s*", text).groups()
        value = self.pair(body).view(np.float64) if re.match(r"U?R|c\[", body) else np.full(LANES, float(body))
        value = np.abs(value) if "|" in sign else value
        return -value if "-" in sign else value

    def pair(self, text: str) -> np.ndarray:
        return self.value(text) | self.value(text, second=1) << np.uint64(32)

    def put(self, text: str, value: np.ndarray, second: int = 0) -> None:
        operand = decode(text)
        if operand.file == "UR":
            self.u[operand.number + second] = value & MASK
        elif operand.file == "R":
            np.bitwise_and(value, MASK, out=self.r[operand.number + second], where=self.active)

    def put_pair(self, text: str, value: np.ndarray) -> None:
        self.put(text, value)
        self.put(text, value >> np.uint64(32), 1)

    def put_double(self, text: str, value: np.ndarray) -> None:
        self.put_pair(text, np.ascontiguousarray(value, np.float64).view(np.uint64))

    def put_predicate(self, text: str, value: np.ndarray) -> None:
        uniform, number, _ = predicate_of(text)
        if number == 7:
            return
        if uniform:
            self.up[number] = value
        else:
            np.copyto(self.p[number], value, where=self.active)

    def address(self, text: str) -> np.ndarray:
        base, wide, uniform, offset = address_of(text)
        at = np.full(LANES, offset)
        if base:
            at = at + (self.pair(base).astype(np.int64) if wide else signed(self.value(base)))
        if uniform:
            at = at + (self.pair(uniform) if wide else self.value(uniform)).astype(np.int64)
        return at
