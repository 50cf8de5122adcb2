"""What every competitor looks like to the clock, in this process or in another one."""

import ctypes
import gc
import pathlib
import time

import numpy as np
from cases import Case, Inputs


def touch_and_free(size: int) -> None:
    """Makes the machine find `size` bytes of memory now, and not during the next timed call.

    A virtual machine gives freed pages back to its host, and the first touch after that costs far more than the page
    fault that belongs to a fresh result.
    """
    if size:
        np.empty(size, np.uint8)[::4096] = 1


def _status(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Side:
    """One way to compute a case. Results are fresh in every call; the previous one is freed before the clock starts."""

    name: str

    def supports(self, case: Case) -> bool:
        return True

    def prepare(self, case: Case, inputs: Inputs, operation: str) -> None:
        raise NotImplementedError

    def run(self):
        """One call, finished on return. What it returns holds the result alive."""
        raise NotImplementedError

    def outputs(self) -> tuple[float, np.ndarray | None] | None:
        """The summed cost and its gradient, or None for a side that computes none (the floor)."""
        raise NotImplementedError

    def planned_bytes(self) -> int | None:
        """Results and temporaries together, if the compiler tells."""
        return None

    def release(self) -> None:
        """Forgets the case."""

    def seconds(self, repeats: int, touch: int) -> float:
        """The mean of `repeats` calls in a row; into caches that a call has just filled if nothing is touched."""
        touch_and_free(touch)
        if not touch:
            self.run()
        result = None
        start = time.perf_counter()
        for _ in range(repeats):
            result = None
            result = self.run()
        elapsed = time.perf_counter() - start
        del result
        return elapsed / repeats

    def peak_bytes(self) -> int | None:
        """The high-water mark of resident memory during one call, above what was resident before it."""
        try:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew from here
            before = _status("VmRSS")
        except (OSError, KeyError, AttributeError):
            return None  # not Linux with glibc
        result = self.run()
        del result
        return max(0, _status("VmHWM") - before)
