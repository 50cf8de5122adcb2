"""How time grows with one size: the exponent of the power law that fits the measured points, by least squares."""

import math
import statistics


def exponent(sizes: list[float], seconds: list[float]) -> float:
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(s) for s in seconds]).slope


def fit(records: list[dict]) -> list[dict]:
    """One row for each size ("b", "t", "u", "v") and operation.

    It has the exponents of sides measured at every point.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        if record["series"].startswith("growth-"):
            groups.setdefault((record["series"].removeprefix("growth-"), record["operation"]), []).append(record)
    rows = []
    for (size, operation), points in groups.items():
        sizes = [point["case"][size] for point in points]
        names = [name for name in points[0]["sides"] if all("median" in p["sides"].get(name, {}) for p in points)]
        exponents = {name: exponent(sizes, [p["sides"][name]["median"] for p in points]) for name in names}
        rows.append({"size": size, "operation": operation, "sizes": sizes, "exponents": exponents})
    return rows
