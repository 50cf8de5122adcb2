"""Stands in for the compiled module `jax_rnnt._native`, with the CUDA kernels built for the CPU (see cuda_on_cpu.h)."""

import ctypes
import functools
import types
from collections.abc import Sequence

import jax
import numpy as np

OPERATIONS = (
    "arcs_forward",
    "arcs_backward",
    "hidden_rows",
    "hidden_rows_backward",
    "lattice_cost",
    "lattice_posteriors",
)


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
    module.lattice_workspace = functools.partial(_lattice_workspace, code)
    module.build_info = lambda: {"simd": None}
    module.fail_launch = lambda nth: code.cuda_on_cpu_fail(ctypes.c_int(nth))  # the nth from now on
    module.shared_of_block = lambda size: code.cuda_on_cpu_shared(ctypes.c_int(size))  # bytes, at most
    return module


def _lattice_workspace(
    code: ctypes.CDLL,
    moves: Sequence[tuple[int, int]],
    with_posteriors: bool,
    num_frames: int,
    num_positions: int,
) -> tuple[int, ...]:
    pairs, numbers = np.array(moves, np.int64), np.zeros(4, np.int64)
    code.cuda_on_cpu_lattice_workspace(
        pairs.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(len(pairs)),
        ctypes.c_bool(with_posteriors),
        ctypes.c_int64(num_frames),
        ctypes.c_int64(num_positions),
        numbers.ctypes.data_as(ctypes.c_void_p),
    )
    return tuple(int(n) for n in numbers)
