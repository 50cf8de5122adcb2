"""The clock of every benchmark. A round runs each call once, in a new order, so other work slows all of them alike."""

import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PAUSE_SECONDS = 0.003  # idle threads of some runtimes spin for a while and slow the next call


class Times(list):
    """The seconds of one call, a number per round."""

    @property
    def median(self) -> float:
        return statistics.median(self)


def touch_and_free(size: int) -> None:
    """Makes the machine provide `size` bytes of memory now, and not during the next timed call.

    A virtual machine gives freed pages back to its host. The next touch of such a page costs far more than the page
    fault that a fresh result has anyway.
    """
    if size:
        np.empty(size, np.uint8)[::4096] = 1


def seconds(call: Callable, repeats: int = 1, touch: int = 0) -> float:
    """The mean time of `repeats` calls in a row, each with a fresh result; the result before it is freed first."""
    if isinstance(call, Elsewhere):
        return call.seconds(repeats, touch)
    touch_and_free(touch)
    result = None
    if repeats > 1:
        ready(call())  # fills the caches
    begin = time.perf_counter()
    for _ in range(repeats):
        result = None
        result = ready(call())
    elapsed = time.perf_counter() - begin
    del result
    return elapsed / repeats


def ready(result: Any) -> Any:
    """Waits for the result, if it is one of JAX."""
    jax = sys.modules.get("jax")  # a process of another library does not have it
    return jax.block_until_ready(result) if jax else result


def interleaved(
    calls: dict[Any, Callable], rounds: int, touch: int = 0, sample_seconds: float = 0.0, stride: int = 1
) -> dict[Any, Times]:
    """The times of each call. Its first run does not count.

    Before each call, `touch` bytes are touched and freed. With `sample_seconds`, for arrays that fit into the caches, a
    sample is the mean of as many calls in a row as take about that long. A call of more than half a second runs in
    every `stride`-th round only, because its noise is small.
    """
    first = {name: seconds(call, 1, touch) for name, call in calls.items()}
    again = {name: seconds(call, 1, touch) for name, call in calls.items()} if sample_seconds else first
    repeats = {name: max(1, round(sample_seconds / x)) for name, x in again.items()}
    times = {name: Times() for name in calls}
    order = random.Random(0)
    for i in range(rounds):
        for name in order.sample(list(calls), len(calls)):
            if again[name] > 0.5 and i % stride:
                continue
            time.sleep(PAUSE_SECONDS)
            times[name].append(seconds(calls[name], repeats[name], touch))
    return times


def compiled(function: Callable, *arguments) -> tuple[Callable, int, int]:
    """Compiles ``function(*arguments)``.

    Returns a call of it, and the bytes of its temporaries and results, by XLA's plan.
    """
    import jax

    step = jax.jit(function).lower(*arguments).compile()
    plan = step.memory_analysis()
    return lambda: step(*arguments), plan.temp_size_in_bytes, plan.output_size_in_bytes


class Process:
    """Another Python, or this Python with fewer processors, that times calls of its own (worker.py).

    The clock runs in that process, so the pipe costs nothing.
    """

    def __init__(self, python: str, module: str, threads: int):
        worker = pathlib.Path(__file__).with_name("worker.py")
        command = [python, str(worker), module, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._folder = tempfile.TemporaryDirectory()
        self.versions = self.ask("versions")

    def ask(self, *request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with status {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["value"]

    def calls(self, arrays: dict[str, np.ndarray], **options) -> dict[str, "Elsewhere"]:
        """What `calls(arrays, **options)` of the module makes there. It forgets the calls that it made before."""
        file = f"{self._folder.name}/arrays.npz"
        np.savez(file, **arrays)
        return {name: Elsewhere(self, name, file) for name in self.ask("calls", file, options)}

    def close(self) -> None:
        self._process.communicate()
        self._folder.cleanup()


class Elsewhere:
    """A call in a `Process`. It returns a list of arrays."""

    def __init__(self, process: Process, name: str, file: str):
        self._process, self._name, self._file = process, name, file

    def seconds(self, repeats: int, touch: int) -> float:
        return self._process.ask("seconds", self._name, repeats, touch)

    def __call__(self) -> list[np.ndarray]:
        self._process.ask("result", self._name, self._file)
        return list(np.load(self._file).values())
