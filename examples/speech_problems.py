"""What can be wrong with the input, and how it is said: skipped and counted with its path, or one sentence and exit."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

SHOWN = 20  # on the terminal; the file holds all of them


class UserError(Exception):
    """Something the person at the keyboard can mend: shown as one sentence, without a traceback."""


class Unusable(Exception):
    """One utterance can't be used: what that is counted under, and what was found."""

    def __init__(self, kind: str, detail: str):
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class Problem(NamedTuple):
    """One thing that was skipped."""

    path: Path
    kind: str
    detail: str


def summary(problems: Sequence[Problem]) -> str:
    """How many there are of each kind, and the first of them."""
    counts = Counter(problem.kind for problem in problems).most_common()
    first = problems[0]
    return f"{', '.join(f'{count} {kind}' for kind, count in counts)}; the first is {first.path}: {first.detail}"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to. It becomes `path` when everything is written; until then `path` keeps what it held."""
    unfinished = path.with_stem(path.stem + ".unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class ProblemLog:
    """Shows problems, counts them by kind and writes each to `file` at once, so that a killed run still tells."""

    def __init__(self, file: Path, console: Console):
        self.counts: Counter[str] = Counter()
        self.file = file
        self._console = console
        file.write_text("")

    def __call__(self, problem: Problem) -> None:
        self.counts[problem.kind] += 1
        line = f"{problem.path}: {problem.kind}: {problem.detail}"
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self.counts.total() <= SHOWN:
            self._console.print(f"skipped {line}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        elif self.counts.total() == SHOWN + 1:
            self._console.print(f"more was skipped: {self.file}", style="yellow", markup=False, soft_wrap=True)
