"""Breaks the CUDA kernels on purpose, in one place at a time, and demands that a check notices each mutant. No GPU.

    python tests/mutants/run_cuda.py         # all of cuda.txt
    python tests/mutants/run_cuda.py short:  # those with one of these words in their file or name

Each mutant is built watched (tests/cuda_on_cpu/build.py) and runs in three orders of threads until something catches
it. Those of the handlers are called through JAX. Those that g++ cannot see are compiled by nvcc, where there is one,
and held to tests/nvcc/ptx_rules.py. Unbroken kernels pass all of this: scripts/check_cuda.sh and tests/nvcc/budgets.py.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from mutant import ROOT, Mutant, chosen, judge, listed

sys.path.extend(str(ROOT / "tests" / folder) for folder in ("cuda_on_cpu", "nvcc"))
from build import (
    HERE,
    TYPES,
    UNDEFINED,
    Job,
    build_library,
    check_jobs,
    compiled,
    kernel_jobs,
    kernels,
    link,
    reference_jobs,
    runtime_jobs,
)
from ptx_rules import faults

# Headers of operation 2 and of hidden rows whose names do not say so.
HIDDEN_FILES = ("activation.cuh", "philox.cuh", "divisor.h")
LATTICE_FILES = (
    "scaled.cuh",
    "power.cuh",
    "progress.cuh",
    "chunk_copies.cuh",
    "short_sums.cuh",
    "short_workspace.cuh",
    "short_cost.cuh",
    "short_posteriors.cuh",
)
ORDERS = ("forward", "reverse", "5")
TELLING = re.compile(r"FAILED|cuda_on_cpu:|runtime error|error:|Error|DID NOT RAISE")


def sources(folder: pathlib.Path, types: tuple[str, ...], mutant: Mutant | None = None) -> pathlib.Path:
    """A copy of cuda/ that has kernels for these types only, broken or not."""
    cuda = folder / "cuda"
    shutil.copytree(ROOT / "cuda", cuda)
    (folder / "cpp").symlink_to(ROOT / "cpp")
    if mutant:
        mutant.breaks(folder)
    for path in cuda.glob("*.c[uc]"):
        text = path.read_text()
        for t in {t for ts in TYPES.values() for t in ts} - set(types):
            text = re.sub(rf"^JAX_RNNT_INSTANTIATE\({t}\)\n", "", text, flags=re.MULTILINE)
        path.write_text(text)
    return cuda


def caught_by(mutant: Mutant) -> tuple[str, tuple[str, ...]]:
    """The check that must notice the mutant, and the types of the kernels that are built for it."""
    how, *types = mutant.tests.split()
    return how, tuple(types or ["float"])


def operation(mutant: Mutant) -> str:
    """The operation whose part of the check shows the mutant."""
    if "hidden_rows" in mutant.file or mutant.file.endswith(HIDDEN_FILES):
        return "hidden_rows"
    return "lattice" if "lattice" in mutant.file or mutant.file.endswith(LATTICE_FILES) else "arcs"


def files_of(source: pathlib.Path) -> set[str]:
    """The names of a source and of the files of its folder that it includes, at any depth."""
    found = {source.name}
    for name in re.findall(r'^#include "([\w.]+)"', source.read_text(), re.MULTILINE):
        if (source.parent / name).exists():
            found |= files_of(source.parent / name)
    return found


def first_telling(output: str, otherwise: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if TELLING.search(line)]
    return re.sub(r"^/\S*/|^cuda_on_cpu: ", "", (telling or lines[-1:] or [otherwise])[0])[:150]


class Check:
    """What catches by values, by watching and by launches: the program check.cc."""

    def __init__(self, folder: pathlib.Path, mutants: list[Mutant]):
        self.folder = folder
        self.shared: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        self.whole: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
        objects = folder / "objects"
        objects.mkdir()
        for key in sorted({(operation(m), caught_by(m)[1]) for m in mutants}):
            of, types = key
            tests = [*reference_jobs(None), *runtime_jobs(True), *check_jobs(of, types)]
            cuda = sources(folder / f"{of}-{'-'.join(types)}", types)
            kernels = kernel_jobs(cuda, of, watched=True)
            self.shared[key] = compiled(tests, objects)
            of_kernels = folder / f"objects-{of}-{'-'.join(types)}"
            of_kernels.mkdir()
            self.whole[key] = dict(zip([j.source.name for j in kernels], compiled(kernels, of_kernels), strict=True))

    def catcher(self, mutant: Mutant, folder: pathlib.Path) -> str | None:
        key = of, types = operation(mutant), caught_by(mutant)[1]
        jobs = kernel_jobs(sources(folder, types, mutant), of, watched=True)
        jobs = [Job(source, [*flags, "-w"]) for source, flags in jobs]  # what is broken may leave something unused
        jobs = [j for j in jobs if pathlib.Path(mutant.file).name in files_of(j.source)]  # the others are not touched
        objects = {**self.whole[key], **dict(zip([j.source.name for j in jobs], compiled(jobs, folder), strict=True))}
        program = folder / "check"
        link([*self.shared[key], *objects.values()], program, UNDEFINED)
        for order in ORDERS:
            environment = {**os.environ, "CUDA_ON_CPU_ORDER": order, "CUDA_ON_CPU_STOP": "1"}
            try:
                result = subprocess.run(
                    [program], env=environment, capture_output=True, text=True, errors="replace",
                    timeout=300,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return f"no end after 300 s (order {order})"
            if result.returncode != 0:
                return first_telling(result.stdout + result.stderr, f"signal {-result.returncode}")
        return None


def caught_by_suite(mutant: Mutant, folder: pathlib.Path) -> str | None:
    library = folder / "cuda_on_cpu.so"
    build_library(library, sources(folder, TYPES["arcs"], mutant), optimise=False)
    environment = {**os.environ, "JAX_RNNT_CUDA_ON_CPU": str(library)}
    command = [sys.executable, "-m", "pytest", "-qxsp", "no:cacheprovider", str(HERE / "test_launches.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line[1:] for line in result.stdout.splitlines() if line.startswith("E ")] or [
        result.stdout + result.stderr
    ]
    return first_telling("\n".join(lines), "") if result.returncode != 0 else None


def caught_by_nvcc(mutant: Mutant, folder: pathlib.Path) -> str | None:
    cuda, ptx = sources(folder, caught_by(mutant)[1], mutant), folder / "kernels.ptx"
    for source in (p for p in kernels(cuda, operation(mutant)) if p.suffix == ".cu"):
        command = ["nvcc", "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-I", str(ROOT / "cpp"), "-ptx"]
        subprocess.run([*command, "-arch=sm_90", "-o", str(ptx), str(source)], check=True)
        if found := faults(ptx.read_text(), "90"):
            return "PTX, " + found[0].partition(": ")[2]
    return None


def main() -> None:
    mutants, jobs = chosen(listed("cuda.txt"), __doc__, jobs=os.cpu_count())
    if not shutil.which("nvcc"):
        print("mutants that only nvcc shows are not made: there is no nvcc")
        mutants = [m for m in mutants if caught_by(m)[0] != "nvcc"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        check = Check(folder, [m for m in mutants if caught_by(m)[0] == "check"])
        hows = {"check": check.catcher, "suite": caught_by_suite, "nvcc": caught_by_nvcc}

        def catcher(mutant: Mutant) -> str | None:
            own = folder / re.sub(r"\W", "_", mutant.name)
            return hows[caught_by(mutant)[0]](mutant, own)

        judge(mutants, catcher, jobs)


if __name__ == "__main__":
    main()
