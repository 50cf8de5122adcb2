"""Breaks the CUDA kernels in ways that happen, one at a time, and demands that check.cc notices each.

    python tests/cuda_on_cpu/mutants.py

Each mutant is built and run plainly, in three orders of threads; if it survives, with the address and then with the
race detector. Prints what caught it. The same kernels unbroken must pass everything, which check_cuda.sh sees to.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

from build import ROOT, SANITIZERS, build_check


class Mutant(NamedTuple):
    name: str
    file: str
    old: str  # must occur exactly once
    new: str


MUTANTS = (
    Mutant("dropped block barrier", "lattice.cu", "      __syncthreads();\n", ""),
    Mutant("dropped warp barrier", "lattice.cu", "      __syncwarp();\n", ""),
    Mutant("half a warp in a mask", "arcs.cu", "__shfl_xor_sync(kWholeWarp, max,", "__shfl_xor_sync(0xffffu, max,"),
    Mutant(
        "lanes of padded rows skip the shuffles",
        "arcs.cu",
        "    norm = Combine<kLanes>(share);",
        "    if (kind == Row::kLive) norm = Combine<kLanes>(share);",
    ),
    Mutant("one row too many", "arcs.cu", "if (at.row >= rows.count) return;", "if (at.row > rows.count) return;"),
    Mutant("vector before the row's beginning", "arcs.cu", "if (alike && first >= 0 && first", "if (alike && first"),
    Mutant(
        "last entries of a row forgotten",
        "arcs.cu",
        "count((head + width + kSize - 1) / kSize)",
        "count((head + width) / kSize)",
    ),
    Mutant(
        "shuffle distance too short",
        "arcs.cu",
        "kLanes / 2; distance > 0; distance /= 2) sum",
        "kLanes / 4; distance > 0; distance /= 2) sum",
    ),
    Mutant(
        "gradient of NaN rows not NaN",
        "arcs.cu",
        "if (kind == Row::kPadding || broken) {",
        "if (kind == Row::kPadding) {",
    ),
    Mutant(
        "NaN where nothing is asked",
        "arcs.cu",
        "Read(cotangent + k) == 0 ? value : kNaN<A>",
        "kNaN<A>",
    ),
    Mutant(
        "window at the row's beginning",
        "arcs.cu",
        "kUnroll>(row + window.first, window.size(), at.lane)",
        "kUnroll>(row, window.size(), at.lane)",
    ),
    Mutant(
        "raw entries normalised",
        "arcs.cu",
        "rows.window.Holds(column) ? Shift(norm) : A(0)",
        "Shift(norm)",
    ),
    Mutant(
        "cotangents of raw entries spread over the window",
        "arcs.cu",
        "rows.window.Holds(Column(rows, k, label)) ? Read(cotangent + k) : A(0)",
        "Read(cotangent + k)",
    ),
    Mutant(
        "softmax beyond the window's end",
        "arcs.cu",
        "first + kSize > window.stop) special",
        "first > window.stop) special",
    ),
    Mutant(
        "arcs of a window without mass",
        "arcs.cu",
        " || (massless && rows.window.Holds(column))",
        "",
    ),
    Mutant(
        "length not cut",
        "lattice.cu",
        "return frames < 0 ? 0 : frames > shape.frames_max ? shape.frames_max : frames;",
        "return frames;",
    ),
    Mutant("stale diagonal", "lattice.cu", "while (depth <= longest_step)", "while (depth < longest_step)"),
    Mutant(
        "arc asked for a step too late",
        "lattice.cu",
        "load(loaded[j], i + kAhead);",
        "load(loaded[j], i + kAhead + 1);",
    ),
    Mutant("sum over a warp that is not there", "lattice.cu", "lane < warps ?", "lane <= warps ?"),
    Mutant(
        "any last frame ends a path",
        "lattice.cu",
        "to_end = to_t == frames && to_u == labels;",
        "to_end = to_t == frames;",
    ),
    Mutant("sums not brought back to [1, 2)", "scaled.cuh", "a.e + power};", "a.e};"),
    Mutant(
        "posterior with its own node's beta",
        "lattice.cu",
        "walk.Kept(a - u + shape.dt[k], u + shape.du[k])",
        "walk.Kept(a - u + shape.dt[k], u)",
    ),
)


def caught_by(folder: pathlib.Path, cuda: pathlib.Path) -> str | None:
    for sanitizer in (None, "address", "thread"):
        program = build_check(folder, cuda, sanitizer)
        for order in ("forward", "reverse", "5") if sanitizer is None else ("forward",):
            environment = {**os.environ, **SANITIZERS.get(sanitizer, {}), "CUDA_ON_CPU_ORDER": order}
            try:
                result = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=300)
            except subprocess.TimeoutExpired:
                return f"no end after 300 s (order {order})"
            if result.returncode != 0:
                lines = [x for x in (result.stdout + result.stderr).splitlines() if x.strip()]
                telling = [x for x in lines if "FAILED" in x or "cuda_on_cpu:" in x or "SUMMARY" in x or "error:" in x]
                how = "values" if sanitizer is None else f"{sanitizer} sanitizer"
                return f"{how}, order {order}: {(telling or lines or ['signal ' + str(-result.returncode)])[0][:110]}"
    return None


def main() -> None:
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "cpp").symlink_to(ROOT / "cpp")
        for mutant in MUTANTS:
            cuda = folder / "cuda"
            shutil.rmtree(cuda, ignore_errors=True)
            shutil.copytree(ROOT / "cuda", cuda)
            source = (cuda / mutant.file).read_text()
            if source.count(mutant.old) != 1:
                sys.exit(f"{mutant.name}: {mutant.old!r} occurs {source.count(mutant.old)} times in {mutant.file}")
            (cuda / mutant.file).write_text(source.replace(mutant.old, mutant.new))
            catcher = caught_by(folder, cuda)
            print(f"{mutant.name}: {catcher or 'SURVIVED'}", flush=True)
            if catcher is None:
                survivors.append(mutant.name)
    if survivors:
        sys.exit(f"not caught: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
