"""Times the RNN-T loss against its own lax form, a naive loss, torchaudio and the floor of the memory. See README.md.

python benchmarks/bench.py --quick
python benchmarks/bench.py --torchaudio DIR/bin/python-torch --out default.json
python benchmarks/bench.py --torchaudio DIR/bin/python-torch --hugetlb --out hugetlb.json
python benchmarks/targets.py default.json hugetlb.json
"""

import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import pathlib
import sys
import tempfile
import time

import cases
import growth
import machine
import measure

LOCAL = ("floor", "native", "lax", "naive")
PARTS = ("table", "threads", "growth")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds, under a minute")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON file to write")
    parser.add_argument("--torchaudio", metavar="PYTHON", help="an interpreter that can import torch and torchaudio")
    parser.add_argument("--hugetlb", action="store_true", help=f"all sides under GLIBC_TUNABLES={machine.HUGETLB}")
    parser.add_argument("--sides", help=f"comma-separated, of {', '.join((*LOCAL, 'torchaudio'))}")
    parser.add_argument(
        "--shapes", help="comma-separated patterns of table shapes, or new ones: 4x300x60x1024,lattice-*"
    )
    parser.add_argument("--parts", help=f"comma-separated, of {', '.join(PARTS)}; only table if --shapes is given")
    parser.add_argument("--rounds", type=int, help="samples of each side (default 15, 3 if quick)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 15)
    arguments.sides = _choice(parser, "sides", arguments.sides, (*LOCAL, "torchaudio")) or (*LOCAL, "torchaudio")
    arguments.parts = _choice(parser, "parts", arguments.parts, PARTS) or (("table",) if arguments.shapes else PARTS)
    return arguments


def _choice(parser: argparse.ArgumentParser, option: str, value: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    chosen = tuple(value.split(",")) if value else ()
    for name in chosen:
        if name not in known:
            parser.error(f"--{option}: {name!r} is not one of {', '.join(known)}")
    return chosen


def restart_with_huge_pages() -> None:
    """Restarts this process, because glibc reads its tunables only when a process starts. Workers inherit them."""
    if os.environ.get("GLIBC_TUNABLES") != machine.HUGETLB:
        os.environ["GLIBC_TUNABLES"] = machine.HUGETLB
        os.execv(sys.executable, [sys.executable, *sys.argv])


def table_cases(arguments: argparse.Namespace) -> list[cases.Case]:
    table = cases.QUICK_TABLE if arguments.quick else cases.TABLE
    if not arguments.shapes:
        return list(table)
    chosen = []
    for pattern in arguments.shapes.split(","):
        found = [case for case in dict.fromkeys((*table, *cases.TABLE)) if fnmatch.fnmatch(case.key, pattern)]
        chosen += found or [cases.parse(pattern)]
    return chosen


class Sides:
    """The sides by name. Worker processes start at their first use and end with the benchmark."""

    def __init__(self, arguments: argparse.Namespace, folder: pathlib.Path, stack: contextlib.ExitStack):
        from floor import Floor
        from jax_sides import NAMES, JaxSide

        self._folder, self._stack = folder, stack
        known = [Floor(), *(JaxSide(name) for name in NAMES)]
        self.all = [side for side in known if side.name in arguments.sides]
        self.versions = {}
        if arguments.torchaudio and "torchaudio" in arguments.sides:
            self.all += self._remote(arguments.torchaudio, len(os.sched_getaffinity(0)), ["torchaudio"])

    def of(self, *names: str) -> list:
        return [side for side in self.all if side.name in names]

    def one_thread(self, chosen: tuple[str, ...]) -> list:
        """Kernels and floor in a process with one processor. Their names end in @1."""
        return self._remote(sys.executable, 1, [name for name in ("native", "floor") if name in chosen], suffix="@1")

    def _remote(self, python: str, threads: int, names: list[str], suffix: str = "") -> list:
        from remote import RemoteSide, Worker

        worker = Worker(python, threads, names)
        self._stack.callback(worker.close)
        self.versions |= worker.versions
        return [RemoteSide(worker, name, name + suffix, self._folder) for name in names]


def run(arguments: argparse.Namespace, sides: Sides) -> list[dict]:
    rounds, seed = arguments.rounds, arguments.seed
    records = []
    if "table" in arguments.parts:
        for case in table_cases(arguments):
            records += measure.measure(case, sides.all, "table", rounds, seed)
    if "threads" in arguments.parts:
        pair = sides.of("native", "floor") + sides.one_thread(arguments.sides)
        for case in cases.QUICK_THREADS if arguments.quick else cases.THREADS:
            records += measure.measure(case, pair, "threads", rounds, seed, memory=False)
    if "growth" in arguments.parts:
        # The other sides would take most of the time of the run, to compile and to run.
        ours = sides.of("native", "floor") if arguments.quick else sides.of("native", "lax", "floor")
        for size, series in (cases.QUICK_GROWTH if arguments.quick else cases.GROWTH).items():
            for case in series:
                records += measure.measure(case, ours, f"growth-{size}", max(3, rounds // 2), seed, memory=False)
    return records


def main() -> None:
    arguments = parse_arguments()
    if arguments.hugetlb:
        restart_with_huge_pages()
    start = time.monotonic()
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "git": machine.commit(),
        "settings": {
            "quick": arguments.quick,
            "rounds": arguments.rounds,
            "seed": arguments.seed,
            "allocator": machine.allocator(),
            "touched_and_freed_before_each_call": f"{measure.TOUCHED} x logits, from {measure.IN_CACHE_BYTES} bytes on",
        },
    }
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = Sides(arguments, folder, stack)
        report["versions"] = machine.versions() | sides.versions
        report["records"] = run(arguments, sides)
    report["growth"] = growth.fit(report["records"])
    report["machine"]["load_average_at_end"] = os.getloadavg()[0]
    report["seconds"] = round(time.monotonic() - start, 1)
    for row in report["growth"]:
        exponents = ", ".join(f"{name} {value:.2f}" for name, value in row["exponents"].items())
        print(f"time ~ {row['size'].upper()}^n, {row['operation']}: {exponents}", file=sys.stderr)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['seconds']} s, allocator {machine.allocator()}", file=sys.stderr)
    wrong = {name for r in report["records"] for name, side in r["sides"].items() if "failed" in side}
    if wrong:
        sys.exit(f"not timed somewhere, for a wrong result or an error: {', '.join(sorted(wrong))}")


if __name__ == "__main__":
    main()
