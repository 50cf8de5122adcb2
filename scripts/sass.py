"""Runs nvcc's machine code for sm_90, warp by warp, on the CPU, and counts its instructions.

It knows the instructions that the kernels of operation 1 use. Lanes that part are run one after the other, the one that
is behind first; each turn counts as an instruction of the warp. What an instruction does was found out from listings.
row_instructions.py holds it to the results of the kernels.
"""

import ctypes
import ctypes.util
import functools
import re
from collections.abc import Callable

import numpy as np
from sass_operands import LANES, MASK, Memory, Operands, bfloat16, bits, float16, from_bfloat16, from_float16, signed

PARAMETERS = 0x210  # where a kernel's own begin in the constant bank


def _operands(text: str) -> list[str]:
    return [x.strip() for x in re.split(r",(?![^\[]*\])", text)] if text else []


def parse(code: list[str]) -> dict[int, tuple[str, str, list[str]]]:
    """By address: the predicate ("" if there is none), the name and the operands of each instruction."""
    result = {}
    for line in code:
        address, rest = line.replace(".reuse", "").split(maxsplit=1)
        predicate, name, operands = re.fullmatch(r"(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*?)\s*", rest).groups()
        result[int(address, 16)] = predicate or "", name, _operands(operands)
    return result


_COMPARE = {
    "EQ": np.equal, "NE": np.not_equal, "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
}  # fmt: skip


_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_libm.fma.argtypes, _libm.fma.restype = [ctypes.c_double] * 3, ctypes.c_double
_FMA = np.frompyfunc(_libm.fma, 3, 1)  # rounded once; Python has it from 3.13 on, NumPy not at all


