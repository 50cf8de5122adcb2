"""What the clock needs to know of every competitor, in this process or in another one."""

import ctypes
import gc
import pathlib
import time

import numpy as np
from cases import Case, Inputs


def touch_and_free(size: int) -> None:
    """Makes the machine provide `size` bytes of memory now, and not during the next timed call.

    A virtual machine gives freed pages back to its host. The next touch of such a page costs far more than the page
    fault that a fresh result has anyway.
    """
    if size:
        np.empty(size, np.uint8)[::4096] = 1


def _status(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Side:
    """One way to compute a case. Each call has a fresh result. The previous result is freed before the clock starts."""

    name: str

    def supports(self, case: Case) -> bool:
        return True

    def prepare(self, case: Case, inputs: Inputs, operation: str) -> None:
        raise NotImplementedError

    def run(self):
        """Makes one call, which has finished when this returns. The returned value keeps the result alive."""
        raise NotImplementedError

    def outputs(self) -> tuple[float, np.ndarray | None] | None:
        """The summed cost and its gradient, or None for a side that computes neither (the floor)."""
        raise NotImplementedError

    def planned_bytes(self) -> int | None:
        """The bytes of results and temporaries together, if the compiler tells them."""
        return None

    def release(self) -> None:
        """Forgets the case."""

    def seconds(self, repeats: int, touch: int) -> float:
        """The mean time of `repeats` calls in a row.

        If no memory is touched, an untimed call fills the caches first.
        """
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
        """The largest resident memory during one call, minus the resident memory before it."""
        try:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            pathlib.Path("/proc/self/clear_refs").write_text("5")  # this restarts the high-water mark
            before = _status("VmRSS")
        except (OSError, KeyError, AttributeError):
            return None  # not Linux with glibc
        result = self.run()
        del result
        return max(0, _status("VmHWM") - before)
