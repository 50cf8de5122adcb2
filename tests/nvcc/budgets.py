"""Compiles the CUDA kernels for every architecture and holds what nvcc made of them to budgets. Needs no GPU.

    python tests/nvcc/budgets.py [--architectures 80,90]

Checks: no spilled registers and no local memory in any kernel, registers within BUDGETS, in the machine code of the row
kernels 128-bit loads (and stores) of the logits, and the rules of ptx_rules.py. Prints for each kernel, for one
architecture, its registers and how many warps a multiprocessor can hold.

Needs nvcc (on the path, in $CUDA_PATH or in /usr/local/cuda) and cuobjdump with nvdisasm (there, or from the wheels
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm).
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

import ptx_rules

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
SOURCES = ("arcs", "hidden_rows", "lattice_general", "lattice_short")

# Registers per thread. Rows: 24 warps per multiprocessor forward and 20 backward. Each warp asks for at least 2 KiB at
# once; memory is busy with 18 KiB under way. Lattices: one warp, or up to 512 threads per block, which leaves 128 per
# thread. Hidden rows: 24 warps, and 16 for their sums, which ask for 4 KiB each at once.
BUDGETS = {"ForwardKernel": 72, "ForwardKernel, sm_75": 80, "BackwardKernel": 96,
           "HiddenKernel": 80, "HiddenSumsKernel": 128,
           "LatticeKernel": 128, "LatticeKernel, one warp": 176,
           "PosteriorKernel<float>": 64, "PosteriorKernel<double>": 128,
           "CostKernel<float>": 64, "CostKernel<double>": 128}  # fmt: skip
# Short moves, by type and number of slots at most: what 1024, 512 or 320 threads leave; double: 384, 256 or 128.
SHORT_BUDGETS = {"float": {3: 64, 9: 128, 17: 200}, "double": {3: 168, 9: 255, 17: 255}}

# Of a multiprocessor: registers; warps and blocks at most, where they are not 64 and 32.
REGISTERS = 65536
WARPS = {"75": 32, "86": 48, "89": 48, "120": 48}
BLOCKS = {"75": 16, "86": 16, "89": 24, "120": 24}


class Kernel(NamedTuple):
    architecture: str
    kind: str
    arguments: str  # of the template
    registers: int

    @property
    def name(self) -> str:
        return f"{self.kind}<{self.arguments}>" if self.arguments else self.kind

    @property
    def one_warp(self) -> bool:
        return self.kind == "LatticeKernel" and self.arguments.split(", ")[1] == "true"

    @property
    def budget(self) -> int:
        if self.kind == "ShortKernel":
            kind_type, own, with_label = self.arguments.split(", ")
            budgets = SHORT_BUDGETS[kind_type]
            return budgets[min(most for most in budgets if most >= int(own) + int(with_label))]
        if self.name in BUDGETS:
            return BUDGETS[self.name]
        of_architecture = f"{self.kind}, sm_{self.architecture}"
        if of_architecture in BUDGETS:
            return BUDGETS[of_architecture]
        return BUDGETS[self.kind + (", one warp" if self.one_warp else "")]

    def warps(self) -> tuple[int, int]:
        """Warps that a multiprocessor holds, as far as registers decide, and how many it holds at most."""
        of_block = {"LatticeKernel": 2, "ShortKernel": 4, "BackwardKernel": 4}.get(self.kind, 8)  # at U = 40
        of_block = 1 if self.one_warp else of_block
        a_warp = -(-self.registers * 32 // 256) * 256
        most = WARPS.get(self.architecture, 64)
        blocks = min(REGISTERS // a_warp // of_block, most // of_block, BLOCKS.get(self.architecture, 32))
        return blocks * of_block, most


KINDS = (
    "ForwardKernel|BackwardKernel|HiddenKernel|HiddenSumsKernel|LatticeKernel|ShortKernel|PosteriorKernel|CostKernel"
)
TYPES = {"f": "float", "d": "double", "NS_4HalfE": "Half", "NS_8BFloat16E": "BFloat16"}


def demangle(symbol: str) -> tuple[str, str]:
    """Kind and template arguments of a kernel, from its mangled name."""
    found = re.search(rf"\d({KINDS})I(.*?)EEv", symbol)
    if found is None:
        sys.exit(f"no kernel: {symbol}")
    kind, rest = found.groups()
    kind_type = next((t for t in sorted(TYPES, key=len, reverse=True) if rest.startswith(t)), "")
    values = re.findall(r"L([ib])(\d+)", rest.removeprefix(kind_type))
    words = [{"0": "false", "1": "true"}[v] if t == "b" else v for t, v in values]
    return kind, ", ".join([TYPES[kind_type], *words] if kind_type else words)


def tool(name: str) -> str:
    places = [os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    found = shutil.which(name) or next((p for p in (f"{q}/bin/{name}" for q in places) if os.path.exists(p)), None)
    wheels = [p for s in sys.path for p in pathlib.Path(s).glob(f"nvidia/cu*/bin/{name}")]
    if found is None and not wheels:
        sys.exit(f"{name} was not found on the path, in $CUDA_PATH, in /usr/local/cuda or among this Python's packages")
    return found or str(wheels[0])


def compile_for(
    source: pathlib.Path, architecture: str, folder: pathlib.Path
) -> tuple[pathlib.Path, list[Kernel], list[str]]:
    """The machine code, its kernels, and what is wrong with them. Headers are those beside the source."""
    cubin = folder / f"{source.stem}-{architecture}.cubin"
    headers = source.parent.parent / "cpp"
    command = [tool("nvcc"), "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-I", str(headers), "-cubin"]
    kept = folder / cubin.stem  # the files that nvcc makes on its way; the PTX is read
    kept.mkdir()
    command += ["--keep", "--keep-dir", str(kept)]
    command += [f"-arch=sm_{architecture}", "-Xptxas", "-v", "-o", str(cubin), str(source)]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    kernels, faults, symbol = [], [], ""
    for line in log.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)'", line):
            symbol = found[1]
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if any(int(n) for n in found.groups()):
                faults.append(f"sm_{architecture} {demangle(symbol)}: {line.strip()}")
        elif found := re.search(r"Used (\d+) registers", line):
            kernels.append(Kernel(architecture, *demangle(symbol), int(found[1])))
    for ptx in kept.glob("*.ptx"):
        faults += [f"sm_{architecture} {f}" for f in ptx_rules.faults(ptx.read_text(), architecture)]
    return cubin, kernels, faults


def machine_code(cubin: pathlib.Path) -> dict[str, list[str]]:
    """Instructions of each kernel, with their addresses in front."""
    environment = {**os.environ, "PATH": os.environ["PATH"] + os.pathsep + os.path.dirname(tool("nvdisasm"))}
    text = subprocess.run(
        [tool("cuobjdump"), "-sass", str(cubin)], check=True, capture_output=True, text=True, env=environment
    ).stdout
    functions: dict[str, list[str]] = {}
    for line in text.splitlines():
        if found := re.search(r"Function : (\S+)", line):
            functions[Kernel("", *demangle(found[1]), 0).name] = current = []
        elif found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", line):
            current.append(f"{found[1]} {found[2]}")
    return functions


def code_faults(name: str, code: list[str]) -> list[str]:
    text = "\n".join(code)
    faults = [f"{name}: local memory ({i})" for i in ("LDL", "STL") if re.search(rf"\b{i}\b", text)]
    if name.startswith(("ForwardKernel", "BackwardKernel", "Hidden")) and not re.search(
        r"\bLDG\.E(\.\w+)*\.128\b", text
    ):
        faults.append(f"{name}: no LDG.E.128")
    if name.startswith(("BackwardKernel", "HiddenKernel")) and not re.search(r"\bSTG\.E(\.\w+)*\.128\b", text):
        faults.append(f"{name}: no STG.E.128")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    arguments = parser.parse_args()
    architectures = arguments.architectures.split(",")
    faults: list[str] = []
    shown = "90" if "90" in architectures else architectures[-1]
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(ROOT / "cuda" / f"{s}.cu", a) for a in architectures for s in SOURCES]
        results = list(pool.map(lambda job: compile_for(*job, pathlib.Path(temporary)), jobs))
        codes = list(pool.map(lambda result: machine_code(result[0]), results))
    for (_, kernels, found), code in zip(results, codes, strict=True):
        faults += found
        for kernel in kernels:
            faults += [f"sm_{kernel.architecture} {f}" for f in code_faults(kernel.name, code[kernel.name])]
            if kernel.registers > kernel.budget:
                faults.append(f"sm_{kernel.architecture} {kernel.name}: {kernel.registers} registers > {kernel.budget}")
            if kernel.architecture == shown:
                warps, most = kernel.warps()
                line = f"sm_{shown} {kernel.name:40} {kernel.registers:3} registers, {warps} of {most} warps"
                print(line)
    print(f"{sum(len(k) for _, k, _ in results)} kernels for {', '.join(architectures)}, {len(faults)} faults")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
