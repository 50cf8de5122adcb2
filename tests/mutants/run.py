"""Breaks the library on purpose, in one place at a time, and checks that the tests notice each mutant.

    python tests/mutants/run.py                # all of mutants.py; half an hour on two cores
    python tests/mutants/run.py clamp lattice  # those with one of these words in their file or name
    python tests/mutants/run.py --jobs 4

It needs an environment where the tests run, and cmake, ninja and nanobind for the mutants of the C++ kernels. It works
on copies of the repository. It prints what caught each mutant. It fails if a mutant survives, or if the text that a
mutant replaces is not exactly once in its file.
"""

import argparse
import concurrent.futures
import importlib.util
import os
import pathlib
import queue
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from mutants import MUTANTS, Mutant

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 600  # a mutant may turn a loop into an endless one

# Runs pytest on the copy. Python would otherwise import an editable installation.
PYTEST = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
sys.path.insert(0, {copy!r})
import jax_rnnt, pytest
assert jax_rnnt.__file__.startswith({copy!r}) and jax_rnnt.build_info()["implementations"]["cpu"] == "native"
sys.exit(pytest.main(sys.argv[1:]))
"""


class Copy:
    """A copy of the repository, with kernels built in it. Mutants use it one after another."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for file in files.splitlines():
            if (ROOT / file).exists():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, folder / file)
        self._is_stale = False  # whether the built kernels are those of a mutant
        self._module = folder / "jax_rnnt" / pathlib.Path(importlib.util.find_spec("jax_rnnt._native").origin).name

    def build(self) -> None:
        build = self._folder / "build" / "mutants"
        if not build.exists():
            options = ("-DJAX_RNNT_CUDA=OFF", "-DCMAKE_CXX_FLAGS=-DJAX_RNNT_NO_CLONES", "-Wno-dev")
            python = f"-DPython_EXECUTABLE={sys.executable}"
            _run(["cmake", "-G", "Ninja", "-S", self._folder, "-B", build, python, *options])
        _run(["cmake", "--build", build, "--parallel", "1"])
        (module,) = build.glob("_native.*so")
        shutil.copyfile(module, self._module)

    def test(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", PYTEST.format(copy=str(self._folder))]
        command += ["-q", "-x", "-rf", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", *arguments]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "JAX_RNNT_REQUIRE_NATIVE": "1"}
        tests = self._folder / "tests"
        return subprocess.run(
            command, cwd=tests, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def caught_by(self, mutant: Mutant) -> str | None:
        """What the tests say of the mutant, or None if they pass."""
        file = self._folder / mutant.file
        original = file.read_text()
        file.write_text(original.replace(mutant.before, mutant.after))
        try:
            if mutant.is_native or self._is_stale:
                self.build()
            self._is_stale = mutant.is_native
            result = self.test(*shlex.split(mutant.tests))
        except subprocess.TimeoutExpired:
            return f"no end after {SECONDS} s"
        finally:
            file.write_text(original)
        if result.returncode < 0:
            return f"signal {-result.returncode}"
        if result.returncode > 1:  # neither passed nor failed: pytest ran nothing, or pytest itself broke
            raise SystemExit(f"{mutant.name}: pytest ended with {result.returncode}\n{result.stdout}{result.stderr}")
        failed = re.search(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
        return None if result.returncode == 0 else failed[1] if failed else result.stdout.splitlines()[-1]


def _run(command: list) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(map(str, command))}\n{done.stdout}{done.stderr}")


def chosen(words: list[str]) -> list[Mutant]:
    mutants = [m for m in MUTANTS if not words or any(word in m.file or word in m.name for word in words)]
    for mutant in MUTANTS:
        count = (ROOT / mutant.file).read_text().count(mutant.before)
        if count != 1:
            raise SystemExit(f"{mutant.name}: {mutant.before!r} is {count} times in {mutant.file}, and must be once")
    return mutants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--suite-passes", action="store_true", help="it has just been run: don't run it unbroken again")
    arguments = parser.parse_args()
    mutants = chosen(arguments.words)
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        copies: queue.Queue[Copy] = queue.Queue()

        def prepare(index: int) -> None:
            copy = Copy(pathlib.Path(temporary) / str(index))
            copy.build()
            copies.put(copy)

        def pass_unbroken(tests: str) -> None:
            """Checks that the tests pass without a mutant. If they fail, their failure says nothing of a mutant."""
            copy = copies.get()
            try:
                result = copy.test(*shlex.split(tests))
            finally:
                copies.put(copy)
            if result.returncode != 0:
                raise SystemExit(f"without a mutant {tests} does not pass:\n{result.stdout}{result.stderr}")

        def judge(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                catcher = copy.caught_by(mutant)
            finally:
                copies.put(copy)
            print(f"{mutant.file}: {mutant.name}: {catcher or 'SURVIVED'}", flush=True)
            if catcher is None:
                survivors.append(mutant.name)

        list(pool.map(prepare, range(arguments.jobs)))
        if not arguments.suite_passes:
            list(pool.map(pass_unbroken, sorted({mutant.tests for mutant in mutants})))
        list(pool.map(judge, mutants))
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} caught")
    if survivors:
        raise SystemExit(f"not caught: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
