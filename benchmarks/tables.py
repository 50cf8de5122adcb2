"""Prints the tables of docs/speed.md from reports of bench.py: `python benchmarks/tables.py results/*.json`."""

import argparse
import json
import math
import pathlib
import statistics

from cases import FORWARD, GRADIENT, OPERATIONS


def title(report: dict) -> str:
    machine, versions, settings = (report[name] for name in ("machine", "versions", "settings"))
    return (
        f"{machine['cpu']}, {machine['cores']} cores, jax {versions['jax']}, {settings['allocator']} malloc, "
        f"{report['date'][:10]}, commit {str(report['git']['commit'])[:8]}"
        + (" with changes" if report["git"]["changed_files"] else "")
        + (", --quick" if settings["quick"] else "")
    )


def sides_of(report: dict, series: str) -> dict[tuple[str, str], dict]:
    """The sides of a series, by shape and operation."""
    return {(r["case"]["key"], r["operation"]): r["sides"] for r in report["records"] if r["series"] == series}


def ratio(sides: dict, above: str, below: str) -> float | None:
    """The ratio of medians, or None where one of them was not measured."""
    values = [sides.get(side, {}).get("median") for side in (above, below)]
    return values[0] / values[1] if None not in values else None


def _print(head: str, rows: list[list]) -> None:
    columns = head.split(" | ")
    print(f"\n| {head} |\n|---|{'--:|' * (len(columns) - 1)}")
    for row in rows:
        print("| " + " | ".join(x if isinstance(x, str) else "" if x is None else f"{x:.3g}" for x in row) + " |")


def main_table(report: dict) -> None:
    table = sides_of(report, "table")
    rows = []
    for key in dict.fromkeys(key for key, _ in table):
        row = [key]
        for sides in (table[key, operation] for operation in OPERATIONS):
            row += [1e3 * sides["native"]["median"], ratio(sides, "native", "floor"), ratio(sides, "lax", "native")]
        rows.append([*row, ratio(sides, "torchaudio", "native")])
    head = "shape | cost, ms | of floor | lax / native | cost and gradient, ms | of floor | lax / native"
    _print(head + " | torchaudio / native", rows)


def threads(report: dict) -> None:
    table = sides_of(report, "threads")
    rows = [
        [key, *(ratio(table[key, o], f"{side}@1", side) for o in OPERATIONS for side in ("native", "floor"))]
        for key in dict.fromkeys(key for key, _ in table)
    ]
    _print("shape, 1 thread / all | cost | the floor's | cost and gradient | the floor's", rows)


def growth(report: dict) -> None:
    """The exponent of the power law that fits the measured times, by least squares."""

    def exponent(size: str, operation: str, side: str) -> float | None:
        records = [r for r in report["records"] if (r["series"], r["operation"]) == (f"growth-{size}", operation)]
        points = [(math.log(r["case"][size]), math.log(r["sides"][side]["median"])) for r in records]
        return statistics.linear_regression(*zip(*points, strict=True)).slope if points else None

    sides = [(operation, side) for operation in (FORWARD, GRADIENT) for side in ("native", "floor")]
    rows = [[size.upper(), *(exponent(size, *of) for of in sides)] for size in "btuv"]
    _print("exponent in | cost | the floor's | cost and gradient | the floor's", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=pathlib.Path)
    for path in parser.parse_args().reports:
        report = json.loads(path.read_text())
        print(f"\n{title(report)}")
        main_table(report)
        if sides_of(report, "threads"):
            threads(report)
            growth(report)


if __name__ == "__main__":
    main()
