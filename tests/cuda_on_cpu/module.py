"""Stands in for the compiled module `jax_rnnt._native`, with the CUDA kernels built for the CPU (see cuda_on_cpu.h)."""

import ctypes
import functools
import types
from collections.abc import Sequence

import jax
import numpy as np

OPERATIONS = ("arcs_forward", "arcs_backward", "lattice_cost", "lattice_posteriors")
COUNTS = ("blocks", "threads", "barriers", "bytes_read", "bytes_written", "segments_read", "segments_written")


def load(library: str) -> types.ModuleType:
    code = ctypes.CDLL(library)
    module = types.ModuleType("jax_rnnt._native")
    handlers = {
        name: jax.ffi.pycapsule(getattr(code, "Cuda" + name.title().replace("_", "") + "Handler"))
        for name in OPERATIONS
    }
    module.ffi_api_minor = 0  # built with the oldest headers, which every version takes
    module.handlers = lambda: {"cpu": handlers}
    module.traits = lambda: {"cpu": ["in_place", "workspace"]}
    module.lattice_memory = functools.partial(_lattice_memory, code)
    module.lattice_values = functools.partial(_lattice_values, code)
    module.build_info = lambda: {"simd": None}
    module.fail_launch = lambda nth: code.cuda_on_cpu_fail(ctypes.c_int(nth))  # the nth from now on
    module.shared_of_block = lambda size: code.cuda_on_cpu_shared(ctypes.c_int(size))  # bytes, at most
    module.start_counting = code.cuda_on_cpu_count
    module.counts = lambda: _counts(code)
    return module


def _lattice_memory(code: ctypes.CDLL, arcs: int, longest_step: int) -> tuple[int, int]:
    numbers = np.zeros(2, np.int64)
    code.cuda_on_cpu_lattice_memory(
        ctypes.c_int64(arcs), ctypes.c_int64(longest_step), numbers.ctypes.data_as(ctypes.c_void_p)
    )
    return int(numbers[0]), int(numbers[1])


def _lattice_values(code: ctypes.CDLL, frames: int, columns: int, moves: Sequence[tuple[int, int]]) -> int:
    pairs = np.array(moves, np.int64)
    code.cuda_on_cpu_lattice_values.restype = ctypes.c_int64
    return code.cuda_on_cpu_lattice_values(
        ctypes.c_int64(frames),
        ctypes.c_int64(columns),
        pairs.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(len(pairs)),
    )


def _counts(code: ctypes.CDLL) -> list[dict[str, int]]:
    """What each launch since `start_counting` did."""
    numbers = np.zeros((1000, len(COUNTS)), np.int64)
    code.cuda_on_cpu_counts.restype = ctypes.c_int64
    n = code.cuda_on_cpu_counts(numbers.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(numbers)))
    return [dict(zip(COUNTS, map(int, row), strict=True)) for row in numbers[:n]]
