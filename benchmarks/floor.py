"""The floor as a side: compiles floor.c and calls it in this process, on the same bytes that the other sides read."""

import ctypes
import functools
import os
import pathlib
import subprocess
import tempfile

from cases import FORWARD, Case, Inputs
from side import Side

# This machine compiles the code and runs it, so -march=native is right. In a wheel it would not be.
_FLAGS = ["-O3", "-march=native", "-shared", "-fPIC", "-pthread"]


def compiler() -> list[str]:
    return [os.environ.get("CC", "cc"), *_FLAGS]


@functools.cache
def _library() -> ctypes.CDLL:
    source = pathlib.Path(__file__).with_name("floor.c")
    with tempfile.TemporaryDirectory() as folder:
        built = pathlib.Path(folder) / "floor.so"
        subprocess.run([*compiler(), str(source), "-o", str(built)], check=True)
        library = ctypes.CDLL(str(built))
    library.floor_forward.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.floor_forward.restype = None
    library.floor_gradient.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.floor_gradient.restype = ctypes.c_void_p
    library.floor_free.argtypes = [ctypes.c_void_p]
    library.floor_free.restype = None
    if library.floor_start(len(os.sched_getaffinity(0))):
        raise RuntimeError("the floor could not start its threads")
    return library


class _Result:
    def __init__(self, pointer: int):
        if not pointer:
            raise MemoryError("no memory for the floor's result")
        self._pointer, self._free = pointer, _library().floor_free

    def __del__(self):
        if pointer := getattr(self, "_pointer", None):
            self._free(pointer)


class Floor(Side):
    name = "floor"

    def prepare(self, case: Case, inputs: Inputs, operation: str) -> None:
        self._logits = inputs["logits"]
        self._arguments = self._logits.ctypes.data, self._logits.nbytes
        self._forward_only = operation == FORWARD
        self._library = _library()

    def run(self):
        if self._forward_only:
            return self._library.floor_forward(*self._arguments)
        return _Result(self._library.floor_gradient(*self._arguments))

    def outputs(self) -> None:
        return None

    def release(self) -> None:
        self._logits = None
