"""Builds the CUDA kernels for the CPU: as a library of FFI handlers for the suite, or as the program check.cc.

    python tests/cuda_on_cpu/build.py library OUT.so
    python tests/cuda_on_cpu/build.py check FOLDER [watched | LEVEL]

LEVEL, such as x86-64-v3, is the instruction set that the CPU kernels are built for, as optimised as users have them.
With OLD_LEVEL the CUDA kernels are those of a GPU that cannot copy to shared memory asynchronously. A watched program
ends with a message where a kernel breaks a rule of memory (watch.h) or of C++. Needs g++; the library also jaxlib's
headers, of the Python that runs this. Object files stay in the folder and are made again when one of their sources is
newer.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import zlib
from collections.abc import Sequence
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMMON = ("-std=c++17", "-fPIC", "-g", "-DJAX_RNNT_CUDA_ON_CPU", "-DJAX_RNNT_NO_CLONES", "-Wall", "-Wextra", "-Werror",
          "-Wno-unknown-pragmas")  # fmt: skip
UNDEFINED = "-fsanitize=shift,signed-integer-overflow,integer-divide-by-zero,bounds"
WATCHED = ("-fsanitize=thread", UNDEFINED, "-fno-sanitize-recover=all")  # watch.cc answers, not the sanitizer's library
LEVEL_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp-simd")  # CMakeLists.txt
OLD_LEVEL = "x86-64"
FLOATING = ("float", "double", "Half", "BFloat16")
TYPES = {"arcs": FLOATING, "hidden_rows": FLOATING, "lattice": ("float", "double")}


class Job(NamedTuple):
    source: pathlib.Path
    flags: Sequence[str]


def kernels(cuda: pathlib.Path, operation: str = "") -> list[pathlib.Path]:
    """The sources of the kernels and of what launches them."""
    files = sorted(p for p in cuda.iterdir() if p.suffix in (".cu", ".cc") and p.name.startswith(operation))
    return [p for p in files if not p.stem.endswith("_handlers")]


def compiled(jobs: Sequence[Job], folder: pathlib.Path) -> list[str]:
    """Object files, in the order of jobs. If any file beside a source or in cpp/ is newer, the object is made again."""
    objects, commands = [], []
    for source, flags in jobs:
        object_file = folder / f"{source.parent.name}_{source.stem}-{zlib.crc32(' '.join(flags).encode()):x}.o"
        objects.append(str(object_file))
        beside = [p for f in (source.parent, ROOT / "cpp") for p in f.iterdir() if p.is_file()]
        newest = max(p.stat().st_mtime for p in beside)
        if not object_file.exists() or object_file.stat().st_mtime < newest:
            language = ["-x", "c++"] if source.suffix == ".cu" else []
            commands.append(["g++", *COMMON, *flags, *language, "-c", str(source), "-o", str(object_file)])
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    return objects


def link(objects: Sequence[str], output: pathlib.Path, *flags: str) -> None:
    subprocess.run(["g++", *flags, "-o", str(output), *objects, "-pthread", "-ldl"], check=True)


def includes(cuda: pathlib.Path) -> list[str]:
    return [f"-I{ROOT / 'cpp'}", f"-I{cuda}", f"-I{HERE}"]


def kernel_jobs(cuda: pathlib.Path, operation: str, watched: bool, level: str | None = None) -> list[Job]:
    # Hardly optimised, because they take longer to build than to run.
    flags = ["-O1", *(WATCHED if watched else ()), *includes(cuda)]
    old = ["-DJAX_RNNT_CUDA_ON_CPU_75"] if level == OLD_LEVEL else []
    return [Job(p, flags + (old if p.stem == "lattice_short" else [])) for p in kernels(cuda, operation)]


def runtime_jobs(watched: bool) -> list[Job]:
    flags = ["-O2", *(["-DCUDA_ON_CPU_WATCHED"] if watched else ()), *includes(ROOT / "cuda")]
    names = ("fiber", "grid", "calls", "streams", *(["watch"] if watched else ()))
    return [Job(HERE / f"{name}.cc", flags) for name in names]


def check_jobs(operation: str, types: Sequence[str]) -> list[Job]:
    """The parts of the check over an operation in these types."""
    flags = ["-O0", *includes(ROOT / "cuda")]
    launches = Job(HERE / "check_launches.cc", [*flags, f"-DCHECK_{operation.upper()}"])
    jobs = [launches] if "float" in types else []
    for name in (f"check_{operation}", f"check_{operation}_large"):
        jobs += [Job(HERE / f"{name}.cc", [*flags, f"-DCHECK_TYPE={t}"]) for t in types]
    return jobs


def reference_jobs(level: str | None) -> list[Job]:
    """The CPU kernels, and main()."""
    flags = [*LEVEL_FLAGS, f"-march={level}"] if level else ["-O1"]
    jobs = [Job(ROOT / "cpp" / f"{name}.cc", [*flags]) for name in ("arcs", "lattice", "best_path", "float16")]
    return [Job(HERE / "check.cc", ["-O0", *includes(ROOT / "cuda")]), *jobs]


def build_check(folder: pathlib.Path, watched: bool = False, level: str | None = None) -> pathlib.Path:
    objects = folder / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    jobs = [*reference_jobs(level), *runtime_jobs(watched)]
    for operation, types in TYPES.items():
        jobs += [*check_jobs(operation, types), *kernel_jobs(ROOT / "cuda", operation, watched, level)]
    program = folder / f"check-{'watched' if watched else level or 'plain'}"
    link(compiled(jobs, objects), program, *([UNDEFINED] if watched else ()))
    return program


def build_library(output: pathlib.Path, cuda: pathlib.Path = ROOT / "cuda", optimise: bool = True) -> None:
    import jaxlib

    headers = pathlib.Path(jaxlib.__file__).parent / "include"
    folder = output.parent / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-O1" if optimise else "-O0", *includes(cuda)]
    jobs = [Job(p, flags) for p in kernels(cuda)] + runtime_jobs(False) + [Job(HERE / "library.cc", flags)]
    jobs += [Job(p, [*flags, "-isystem", str(headers)]) for p in sorted(cuda.glob("*_handlers.cc"))]
    link(compiled(jobs, folder), output, "-shared")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["library", output]:
            build_library(pathlib.Path(output).resolve())
        case ["check", folder]:
            print(build_check(pathlib.Path(folder).resolve()))
        case ["check", folder, "watched"]:
            print(build_check(pathlib.Path(folder).resolve(), watched=True))
        case ["check", folder, level]:
            print(build_check(pathlib.Path(folder).resolve(), level=level))
        case _:
            sys.exit(__doc__)
