"""What a warp of nvcc's machine code reads and writes: registers, predicates, constants, literals, memory.

Every value is that of all 32 lanes of a warp. 32 bits stand in 64 (so that sums keep their carry); a number of 64 bits
stands in two registers.
"""

import re

import numpy as np

LANES = 32
MASK = np.uint64(0xFFFFFFFF)


class Memory:
    """Arrays at addresses from 256 on, aligned to 256 bytes as XLA's are."""

    def __init__(self, *arrays: np.ndarray):
        self.addresses, end = [], 256
        for array in arrays:
            self.addresses.append(end)
            end += -(-array.nbytes // 256) * 256
        self.bytes = np.zeros(end, np.uint8)
        for address, array in zip(self.addresses, arrays, strict=True):
            self.bytes[address : address + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)

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


class Operands:
    """Of one warp: ``block`` and ``warp`` are its place in the grid, ``shared`` the memory of its block."""

    def __init__(self, constants: bytes, memory: Memory, shared: np.ndarray, block: int, warp: int):
        self.memory, self.shared = memory.bytes, shared
        self.constants = np.frombuffer(constants, np.uint8)
        self.r = np.zeros((256, LANES), np.uint64)
        self.u = np.zeros((64, LANES), np.uint64)
        self.p = np.zeros((8, LANES), bool)
        self.up = np.zeros((8, LANES), bool)
        self.p[7] = self.up[7] = True
        self.block, self.threads = block, warp * LANES + np.arange(LANES, dtype=np.uint64)
        self.active = np.ones(LANES, bool)

    def predicate(self, text: str) -> np.ndarray:
        name = text.lstrip("!")
        file, number = (self.up, name[2:]) if name.startswith("UP") else (self.p, name[1:])
        value = file[7 if number == "T" else int(number)]
        return ~value if text.startswith("!") else value

    def constant(self, text: str, size: int) -> np.ndarray:
        offset = int(re.search(r"\]\[(?:R\d+\+)?(0x[0-9a-f]+)\]", text)[1], 16)
        index = re.search(r"\]\[R(\d+)", text)
        at = (self.r[int(index[1])].astype(np.int64) if index else np.zeros(LANES, np.int64)) + offset
        at = (at & 0xFFFFFFFF).astype(np.int64)
        return self.load(self.constants, np.where(self.active, at, 0), size)

    def value(self, text: str, floating: bool = False, second: int = 0) -> np.ndarray:
        """32 bits of an operand, `second` of a pair; a sum takes -x for 2^32 - x, so that its carry is right."""
        sign, body = re.fullmatch(r"([-~|]*)(.*?)\|?\s*", text).groups()
        half = re.search(r"\.(H[01])_H[01]$", body)
        body = re.sub(r"\.\w+$", "", body) if half or body.endswith(".64") else body
        if body in ("RZ", "URZ", "SRZ"):
            value = np.zeros(LANES, np.uint64)
        elif found := re.fullmatch(r"(U?)R(\d+)", body):
            value = (self.u if found[1] else self.r)[int(found[2]) + second]
        elif body.startswith("c["):
            value = self.constant(body, 8 if second else 4) >> np.uint64(32 * second)
        elif body.startswith("0x"):
            value = np.full(LANES, int(body, 16) if not second else 0, np.uint64)
        else:
            value = bits(np.full(LANES, float(body), np.float32))
        if half:
            value = value >> np.uint64(16 if half[1] == "H1" else 0) & np.uint64(0xFFFF)
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
        found = re.fullmatch(r"(U?)R(\d+)", text)
        if found:
            file = self.u if found[1] else self.r
            where = slice(None) if found[1] else self.active
            file[int(found[2]) + second][where] = (np.broadcast_to(value, LANES) & MASK)[where]
        elif text not in ("RZ", "URZ"):
            raise NotImplementedError(f"result {text}")

    def put_pair(self, text: str, value: np.ndarray) -> None:
        self.put(text, value)
        if text != "RZ":
            self.put(text, value >> np.uint64(32), 1)

    def put_double(self, text: str, value: np.ndarray) -> None:
        self.put_pair(text, np.ascontiguousarray(value, np.float64).view(np.uint64))

    def put_predicate(self, text: str, value: np.ndarray) -> None:
        if text not in ("PT", "UPT"):
            file = self.up if text.startswith("UP") else self.p
            number = int(text.lstrip("UP"))
            file[number] = np.where(self.active, value, file[number])

    def load(self, memory: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
        wanted = at[:, None] + np.arange(size)
        rows = memory[wanted].astype(np.uint64)
        return sum(rows[:, i] << np.uint64(8 * i) for i in range(size))

    def address(self, text: str) -> np.ndarray:
        found = re.search(r"\[(?:(R\d+|RZ)(\.64|\.U32)?)?\+?(UR\d+)?\+?(-?0x[0-9a-f]+)?\]$", text)
        base, wide, uniform, offset = found.groups()
        at = np.zeros(LANES, np.int64)
        if base and base != "RZ":
            at = (self.pair(base) if wide == ".64" else self.value(base)).astype(np.int64)
        if uniform:
            at = at + (self.pair(uniform) if wide else self.value(uniform)).astype(np.int64)
        return np.where(self.active, at + (int(offset, 16) if offset else 0), 0)
