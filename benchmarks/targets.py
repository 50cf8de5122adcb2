"""Prints every target of the CPU kernels and the measured value, also for the targets that were missed.

    python benchmarks/targets.py default.json hugetlb.json

Ratios are of medians. The ratios of minima are behind them, in brackets.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator

from cases import FORWARD, GRADIENT, IN_CACHE, LARGE, LATTICE, LONG, ONE_UTTERANCE, TABLE, THREADS, TINY
from report import Report

LARGE_V = ("8x200x50x500", LARGE.key, "2x200x40x4096", "16x100x20x1024")
HALF = tuple(f"{LARGE.key}-{dtype}" for dtype in ("bfloat16", "float16"))
LOSSES = (*LARGE_V, ONE_UTTERANCE.key, LONG.key, IN_CACHE.key)
NAMES = {FORWARD: "forward", GRADIENT: "forward+gradient"}

# The largest time, relative to the floor: forward, and forward with gradient.
FLOOR = {
    **dict.fromkeys((*LARGE_V, ONE_UTTERANCE.key), (1.5, 1.3)),
    LONG.key: (3, 2),
    IN_CACHE.key: (10, 8),
    **dict.fromkeys(HALF, (2.5, 2)),
}
# The smallest ratio of torchaudio's time to ours.
TORCHAUDIO = {key: 40 if key in (LONG.key, IN_CACHE.key) else 60 for key in LOSSES} | {TINY.key: 7}
LAX = {"default": 3, "hugetlb": 1.5}
NODE_BYTES = {FORWARD: 24, GRADIENT: 40}
LINEAR = 1.1
THREADS_SPEEDUP = 1.7
ERROR_RATIO = 1000


@dataclasses.dataclass
class Row:
    what: str
    target: float
    measured: float | None
    at_least: bool = False
    beside: str = ""
    exempt: str = ""  # why the target does not apply

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.target if self.at_least else self.measured <= self.target
        return "met" if met else self.exempt or "NOT MET"

    def cells(self) -> tuple[str, ...]:
        measured = "" if self.measured is None else f"{self.measured:.3g}{self.beside}"
        return self.what, measured, f"{'>=' if self.at_least else '<='} {self.target:g}", self.verdict


def _ratio(report: Report, key: str, operation: str, above: str, below: str, what: str, target: float, at_least: bool):
    minima = report.ratio(key, operation, above, below, "minimum")
    beside = "" if minima is None else f" ({minima:.3g})"
    return Row(what, target, report.ratio(key, operation, above, below), at_least, beside)


def floor_rows(report: Report) -> Iterator[Row]:
    for key, limits in FLOOR.items():
        for operation, limit in zip((FORWARD, GRADIENT), limits, strict=True):
            what = f"{key} {NAMES[operation]} / floor"
            yield _ratio(report, key, operation, "native", "floor", what, limit, False)


def torchaudio_rows(report: Report) -> Iterator[Row]:
    for key, limit in TORCHAUDIO.items():
        what = f"{key} {NAMES[GRADIENT]}, torchaudio / native"
        yield _ratio(report, key, GRADIENT, "torchaudio", "native", what, limit, True)


def lax_rows(report: Report) -> Iterator[Row]:
    limits = dict.fromkeys((*LOSSES, *HALF), LAX.get(report.allocator, LAX["default"]))
    if report.allocator != "hugetlb":
        limits[IN_CACHE.key] = 2.5
    limits[TINY.key] = 2
    for key, limit in limits.items():
        what = f"{key} {NAMES[GRADIENT]}, lax / native"
        yield _ratio(report, key, GRADIENT, "lax", "native", what, limit, True)
    for operation in (FORWARD, GRADIENT):
        what = f"{LATTICE.key} {NAMES[operation]}, lax / native"
        yield _ratio(report, LATTICE.key, operation, "lax", "native", what, 4, True)


def node_bytes(record: dict, side: str) -> float | None:
    """The memory beyond logits and gradient, for each node of the lattice."""
    planned = record["sides"].get(side, {}).get("planned_bytes")
    if planned is None:
        return None
    gradient = record["case"]["bytes"] if record["operation"] == GRADIENT else 0
    return (planned - gradient) / record["case"]["nodes"]


def memory_rows(report: Report) -> Iterator[Row]:
    for operation, limit in NODE_BYTES.items():
        for case in TABLE:
            if case.kind == "loss":
                record = report.record(case.key, operation)
                measured = node_bytes(record, "native") if record else None
                yield Row(f"{case.key} {NAMES[operation]}, bytes per node", limit, measured)


def growth_rows(report: Report) -> Iterator[Row]:
    for size in "btuv":
        for operation in (FORWARD, GRADIENT):
            found = [r for r in report.data["growth"] if (r["size"], r["operation"]) == (size, operation)]
            exponents = found[0]["exponents"] if found else {}
            beside = f" (floor {exponents['floor']:.3g})" if "floor" in exponents else ""
            what = f"exponent of time in {size.upper()}, {NAMES[operation]}"
            yield Row(what, LINEAR, exponents.get("native"), beside=beside)


def thread_rows(report: Report) -> Iterator[Row]:
    for case in THREADS:
        for operation in (FORWARD, GRADIENT):
            speedup, limit = (
                report.ratio(case.key, operation, "native@1", side, series="threads") for side in ("native", "floor")
            )
            # At the floor itself all threads are `limit` times as fast as one. If this is below the target, one core
            # already takes most of the memory's bandwidth. Then the memory sets the limit, not the work.
            saturated = limit is not None and limit < THREADS_SPEEDUP
            exempt = "one core saturates memory" if saturated else ""
            beside = "" if limit is None else f" (at the floor: {limit:.3g})"
            what = f"{case.key} {NAMES[operation]}, 1 thread / all"
            yield Row(what, THREADS_SPEEDUP, speedup, True, beside, exempt)


def accuracy_rows(report: Report) -> Iterator[Row]:
    errors = [report.value(LONG.key, GRADIENT, side, "gradient_error") for side in ("torchaudio", "native")]
    measured = errors[0] / errors[1] if None not in errors and errors[1] else None
    beside = "" if measured is None else f" ({errors[0]:.1e} / {errors[1]:.1e})"
    yield Row(f"{LONG.key} gradient error, torchaudio / native", ERROR_RATIO, measured, True, beside)


ROWS = (floor_rows, torchaudio_rows, lax_rows, memory_rows, growth_rows, thread_rows, accuracy_rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=pathlib.Path, help="JSON files of bench.py")
    for path in parser.parse_args().reports:
        report = Report(path)
        rows = [row for rows in ROWS for row in rows(report)]
        print(f"{report.title()}\n\n| | measured | target | |\n|---|--:|--:|---|")
        for row in rows:
            print("| " + " | ".join(row.cells()) + " |")
        verdicts = [row.verdict for row in rows]
        print(f"\n{verdicts.count('met')} of {len(rows)} met, {verdicts.count('NOT MET')} not met\n")


if __name__ == "__main__":
    main()
