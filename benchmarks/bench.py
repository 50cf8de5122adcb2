"""Times the RNN-T loss against its own lax form, torchaudio and the floor of the memory. See README.md.

python benchmarks/bench.py --quick
python benchmarks/bench.py --torchaudio DIR/bin/python --out default.json
python benchmarks/bench.py --torchaudio DIR/bin/python --hugetlb --out hugetlb.json
"""

import argparse
import contextlib
import dataclasses
import datetime
import fnmatch
import json
import os
import pathlib
import sys

import cases
import machine
import oracle
import sides
from cases import Case
from clock import Process, interleaved


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds, under a minute")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON file to write")
    parser.add_argument("--torchaudio", metavar="PYTHON", help="an interpreter that can import torch and torchaudio")
    parser.add_argument("--hugetlb", action="store_true", help=f"all sides under GLIBC_TUNABLES={machine.HUGETLB}")
    parser.add_argument("--shapes", help="only the table, of these patterns or shapes: 4x300x60x1024,lattice-*")
    parser.add_argument("--rounds", type=int, help="samples of each side (default 15, 3 if quick)")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 15)
    return arguments


def table_cases(arguments: argparse.Namespace) -> list[Case]:
    table = cases.QUICK_TABLE if arguments.quick else cases.TABLE
    if not arguments.shapes:
        return list(table)
    chosen = []
    for pattern in arguments.shapes.split(","):
        chosen += [case for case in cases.TABLE if fnmatch.fnmatch(case.key, pattern)] or [cases.parse(pattern)]
    return chosen


def measure(case: Case, series: str, rounds: int, names, processes: dict[str, Process]) -> list[dict]:
    """One record per operation: times, errors and planned memory of each side. A side that is wrong is not timed."""
    inputs = cases.make_inputs(case)
    expected = oracle.solve(case, inputs)
    records = []
    for operation in cases.OPERATIONS:
        options = {"operation": operation, "kind": case.kind}
        calls = sides.calls(inputs, **options, names=names)
        if "torchaudio" in processes and case.kind == "loss" and case.dtype != "bfloat16":
            calls |= processes["torchaudio"].calls(inputs, of="loss", operation=operation)
        if "@1" in processes:
            alone = processes["@1"].calls(inputs, **options, names=["native", "floor"])
            calls |= {f"{name}@1": call for name, call in alone.items()}
        results = {}
        for name, call in calls.items():
            is_floor = name.startswith("floor")
            results[name] = {} if is_floor else oracle.errors(call(), expected)
            if not is_floor and not oracle.is_right(results[name]):
                results[name]["failed"] = "its result is wrong, so it was not timed"
            if hasattr(call, "planned_bytes"):
                results[name]["planned_bytes"] = call.planned_bytes
        fit = {name: call for name, call in calls.items() if "failed" not in results[name]}
        for name, times in interleaved(fit, rounds, **case.clock()).items():
            samples = [round(x, 8) for x in times]
            results[name] |= {"median": times.median, "minimum": min(times), "samples": samples}
        described = dataclasses.asdict(case) | {"key": case.key, "nodes": case.nodes, "bytes": case.bytes}
        records.append({"series": series, "case": described, "operation": operation, "sides": results})
        print_record(records[-1])
    return records


def print_record(record: dict) -> None:
    floor = record["sides"]["floor"]["median"]
    print(f"{record['series']}: {record['case']['key']} {record['operation']}", file=sys.stderr)
    for name, side in record["sides"].items():
        if "failed" in side:
            print(f"  {name:12} {side['failed']}", file=sys.stderr)
            continue
        line = f"  {name:12} {1e3 * side['median']:10.3f} ms  (least {1e3 * side['minimum']:.3f})"
        line += f" {side['median'] / floor:8.2f} x floor"
        if "planned_bytes" in side:
            line += f"  memory {side['planned_bytes'] / record['case']['bytes']:.2f} x logits"
        print(line, file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace, processes: dict[str, Process]) -> list[dict]:
    records = []
    for case in table_cases(arguments):
        records += measure(case, "table", arguments.rounds, sides.NAMES, processes)
    if arguments.shapes:
        return records
    alone = Process(sys.executable, "sides", threads=1)
    for case in cases.QUICK_THREADS if arguments.quick else cases.THREADS:
        records += measure(case, "threads", arguments.rounds, ("native", "floor"), {"@1": alone})
    alone.close()
    for size, series in (cases.QUICK_GROWTH if arguments.quick else cases.GROWTH).items():
        for case in series:
            records += measure(case, f"growth-{size}", max(3, arguments.rounds // 2), ("native", "floor"), {})
    return records


def main() -> None:
    arguments = parsed()
    if arguments.hugetlb and os.environ.get("GLIBC_TUNABLES") != machine.HUGETLB:
        # glibc reads its tunables only when a process starts. Other processes inherit them.
        os.environ["GLIBC_TUNABLES"] = machine.HUGETLB
        os.execv(sys.executable, [sys.executable, *sys.argv])
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.machine(),
        "git": machine.commit(),
        "settings": {"quick": arguments.quick, "rounds": arguments.rounds, "allocator": machine.allocator()},
        "versions": machine.versions(),
    }
    with contextlib.ExitStack() as stack:
        processes = {}
        if arguments.torchaudio:
            processes["torchaudio"] = Process(arguments.torchaudio, "torch_sides", len(os.sched_getaffinity(0)))
            stack.callback(processes["torchaudio"].close)
            report["versions"] |= processes["torchaudio"].versions
        report["records"] = run(arguments, processes)
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    wrong = {name for r in report["records"] for name, side in r["sides"].items() if "failed" in side}
    if wrong:
        sys.exit(f"not timed somewhere, for a wrong result: {', '.join(sorted(wrong))}")


if __name__ == "__main__":
    main()
