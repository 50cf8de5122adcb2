"""Builds the CUDA kernels for the CPU: as a library of FFI handlers for the suite, or as the program check.cc.

    python tests/cuda_on_cpu/build.py library OUT.so
    python tests/cuda_on_cpu/build.py check FOLDER [address | thread | LEVEL]

LEVEL, such as x86-64-v3, is the instruction set that the CPU kernels are built for, as optimised as users have them.
Needs g++; the library also jaxlib's headers, of the Python that runs this. Object files stay in the folder and are made
anew when a source of theirs is newer.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import zlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMMON = ("-std=c++17", "-fPIC", "-g", "-DJAX_RNNT_CUDA_ON_CPU", "-DJAX_RNNT_NO_CLONES", "-Wall", "-Wextra", "-Werror",
          "-Wno-unknown-pragmas")  # fmt: skip
KERNELS = ("arcs.cu", "lattice.cu")
RUNTIME = ("fiber.cc", "runtime.cc")  # told of the sanitizer, not built with it
FLAGS = {
    None: ("-O0",),  # it takes longer to build than to run
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O1", "-fsanitize=thread"),
}
LEVEL_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp-simd")  # CMakeLists.txt
TOLD = {None: (), "address": ("-DCUDA_ON_CPU_ASAN",), "thread": ("-DCUDA_ON_CPU_TSAN",)}
SANITIZERS = {"address": {"UBSAN_OPTIONS": "print_stacktrace=1"}, "thread": {"TSAN_OPTIONS": "halt_on_error=1"}}


def _compile(jobs: list[tuple[pathlib.Path, list[str]]], folder: pathlib.Path, output: pathlib.Path, link: list[str]):
    """jobs: a source and its flags. Headers are not followed: any newer file beside the source or in cpp/ counts."""
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
    subprocess.run(["g++", *link, "-o", str(output), *objects, "-pthread"], check=True)


def _includes(cuda: pathlib.Path) -> list[str]:
    return [f"-I{ROOT / 'cpp'}", f"-I{cuda}", f"-I{HERE}"]


def build_check(
    folder: pathlib.Path,
    cuda: pathlib.Path = ROOT / "cuda",
    sanitizer: str | None = None,
    level: str | None = None,
) -> pathlib.Path:
    objects = folder / "check"
    objects.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS[sanitizer], *_includes(cuda)]
    of_level = [*LEVEL_FLAGS, f"-march={level}", *_includes(cuda)] if level else flags
    jobs = [(p, flags) for p in (HERE / "check.cc", *(cuda / k for k in KERNELS))]
    jobs += [(ROOT / "cpp" / f"{name}.cc", of_level) for name in ("arcs", "lattice", "best_path", "float16")]
    jobs += [(HERE / r, ["-O2", *TOLD[sanitizer], *_includes(cuda)]) for r in RUNTIME]
    program = objects / f"check-{sanitizer or level or 'plain'}"
    _compile(jobs, objects, program, list(FLAGS[sanitizer]))
    return program


def build_library(output: pathlib.Path) -> None:
    import jaxlib

    headers = pathlib.Path(jaxlib.__file__).parent / "include"
    folder = output.parent / (output.stem + "-objects")
    folder.mkdir(parents=True, exist_ok=True)
    cuda = ROOT / "cuda"
    flags = ["-O2", *_includes(cuda)]
    jobs = [(cuda / k, flags) for k in KERNELS] + [(HERE / r, flags) for r in (*RUNTIME, "library.cc")]
    jobs += [(cuda / h, [*flags, "-isystem", str(headers)]) for h in ("arcs_handlers.cc", "lattice_handlers.cc")]
    _compile(jobs, folder, output, ["-shared"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["library", output]:
            build_library(pathlib.Path(output).resolve())
        case ["check", folder]:
            print(build_check(pathlib.Path(folder).resolve()))
        case ["check", folder, kind]:
            how = {"sanitizer": kind} if kind in SANITIZERS else {"level": kind}
            print(build_check(pathlib.Path(folder).resolve(), **how))
        case _:
            sys.exit(__doc__)
