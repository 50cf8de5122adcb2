"""A side that runs in a worker process (worker.py)."""

import json
import pathlib
import subprocess

import numpy as np
from cases import Case, Inputs, numpy_dtype
from side import Side


class Worker:
    """The worker process: `python`, on the first `threads` processors."""

    def __init__(self, python: str, threads: int, sides: list[str]):
        command = [python, str(pathlib.Path(__file__).with_name("worker.py")), str(threads), *sides]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._read()

    def ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args[0]} ended with status {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["value"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class RemoteSide(Side):
    def __init__(self, worker: Worker, side: str, name: str, folder: pathlib.Path):
        self.name = name
        self._worker, self._side, self._folder = worker, side, folder

    def _ask(self, do: str, **request):
        return self._worker.ask(do=do, side=self._side, **request)

    def supports(self, case: Case) -> bool:
        return self._ask("supports", case=case.key)

    def prepare(self, case: Case, inputs: Inputs, operation: str) -> None:
        # The arrays of a case are written to files once, for all workers and operations.
        self._case = case
        folder = self._folder / case.key
        if not folder.exists():
            folder.mkdir()
            inputs.save(folder)
        self._ask("prepare", case=case.key, folder=str(folder), operation=operation)

    def outputs(self) -> tuple[float, np.ndarray | None] | None:
        answer = self._ask("outputs", folder=str(self._folder))
        if answer is None or answer[1] is None:
            return answer
        cost, path = answer
        return cost, np.fromfile(path, numpy_dtype(self._case.dtype)).reshape(self._case.shape)

    def seconds(self, repeats: int, touch: int) -> float:
        return self._ask("seconds", repeats=repeats, touch=touch)

    def peak_bytes(self) -> int | None:
        return self._ask("peak_bytes")

    def release(self) -> None:
        self._ask("release")
