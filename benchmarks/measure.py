"""Measures one case: checks every side against the oracle, then times all of them in interleaved rounds."""

import dataclasses
import random
import statistics
import sys
import time
import traceback

import oracle
from cases import OPERATIONS, Case, make_inputs
from side import Side

# Logits below this size are measured in the caches, by calls in a row. For larger logits each call is timed alone,
# after memory was touched and freed (side.touch_and_free).
IN_CACHE_BYTES = 16 << 20
TOUCHED = 3  # times the logits' size
SAMPLE_SECONDS = 0.004  # in the caches, the calls of one sample take about this long
SLOW_SECONDS, SLOW_STRIDE = 0.5, 4  # a side this slow runs in every fourth round only: its noise is small
PAUSE_SECONDS = 0.003  # idle threads of some runtimes spin for a while and slow the next side


def measure(case: Case, sides: list[Side], series: str, rounds: int, seed: int, memory: bool = True) -> list[dict]:
    """One record for each operation: the times, errors and memory of each side."""
    inputs = make_inputs(case, seed)
    sides = [side for side in sides if side.supports(case)]
    expected = oracle.solve(case, inputs)
    checks = {operation: _check(case, sides, operation, inputs, expected) for operation in OPERATIONS}
    del expected  # two or four times as large as the logits
    records = []
    for operation in OPERATIONS:
        results = checks[operation]
        fit = [side for side in sides if "failed" not in results[side.name]]
        for side in fit:
            side.prepare(case, inputs, operation)
            if memory:
                results[side.name] |= {"peak_bytes": side.peak_bytes(), "planned_bytes": side.planned_bytes()}
        for name, samples in interleave(
            fit, rounds, 0 if case.bytes < IN_CACHE_BYTES else TOUCHED * case.bytes
        ).items():
            results[name] |= _statistics(samples)
        records.append({"series": series, "case": _describe(case), "operation": operation, "sides": results})
        print_record(records[-1])
    for side in sides:
        side.release()
    return records


def _describe(case: Case) -> dict:
    return dataclasses.asdict(case) | {"key": case.key, "nodes": case.nodes, "bytes": case.bytes}


def _check(case: Case, sides: list[Side], operation: str, inputs, expected: oracle.Oracle) -> dict[str, dict]:
    results = {}
    for side in sides:
        try:
            side.prepare(case, inputs, operation)
            outputs = side.outputs()
        except Exception:
            traceback.print_exc()
            results[side.name] = {"failed": traceback.format_exc().strip().splitlines()[-1]}
            continue
        results[side.name] = {} if outputs is None else expected.errors(*outputs)
        if outputs is not None and not oracle.is_right(results[side.name]):
            results[side.name]["failed"] = "its result is wrong, so it was not timed"
    return results


def interleave(sides: list[Side], rounds: int, touch: int) -> dict[str, list[float]]:
    """Runs every side once in a round, each round in a new order.

    Other work of the machine then slows all of them alike.
    """
    trial = {side.name: side.seconds(1, touch) for side in sides}
    repeats = {n: 1 if touch else max(1, round(SAMPLE_SECONDS / seconds)) for n, seconds in trial.items()}
    samples = {side.name: [] for side in sides}
    order = random.Random(0)
    for number in range(rounds):
        for side in order.sample(sides, len(sides)):
            if trial[side.name] > SLOW_SECONDS and number % SLOW_STRIDE:
                continue
            time.sleep(PAUSE_SECONDS)
            samples[side.name].append(side.seconds(repeats[side.name], touch))
    return samples


def _statistics(samples: list[float]) -> dict:
    return {"median": statistics.median(samples), "minimum": min(samples), "samples": [round(s, 8) for s in samples]}


def _memory(side: dict, logits_bytes: int) -> str:
    # The plan comes first: memory that the allocator has kept from earlier calls does not show as growth of resident
    # memory.
    for key, source in (("planned_bytes", "planned"), ("peak_bytes", "resident")):
        if side.get(key) is not None:
            return f"  memory {side[key] / logits_bytes:.2f} x logits ({source})"
    return ""


def print_record(record: dict) -> None:
    sides = record["sides"]
    floor = sides.get("floor", {}).get("median")
    print(f"{record['case']['key']} {record['operation']}", file=sys.stderr)
    for name, side in sides.items():
        if "failed" in side:
            print(f"  {name:12} {side['failed']}", file=sys.stderr)
            continue
        line = f"  {name:12} {side['median'] * 1e3:10.3f} ms  (min {side['minimum'] * 1e3:.3f})"
        line += f" {side['median'] / floor:8.2f} x floor" if floor else ""
        line += f"  gradient error {side['gradient_error']:.1e}" if "gradient_error" in side else ""
        line += _memory(side, record["case"]["bytes"])
        print(line, file=sys.stderr)
    sys.stderr.flush()
