"""Reads the report of bench.py."""

import json
import pathlib


class Report:
    def __init__(self, path: pathlib.Path):
        self.data = json.loads(path.read_text())
        self.allocator = self.data["settings"]["allocator"]
        self.records = self.data["records"]
        self._sides = {(r["series"], r["case"]["key"], r["operation"]): r for r in self.records}

    def of(self, series: str) -> list[dict]:
        return [record for record in self.records if record["series"] == series]

    def record(self, key: str, operation: str, series: str = "table") -> dict | None:
        return self._sides.get((series, key, operation))

    def value(self, key: str, operation: str, side: str, field: str = "median", series: str = "table") -> float | None:
        """The measured value of a side, or None."""
        record = self.record(key, operation, series)
        return record["sides"].get(side, {}).get(field) if record else None

    def ratio(
        self, key: str, operation: str, above: str, below: str, field: str = "median", series: str = "table"
    ) -> float | None:
        values = [self.value(key, operation, side, field, series) for side in (above, below)]
        return values[0] / values[1] if None not in values and values[1] else None

    def title(self) -> str:
        machine, versions, settings = (self.data[name] for name in ("machine", "versions", "settings"))
        return (
            f"{machine['cpu']}, {machine['cores']} cores, jax {versions['jax']}, {settings['allocator']} malloc, "
            f"{self.data['date'][:10]}, commit {str(self.data['git']['commit'])[:8]}"
            + (" with changes" if self.data["git"]["changed_files"] else "")
            + (", --quick" if settings["quick"] else "")
        )
