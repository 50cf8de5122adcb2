"""The floor as a call: compiles floor.c and runs it in this process."""

import ctypes
import functools
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable

import numpy as np
from cases import FORWARD

# This machine compiles the code and runs it, so -march=native is right. In a wheel it would not be.
_COMPILER = [os.environ.get("CC", "cc"), "-O3", "-march=native", "-shared", "-fPIC", "-pthread"]


@functools.cache
def _library() -> ctypes.CDLL:
    source = pathlib.Path(__file__).with_name("floor.c")
    with tempfile.TemporaryDirectory() as folder:
        built = pathlib.Path(folder) / "floor.so"
        subprocess.run([*_COMPILER, str(source), "-o", str(built)], check=True)
        library = ctypes.CDLL(str(built))
    library.floor_forward.argtypes = library.floor_gradient.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.floor_forward.restype = library.floor_free.restype = None
    library.floor_gradient.restype = ctypes.c_void_p
    library.floor_free.argtypes = [ctypes.c_void_p]
    if library.floor_start(len(os.sched_getaffinity(0))):
        raise RuntimeError("the floor could not start its threads")
    return library


class _Result:
    def __init__(self, pointer: int | None):
        self._pointer, self._free = pointer, _library().floor_free
        if not pointer:
            raise MemoryError("no memory for the floor's result")

    def __del__(self):
        self._free(self._pointer)


def call(logits: np.ndarray, operation: str) -> Callable:
    library = _library()

    def run():
        arguments = logits.ctypes.data, logits.nbytes
        if operation == FORWARD:
            return library.floor_forward(*arguments)
        return _Result(library.floor_gradient(*arguments))

    return run
