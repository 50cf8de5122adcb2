"""Lists the machine code of a cubin's kernels with the bits of literals, where the disassembler's text hides them.

The disassembler reads a literal of 32 bits as a float. So it prints the upper half of a double -inf as -QNAN, which it
prints for other NaN, too.
"""

import pathlib
import re
import struct
import tempfile

import budgets


def code_of(cubin: pathlib.Path) -> dict[str, bytes]:
    """The machine code of each kernel: the ELF sections .text.SYMBOL."""
    data = cubin.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    result = {}
    for name, _, _, _, offset, length in sections:
        start = sections[names][4] + name
        symbol = data[start : data.index(b"\0", start)].decode()
        if symbol.startswith(".text."):
            result[budgets.Kernel("", *budgets.demangle(symbol), 0).name] = data[offset : offset + length]
    return result


def listing(cubin: pathlib.Path) -> dict[str, list[str]]:
    """budgets.machine_code, with the bits of NaN as hexadecimal numbers."""
    binary = code_of(cubin)

    def exact(name: str, line: str) -> str:
        address = int(line.split()[0], 16)
        (literal,) = struct.unpack_from("<I", binary[name], address + 4)  # bits 32 to 63 of the instruction
        return re.sub(r"[+-]QNAN", f"{literal:#x}", line)

    listed = budgets.machine_code(cubin)
    return {name: [exact(name, line) if "QNAN" in line else line for line in code] for name, code in listed.items()}


def of_source(stem: str) -> dict[str, list[str]]:
    """The listing of cuda/STEM.cu for sm_90."""
    with tempfile.TemporaryDirectory() as folder:
        source = budgets.ROOT / "cuda" / f"{stem}.cu"
        compiled, _, _ = budgets.compile_for(source, "90", pathlib.Path(folder))
        return listing(compiled)
