"""What both runners share: what a mutant is, which of them run, and the verdict."""

import argparse
import concurrent.futures
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LISTED = re.compile(r"^([^-+\n].*) \| (.+)\n((?:-.*\n)+)((?:\+.*\n)+)", re.MULTILINE)


class Mutant(NamedTuple):
    name: str
    file: str  # of the repository
    before: str  # occurs exactly once in the file
    after: str
    tests: str  # what must notice it; the head of the text says in which form

    def breaks(self, folder: pathlib.Path) -> pathlib.Path:
        """Puts the mutant into the copy of the repository in `folder`, and returns the file that it changed."""
        path = folder / self.file
        path.write_text(path.read_text().replace(self.before, self.after))
        return path


def listed(name: str) -> list[Mutant]:
    """The mutants of a text, in the form that its head describes."""

    def text(lines: str) -> str:
        return "\n".join(line[2:] for line in lines.splitlines())

    mutants = []
    for paragraph in (HERE / name).read_text().split("\n\n"):
        file, _, rest = paragraph.partition("\n")
        found = LISTED.findall(rest.rstrip("\n") + "\n")
        mutants += [Mutant(name, file, text(before), text(after), tests) for name, tests, before, after in found]
    return mutants


def chosen(mutants: Sequence[Mutant], doc: str, jobs: int) -> tuple[list[Mutant], int]:
    """The mutants and the number of jobs that the command line asks for. With --list the process ends here."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants with one of these words in their file or name")
    parser.add_argument("--jobs", type=int, default=jobs)
    parser.add_argument("--list", action="store_true", help="check that each text is there, list the mutants, run none")
    arguments = parser.parse_args()
    counts = [(ROOT / mutant.file).read_text().count(mutant.before) for mutant in mutants]
    for mutant, count in zip(mutants, counts, strict=True):
        if count != 1:
            print(f"{mutant.name}: {mutant.before!r} must be once in {mutant.file}, and is there {count} times")
    if set(counts) != {1}:
        raise SystemExit("mutants do not fit their files")
    words = arguments.words
    found = [m for m in mutants if not words or any(word in m.file or word in m.name for word in words)]
    if arguments.list:
        print(*(f"{mutant.file}: {mutant.name}" for mutant in found), sep="\n")
        raise SystemExit
    return found, arguments.jobs


def judge(mutants: Sequence[Mutant], catcher: Callable[[Mutant], str | None], jobs: int) -> None:
    """Prints what caught each mutant. `catcher` returns None of one that survives; then the process fails."""
    survivors = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for mutant, caught in zip(mutants, pool.map(catcher, mutants), strict=True):
            print(f"{mutant.file}: {mutant.name}: {caught or 'SURVIVED'}", flush=True)
            if caught is None:
                survivors.append(mutant.name)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} caught")
    if survivors:
        raise SystemExit(f"not caught: {', '.join(survivors)}")
