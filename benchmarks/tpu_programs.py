"""Prints what stands in the programs of losses that XLA compiles for a TPU: memory, loops, operations.

    python benchmarks/tpu_programs.py [--topology v5e:2x2] [--shape 8,200,50,1024] [--dtype bfloat16] [LOSS/SOURCE...]

No TPU is needed. It needs what scripts/check_tpu.sh needs. Nothing runs, so nothing here is a time.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import tpu_steps

HEAD = ("loss", "logits", "logits, MB", "temporaries, MB", "float32 copies", "loops", "operations per diagonal")


def row(topology: str, loss: str, source: str, sizes: tpu_steps.Sizes) -> tuple[object, ...]:
    program, size = tpu_steps.compiled(topology, 1, loss, source, sizes)
    diagonals = sizes.frames + sizes.labels + 1
    of_diagonals = [
        x for x in program.loops if any(a.shape[:1] == (diagonals,) and len(a.shape) > 2 for a in x.carried)
    ]
    megabytes = size * (4 if sizes.dtype == "float32" else 2) / 1e6
    operations = " + ".join(
        f"{len(x.operations)}" + (f" ({len(x.lane_slices)} slices along lanes)" if x.lane_slices else "")
        for x in of_diagonals
    )
    copies = len(program.arrays("f32", size)) if sizes.dtype != "float32" else "-"
    return loss, source, f"{megabytes:.0f}", f"{program.temporaries / 1e6:.1f}", copies, len(program.loops), operations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--shape", default="8,200,50,1024", help="B,T,U,V")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("cases", nargs="*", default=[*(f"{loss}/dense" for loss in tpu_steps.LOSSES)])
    options = parser.parse_args()
    sizes = tpu_steps.Sizes(*map(int, options.shape.split(",")), dtype=options.dtype)
    print(f"{options.topology}, (B, T, U, V) = ({options.shape}), {options.dtype}, one chip: compiled, never timed\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for case in options.cases:
        print(f"| {' | '.join(map(str, row(options.topology, *case.split('/'), sizes)))} |", flush=True)


if __name__ == "__main__":
    main()
