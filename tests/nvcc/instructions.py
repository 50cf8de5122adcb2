"""What the instructions of nvcc's machine code for sm_90 do, as far as the kernels use them. launch.py runs them.

What an instruction does was found out from listings. The scripts run_*.py hold it to the results of
the kernels.
"""

import ctypes
import ctypes.util
import functools
import re
from collections.abc import Callable

import numpy as np
from operands import LANES, MASK, Memory, Operands, bfloat16, bits, float16, from_bfloat16, from_float16, signed
from shared_memory import Copies, Shared

LEAST_NORMAL = np.float32(2.0**-126)  # results of MUFU below it are 0
_COMPARE = {
    "EQ": np.equal, "NE": np.not_equal, "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
}  # fmt: skip


_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_libm.fma.argtypes, _libm.fma.restype = [ctypes.c_double] * 3, ctypes.c_double
_FMA = np.frompyfunc(_libm.fma, 3, 1)  # rounded once; Python has it from 3.13 on, NumPy not at all


class Instructions(Operands):
    """What each instruction does to a warp's registers, and to memory. launch.py has those that lead elsewhere."""

    def __init__(self, constants: bytes, memory: Memory, shared: Shared, block: int, warp: int):
        super().__init__(constants, block, warp)
        self.memory, self.shared, self.copies = memory, shared, Copies(shared)
        self.any_thread = False  # the result of the last barrier that asks whether any thread of the block says so

    def step(self, kind: str, modifiers: list[str], x: list[str]) -> None:
        kind = kind[1:] if kind in ("UIADD3", "UMOV", "ULEA", "USHF", "UIMAD", "ULOP3", "UISETP", "USEL") else kind
        handler: Callable | None = getattr(self, f"do_{kind.lower()}", None)
        if handler is None:
            raise NotImplementedError(f"{'.'.join([kind, *modifiers])} {', '.join(x)}")
        handler(modifiers, x)

    def _load(self, memory: Memory, m: list[str], x: list[str]) -> None:
        at, size = self._access(x[1], m)
        for word in range(max(1, size // 4)):
            self.put(x[0], memory.read(at + 4 * word, self.active, min(size, 4)).astype(np.uint64), word)

    def _store(self, memory: Memory, m: list[str], x: list[str]) -> None:
        at, size = self._access(x[0], m)
        for word in range(max(1, size // 4)):
            memory.write(at + 4 * word, self.active, self.value(x[1], second=word), min(size, 4))

    def _access(self, text: str, modifiers: list[str]) -> tuple[np.ndarray, int]:
        """Addresses and bytes of an access to memory."""
        size = next((int(s.lstrip("US")) // 8 for s in ("128", "64", "U16", "S16", "U8") if s in modifiers), 4)
        at = self.address(text)
        if (at[self.active] % size).any():
            raise IndexError(f"a misaligned access of {size} bytes")
        return at, size

    def do_ldg(self, m, x):
        self._load(self.memory, m, x)

    def do_stg(self, m, x):
        self._store(self.memory, m, x)

    def do_lds(self, m, x):
        self._load(self.shared, m, x)

    def do_sts(self, m, x):
        self._store(self.shared, m, x)

    def do_ldgsts(self, m, x):
        """The predicate says whether to read: without one, every lane does. Lanes that do not read copy 0."""
        if m not in (["E"], ["E", "64"]):
            raise NotImplementedError(f"LDGSTS.{m}")
        wanted = self.active & (self.predicate(x[2]) if len(x) > 2 else True)
        (to, size), (of, _) = self._access(x[0], m), self._access(x[1], m)
        for word in range(0, size, 4):
            self.copies.begin(to + word, self.active, np.where(wanted, self.memory.read(of + word, wanted, 4), 0))

    def do_ldgdepbar(self, m, x):
        self.copies.commit()

    def do_depbar(self, m, x):
        self.copies.wait(int(x[1], 16))

    def do_voteu(self, m, x):
        if m != ["ALL"]:
            raise NotImplementedError(f"VOTEU.{m}")
        self.put_predicate(x[0], np.full(LANES, self.predicate(x[1])[self.active].all()))

    def do_vote(self, m, x):
        if m not in (["ANY"], ["ALL"]):
            raise NotImplementedError(f"VOTE.{m}")
        said = self.predicate(x[1])[self.active]
        self.put_predicate(x[0], np.full(LANES, said.any() if m == ["ANY"] else said.all()))

    def do_membar(self, m, x):
        if m != ["ALL", "CTA"]:
            raise NotImplementedError(f"MEMBAR.{m}")
        self.shared.fenced = True

    def do_b2r(self, m, x):
        self.put_predicate(x[1], np.full(LANES, self.any_thread))

    def do_ldc(self, m, x):
        size = {"64": 8, "U8": 1, "U16": 2}.get(m[0] if m else "", 4)
        (self.put_pair if size == 8 else self.put)(x[0], self.constant(x[1], size))

    do_uldc = do_ldc

    def do_s2r(self, m, x):
        values = {"SR_TID.X": self.threads, "SR_CTAID.X": np.full(LANES, self.block, np.uint64)}
        self.put(x[0], values.get(x[1], np.zeros(LANES, np.uint64)))

    do_s2ur = do_s2r

    def do_r2ur(self, m, x):
        values = self.value(x[1])[self.active]
        if m or (values != values[0]).any():
            raise NotImplementedError(f"R2UR.{m} of {values}")
        self.put(x[0], np.full(LANES, values[0]))

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
            total = left.astype(np.uint64) * right.astype(np.uint64) + self.pair(c)  # 64 bits, for HI too
            if "HI" in m:
                self.put(d, total >> np.uint64(32))
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
            shifted = self.value(a.lstrip("-")) << np.uint64(int(shift, 16)) & MASK
            total = (np.uint64(1 << 32) - shifted if a.startswith("-") else shifted) + self.value(b)
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
        mask = np.uint64(int(x[3], 16))
        self.put(x[0], bits & mask | self.value(x[2]) & ~mask)

    def do_r2p(self, m, x):
        value, mask = self.value(x[1]), int(x[2], 16)
        for i in range(7):
            if mask >> i & 1:
                self.put_predicate(f"P{i}", value >> np.uint64(i) & np.uint64(1) != 0)

    def do_iabs(self, m, x):
        self.put(x[0], np.abs(signed(self.value(x[1]))).astype(np.uint64))

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
        result = self._compared(m[0], a, b)
        other = self.predicate(x[4])
        self.put_predicate(x[0], result & other if "AND" in m else result | other)

    @staticmethod
    def _compared(how: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        unordered = np.isnan(a) | np.isnan(b)
        if how in ("NAN", "NUM"):
            return unordered == (how == "NAN")
        return _COMPARE[how[:2]](a, b) & ~unordered | (how.endswith("U") and len(how) == 3) & unordered

    def do_fset(self, m, x):
        if m[0] != "BF" or x[3] != "PT":
            raise NotImplementedError(f"FSET.{m} {x}")
        a, b = self.number(x[1]), self.number(x[2])
        self.put(x[0], bits(self._compared(m[1], a, b).astype(np.float32)))

    def do_fsel(self, m, x):
        self.put(x[0], np.where(self.predicate(x[3]), self.value(x[1], True), self.value(x[2], True)))

    def do_fmnmx(self, m, x):
        a, b = self.number(x[1]), self.number(x[2])
        self.put(x[0], bits(np.where(self.predicate(x[3]), np.fmin(a, b), np.fmax(a, b))))

    def do_vimnmx(self, m, x):
        a, b = signed(self.value(x[1]) & MASK), signed(self.value(x[2]) & MASK)
        chosen = np.where(self.predicate(x[3]), np.minimum(a, b), np.maximum(a, b))
        self.put(x[0], (np.maximum(chosen, 0) if "RELU" in m else chosen).astype(np.uint64))

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
        value = {"EX2": np.exp2, "RCP": np.reciprocal, "LG2": np.log2, "TANH": np.tanh}[m[0]](self.number(x[1]))
        self.put(x[0], bits(np.where(np.abs(value) < LEAST_NORMAL, np.copysign(np.float32(0), value), value)))

    def do_i2fp(self, m, x):
        a = self.value(x[1]) & MASK
        self.put(x[0], bits((signed(a) if "S32" in m else a).astype(np.float32)))

    def do_i2f(self, m, x):
        """Of 32 bits, to float32, rounded up, or to float64; of 64 bits, to float64."""
        if m == ["F64"]:
            self.put_double(x[0], signed(self.value(x[1]) & MASK).astype(np.float64))
            return
        if m == ["F64", "S64"]:
            self.put_double(x[0], self.pair(x[1]).view(np.int64).astype(np.float64))
            return
        if m[-1] != "RP":
            raise NotImplementedError(f"I2F.{m}")
        exact = (self.value(x[1]) if "U32" in m else signed(self.value(x[1]))).astype(np.float64)
        near = exact.astype(np.float32)
        self.put(x[0], bits(np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near)))

    def do_f2i(self, m, x):
        """Toward zero, and cut to the type's range."""
        if "TRUNC" not in m or not {"U32", "S64"} & set(m):
            raise NotImplementedError(f"F2I.{m}")
        number = np.trunc((self.double(x[1]) if "F64" in m else self.number(x[1])).astype(np.float64))
        if "U32" in m:
            self.put(x[0], np.clip(number, 0, float(MASK)).astype(np.uint64))
        else:
            self.put_pair(x[0], np.clip(number, -(2.0**63), 2.0**63 - 1024).astype(np.int64).view(np.uint64))

    def do_f2f(self, m, x):
        if m == ["F64", "F32"]:
            self.put_double(x[0], self.number(x[1]).astype(np.float64))
        elif m == ["F32", "F64"]:
            self.put(x[0], bits(self.double(x[1]).astype(np.float32)))
        else:
            raise NotImplementedError(f"F2F.{m}")

    def do_frnd(self, m, x):
        if m != ["F64", "FLOOR"]:
            raise NotImplementedError(f"FRND.{m}")
        self.put_double(x[0], np.floor(self.double(x[1])))

    def do_shfl(self, m, x):
        distance, lanes = int(x[3], 16), np.arange(LANES)
        if m not in (["BFLY"], ["UP"]) or not self.active.all() or x[0] != "PT":
            raise NotImplementedError(f"SHFL.{m} of {self.active.sum()} lanes")
        fetched = lanes ^ distance if m == ["BFLY"] else np.where(lanes < distance, lanes, lanes - distance)
        self.put(x[1], self.value(x[2])[fetched])
