"""Breaks the library on purpose, in one place at a time, and demands that the tests notice each mutant.

    python tests/mutants/run_library.py                # all of library.txt; half an hour on two cores
    python tests/mutants/run_library.py clamp lattice  # those with one of these words in their file or name

It needs an environment where the tests run, and cmake, ninja and nanobind for the mutants of the C++ kernels. It works
on copies of the repository. The tests must pass there without a mutant.
"""

import concurrent.futures
import contextlib
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

from mutant import ROOT, Mutant, chosen, judge, listed

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
        is_native = mutant.file.startswith("cpp/")
        file = mutant.breaks(self._folder)
        try:
            if is_native or self._is_stale:
                self.build()
            self._is_stale = is_native
            result = self.test(*shlex.split(mutant.tests))
        except subprocess.TimeoutExpired:
            return f"no end after {SECONDS} s"
        finally:
            shutil.copyfile(ROOT / mutant.file, file)
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


def main() -> None:
    mutants, jobs = chosen(listed("library.txt"), __doc__, jobs=2)
    copies: queue.Queue[Copy] = queue.Queue()
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor(jobs) as pool:

        def prepare(index: int) -> None:
            copy = Copy(pathlib.Path(temporary) / str(index))
            copy.build()
            copies.put(copy)

        @contextlib.contextmanager
        def a_copy():
            copy = copies.get()
            try:
                yield copy
            finally:
                copies.put(copy)

        def pass_unbroken(tests: str) -> None:
            """Checks that the tests pass without a mutant. If they fail, their failure says nothing of a mutant."""
            with a_copy() as copy:
                result = copy.test(*shlex.split(tests))
            if result.returncode != 0:
                raise SystemExit(f"without a mutant {tests} does not pass:\n{result.stdout}{result.stderr}")

        def catcher(mutant: Mutant) -> str | None:
            with a_copy() as copy:
                return copy.caught_by(mutant)

        list(pool.map(prepare, range(jobs)))
        list(pool.map(pass_unbroken, sorted({mutant.tests for mutant in mutants})))
        judge(mutants, catcher, jobs)


if __name__ == "__main__":
    main()
