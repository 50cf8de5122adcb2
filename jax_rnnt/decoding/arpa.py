"""ARPA files, the text format of n-gram models with back-off: a reader."""

import gzip
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

_GZIP = b"\x1f\x8b"


class Ngram(NamedTuple):
    """A line of an ARPA file. Both numbers are logarithms to base 10."""

    words: tuple[str, ...]
    probability: float
    backoff: float  # 0 where the line has none


def read_arpa(path: str | os.PathLike[str]) -> list[list[Ngram]]:
    """The n-grams of each order, from 1 on. The file is plain text or gzip."""
    return _Reader(Path(path)).orders()


class _Reader:
    """Goes through the lines of a file. Its errors name the line."""

    def __init__(self, path: Path):
        self.path, self.number = path, 0

    def orders(self) -> list[list[Ngram]]:
        counts: dict[int, int] = {}
        orders: list[list[Ngram]] = []
        section = None
        for line in self._lines():
            if line == "\\end\\":
                break
            if line == "\\data\\":
                section = line
            elif match := re.fullmatch(r"\\(\d+)-grams:", line):
                section = line
                if int(match[1]) != len(orders) + 1:
                    self._refuse(f"expected the {len(orders) + 1}-grams, got {line}")
                orders.append([])
            elif orders:
                orders[-1].append(self._ngram(line, len(orders)))
            elif section:
                counted = re.fullmatch(r"ngram (\d+) ?= ?(\d+)", line)
                if not counted:
                    self._refuse(f"expected a line such as 'ngram 1=200', got {line[:60]!r}")
                counts[int(counted[1])] = int(counted[2])
        else:
            self._refuse(r"the file ends without \end\ " if section else r"the file has no line \data\ ")
        found = {order: len(ngrams) for order, ngrams in enumerate(orders, 1)}
        if found != counts or not orders:
            self._refuse(f"the file announces {counts or 'nothing'}, as n-grams of each order, and has {found}")
        return orders

    def _lines(self) -> Iterator[str]:
        """The lines that are not empty. Words may hold any space but the blank and the tabulator."""
        with open(self.path, "rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(self.path) if packed else self.path.open("rb") as lines:
            for self.number, line in enumerate(lines, 1):
                try:
                    text = line.decode().strip(" \t\r\n")
                except UnicodeDecodeError as error:
                    self._refuse(f"expected UTF-8: {error}")
                if text:
                    yield text

    def _ngram(self, line: str, order: int) -> Ngram:
        first, *fields = line.replace("\t", " ").split(" ")
        fields = [field for field in fields if field]
        try:
            ngram = Ngram(tuple(fields[:order]), float(first), float(fields[order]) if len(fields) > order else 0.0)
            if len(fields) in (order, order + 1) and ngram.probability <= 0 and ngram.backoff < math.inf:
                return ngram
        except ValueError:  # it is not a number
            pass
        words = "a word" if order == 1 else f"{order} words"
        self._refuse(f"expected a number of 0 or less, {words} and perhaps another number, got {line[:60]!r}")

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"`path` is not an ARPA file: {self.path}, line {self.number}: {reason.strip()}.")