class Warp(Operands):
    """One warp, which runs ``code``."""

    def __init__(self, code: dict, constants: bytes, memory: Memory, shared: np.ndarray, block: int, warp: int):
        super().__init__(constants, memory, shared, block, warp)
        self.code = code

    def run(self) -> int:
        """Runs it to its end and returns how many instructions it took."""
        at = np.full(LANES, min(self.code))
        alive, count = np.ones(LANES, bool), 0
        while alive.any():
            here = at[alive].min()
            self.active = alive & (at == here)
            predicate, name, operands = self.code[here]
            chosen = self.active & (self.predicate(predicate) if predicate else True)
            count += 1
            at[self.active] += 16
            if name == "EXIT":
                alive &= ~chosen
            elif name == "BRA":
                if len(operands) == 2:
                    chosen &= self.predicate(operands[0])
                at[chosen] = int(operands[-1], 16)
            elif chosen.any() and name not in ("BSSY", "BSYNC", "NOP", "WARPSYNC.ALL"):
                self.active = chosen
                self.step(name, operands)
        return count

    def step(self, name: str, x: list[str]) -> None:
        kind, _, modifiers = name.partition(".")
        kind = kind[1:] if kind in ("UIADD3", "UMOV", "ULEA", "USHF", "UIMAD", "ULOP3", "UISETP", "USEL") else kind
        handler: Callable | None = getattr(self, f"do_{kind.lower()}", None)
        if handler is None:
            raise NotImplementedError(f"{name} {', '.join(x)}")
        handler(modifiers.split(".") if modifiers else [], x)

    def _load_or_store(self, name: str, memory: np.ndarray, m: list[str], x: list[str]) -> None:
        size = next((int(s.lstrip("US")) // 8 for s in ("128", "64", "U16", "S16", "U8") if s in m), 4)
        if name.startswith("LD"):
            at = self.address(x[1])
            for word in range(max(1, size // 4)):
                self.put(x[0], self.load(memory, at + 4 * word, min(size, 4)), word)
            return
        at = self.address(x[0])
        for byte in range(size):
            value = self.value(x[1], second=byte // 4) >> np.uint64(8 * (byte % 4)) & np.uint64(0xFF)
            memory[at[self.active] + byte] = value[self.active].astype(np.uint8)

    def do_ldg(self, m, x):
        self._load_or_store("LDG", self.memory, m, x)

    def do_stg(self, m, x):
        self._load_or_store("STG", self.memory, m, x)

    def do_lds(self, m, x):
        self._load_or_store("LDS", self.shared, m, x)

    def do_sts(self, m, x):
        self._load_or_store("STS", self.shared, m, x)

    def do_ldc(self, m, x):
        size = {"64": 8, "U8": 1, "U16": 2}.get(m[0] if m else "", 4)
        (self.put_pair if size == 8 else self.put)(x[0], self.constant(x[1], size))

    do_uldc = do_ldc

    def do_s2r(self, m, x):
        values = {"SR_TID.X": self.threads, "SR_CTAID.X": np.full(LANES, self.block, np.uint64)}
        self.put(x[0], values.get(x[1], np.zeros(LANES, np.uint64)))

    do_s2ur = do_s2r

    def do_cs2r(self, m, x):
        self.put_pair(x[0], np.zeros(LANES, np.uint64))

    def do_mov(self, m, x):
        self.put(x[0], self.value(x[1]))

    def do_iadd3(self, m, x):
        carries_out = []
        while re.fullmatch(r"U?P[0-7T]", x[1]):
            carries_out.append(x[1])
            x = [x[0], *x[2:]]
        total = self.value(x[1]) + self.value(x[2]) + self.value(x[3])
        for carry in x[4:]:
            total = total + self.predicate(carry).astype(np.uint64)
        self.put(x[0], total)
        for i, carry in enumerate(carries_out):
            self.put_predicate(carry, total >> np.uint64(32) > i)

    def do_viadd(self, m, x):
        self.put(x[0], self.value(x[1]) + self.value(x[2]))

    def do_imad(self, m, x):
        carry = [x[1]] if re.fullmatch(r"P[0-7T]", x[1]) else []
        d, a, b, c = [x[0], *x[1 + len(carry) :]][:4]
        if "WIDE" in m or "HI" in m:
            unsigned = "U32" in m
            left, right = (self.value(v) & MASK if unsigned else signed(self.value(v) & MASK) for v in (a, b))
            product = left.astype(np.uint64) * right.astype(np.uint64)
            total = product + (self.pair(c) if c != "RZ" and "WIDE" in m else np.uint64(0))
            if "HI" in m:
                self.put(d, (product >> np.uint64(32)) + self.value(c))
            else:
                self.put_pair(d, total)
            return
        total = (self.value(a) & MASK) * (self.value(b) & MASK) + self.value(c)
        if "X" in m:
            total = total + self.predicate(x[4]).astype(np.uint64)
        self.put(d, total)

    def do_lea(self, m, x):
        carry = x[1] if re.fullmatch(r"U?P[0-7T]", x[1]) else None
        rest = x[2:] if carry else x[1:]
        if "HI" in m and "SX32" in m:
            a, b, shift = rest[:3]
            high = (signed(self.value(a) & MASK) << int(shift, 16)) >> 32
            total = high.astype(np.uint64) + self.value(b)
            rest = rest[3:]
        elif "HI" in m:
            a, b, c, shift = rest[:4]
            high = (
                ((self.value(a) & MASK) | self.value(c) << np.uint64(32)) << np.uint64(int(shift, 16)) >> np.uint64(32)
            )
            total = high + self.value(b)
            rest = rest[4:]
        else:
            a, b, shift = rest[:3]
            total = (self.value(a) << np.uint64(int(shift, 16)) & MASK) + self.value(b)
            rest = rest[3:]
        for p in rest if "X" in m else []:
            total = total + self.predicate(p).astype(np.uint64)
        self.put(x[0], total)
        if carry:
            self.put_predicate(carry, total >> np.uint64(32) > 0)

    def do_shf(self, m, x):
        a, shift, c = self.value(x[1]), self.value(x[2]), self.value(x[3])
        wide = a | c << np.uint64(32)
        if m[0] == "L":
            self.put(x[0], (wide << shift) >> np.uint64(32) if "HI" in m else a << shift)
        elif "HI" in m:
            self.put(x[0], (signed(c) >> shift.astype(np.int64)).astype(np.uint64) if "S32" in m else c >> shift)
        else:
            self.put(x[0], wide >> shift)

    def do_lop3(self, m, x):
        out = None
        if re.fullmatch(r"U?P[0-7T]", x[0]):
            out, x = x[0], x[1:]
        a, b, c, table = self.value(x[1]), self.value(x[2]), self.value(x[3]), int(x[4], 16)
        total = np.zeros(LANES, np.uint64)
        for i in range(8):
            if table >> i & 1:
                total |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
        self.put(x[0], total)
        if out:
            self.put_predicate(out, total & MASK != 0)

    def do_plop3(self, m, x):
        a, b, c, table = (*map(self.predicate, x[2:5]), int(x[5], 16))
        index = 4 * a.astype(int) + 2 * b + c
        self.put_predicate(x[0], (table >> index & 1).astype(bool))

    def do_p2r(self, m, x):
        bits = sum(p.astype(np.uint64) << np.uint64(i) for i, p in enumerate(self.p[:7]))
        self.put(x[0], bits & np.uint64(int(x[3], 16)))

    def do_prmt(self, m, x):
        a, selectors, c = self.value(x[1]), self.value(x[2]), self.value(x[3])
        wide, total = a | c << np.uint64(32), np.zeros(LANES, np.uint64)
        for i in range(4):
            selector = selectors >> np.uint64(4 * i) & np.uint64(15)
            byte = wide >> (np.uint64(8) * (selector & np.uint64(7))) & np.uint64(0xFF)
            byte = np.where(selector > 7, np.where(byte > 127, np.uint64(0xFF), np.uint64(0)), byte)
            total |= byte << np.uint64(8 * i)
        self.put(x[0], total)

    def do_sel(self, m, x):
        self.put(x[0], np.where(self.predicate(x[3]), self.value(x[1]), self.value(x[2])))

    def do_isetp(self, m, x):
        kind, unsigned = m[0], "U32" in m
        a, b = (v & MASK if unsigned else signed(v & MASK) for v in (self.value(x[2]), self.value(x[3])))
        if "EX" in m:
            low = self.predicate(x[5])
            strict = {"GE": np.greater, "GT": np.greater, "LE": np.less, "LT": np.less}.get(kind)
            result = (a != b) | low if kind == "NE" else (a == b) & low
            result = strict(a, b) | result if strict else result
        else:
            result = _COMPARE[kind](a, b)
        other = self.predicate(x[4])
        self.put_predicate(x[0], result & other if "AND" in m else result | other)

    def do_fsetp(self, m, x):
        self._compare(m, x, self.number(x[2]), self.number(x[3]))

    def do_dsetp(self, m, x):
        self._compare(m, x, self.double(x[2]), self.double(x[3]))

    def _compare(self, m: list[str], x: list[str], a: np.ndarray, b: np.ndarray) -> None:
        unordered = np.isnan(a) | np.isnan(b)
        if m[0] in ("NAN", "NUM"):
            result = unordered == (m[0] == "NAN")
        else:
            result = _COMPARE[m[0][:2]](a, b) & ~unordered | (m[0].endswith("U") and len(m[0]) == 3) & unordered
        other = self.predicate(x[4])
        self.put_predicate(x[0], result & other if "AND" in m else result | other)

    def do_fsel(self, m, x):
        self.put(x[0], np.where(self.predicate(x[3]), self.value(x[1], True), self.value(x[2], True)))

    def do_fmnmx(self, m, x):
        a, b = self.number(x[1]), self.number(x[2])
        self.put(x[0], bits(np.where(self.predicate(x[3]), np.fmin(a, b), np.fmax(a, b))))

    def do_vimnmx(self, m, x):
        a, b = signed(self.value(x[1]) & MASK), signed(self.value(x[2]) & MASK)
        self.put(x[0], np.where(self.predicate(x[3]), np.minimum(a, b), np.maximum(a, b)).astype(np.uint64))

    def do_viaddmnmx(self, m, x):
        a, b = signed((self.value(x[1]) + self.value(x[2])) & MASK), signed(self.value(x[3]) & MASK)
        self.put(x[0], np.where(self.predicate(x[4]), np.minimum(a, b), np.maximum(a, b)).astype(np.uint64))

    def do_fadd(self, m, x):
        self.put(x[0], bits(self.number(x[1]) + self.number(x[2])))

    def do_fmul(self, m, x):
        self.put(x[0], bits(self.number(x[1]) * self.number(x[2])))

    def do_ffma(self, m, x):
        a, b, c = (self.number(v).astype(np.float64) for v in x[1:4])
        self.put(x[0], bits((a * b + c).astype(np.float32)))

    def do_dadd(self, m, x):
        self.put_double(x[0], self.double(x[1]) + self.double(x[2]))

    def do_dmul(self, m, x):
        self.put_double(x[0], self.double(x[1]) * self.double(x[2]))

    def do_dfma(self, m, x):
        self.put_double(x[0], _FMA(*map(self.double, x[1:4])))

    def do_hadd2(self, m, x):
        self.put(x[0], bits(from_float16(self.value(x[2]))))

    def do_hmnmx2(self, m, x):
        """Of pairs of 16 bits, each of two or three operands; then a predicate, which is true for the minimum."""
        narrow, wide = (bfloat16, from_bfloat16) if "BF16_V2" in m else (float16, from_float16)
        halves = []
        for shift in (0, 16):
            numbers = [wide(self.value(v) >> np.uint64(shift) & np.uint64(0xFFFF)) for v in x[1:-1]]
            least, most = functools.reduce(np.fmin, numbers), functools.reduce(np.fmax, numbers)
            halves.append(narrow(np.where(self.predicate(x[-1]), least, most)))
        self.put(x[0], halves[0] | halves[1] << np.uint64(16))

    do_vhmnmx = do_hmnmx2

    def do_hfma2(self, m, x):
        if x[1:3] != ["-RZ", "RZ"]:
            raise NotImplementedError(f"HFMA2 {x}")
        high, low = (np.float16(v).view(np.uint16) for v in x[3:5])  # how the compiler makes some constants
        self.put(x[0], np.full(LANES, int(high) << 16 | int(low), np.uint64))

    def do_f2fp(self, m, x):
        high, low = self.number(x[1]), self.number(x[2])
        narrow = bfloat16 if "BF16" in m else float16
        self.put(x[0], narrow(high) << np.uint64(16) | narrow(low))

    def do_mufu(self, m, x):
        if m[0] == "RCP64H":  # of a double's upper half, to 20 bits; the code refines it
            upper = (self.value(x[1], floating=True) << np.uint64(32)).view(np.float64)
            self.put(x[0], np.reciprocal(upper).view(np.uint64) >> np.uint64(32))
            return
        a = self.number(x[1])
        self.put(x[0], bits({"EX2": np.exp2, "RCP": np.reciprocal, "LG2": np.log2}[m[0]](a)))

    def do_i2fp(self, m, x):
        a = self.value(x[1]) & MASK
        self.put(x[0], bits((signed(a) if "S32" in m else a).astype(np.float32)))

    def do_shfl(self, m, x):
        if m != ["BFLY"] or not self.active.all():
            raise NotImplementedError(f"SHFL.{m} of {self.active.sum()} lanes")
        self.put(x[1], self.value(x[2])[np.arange(LANES) ^ int(x[3], 16)])
