"""Faults of the input and of the options: an input is skipped and counted, or a sentence ends the run."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from soundfile import SoundFileError

console = Console(markup=False, highlight=False, soft_wrap=True)


class UserError(Exception):
    """A fault that the user can mend: shown as one sentence, without a traceback."""


class Problem(Exception):
    """Why a file is skipped. Files are counted by kind."""


class Problems:
    """Shows problems and writes each to `file` at once, so that a killed run still tells."""

    def __init__(self, file: Path):
        self.file, self.kinds = file, {}  # the kind of each, by its text: every epoch meets it again
        file.write_text("")

    @contextlib.contextmanager
    def skipping(self, path: Path, unreadable: str) -> Iterator[None]:
        """Skips a file with the first Problem(kind, detail) of the block, or with an error in reading it."""
        try:
            yield
        except Problem as problem:
            self.skip(path, *problem.args)
        except (OSError, UnicodeDecodeError, SoundFileError) as error:
            self.skip(path, unreadable, error)

    def skip(self, path: Path, kind: str, detail: object) -> None:
        text = f"{path}: {kind}: {detail}"
        if text not in self.kinds:
            self.kinds[text] = kind
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")
            if len(self.kinds) <= 20:  # the file has all
                console.print(f"skipped {text}", style="yellow")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in Counter(self.kinds.values()).most_common())
        return f"{counts}; the first is {next(iter(self.kinds))}" if self.kinds else "nothing"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`path` gets the output of `write` when that is whole. Until then it keeps its old content."""
    unfinished = path.with_stem(path.stem + ".unfinished")
    try:
        write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
