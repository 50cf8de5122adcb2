"""The implementations that the suite runs over. To add one, add a line to IMPLEMENTATIONS.

If the environment names a library of the CUDA kernels built for the CPU, this library is "native", and the suite runs
over nothing else.
"""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

CUDA_ON_CPU = os.environ.get("JAX_RNNT_CUDA_ON_CPU")
if CUDA_ON_CPU:
    from cuda_on_cpu import module

    sys.modules["jax_rnnt._native"] = module.load(CUDA_ON_CPU)

with warnings.catch_warnings():
    # The package warns once, on import, if it runs without kernels. The suite shows this by its skips instead.
    # test_import.py tests the warning.
    warnings.filterwarnings("ignore", "jax_rnnt runs without its compiled kernels", RuntimeWarning)
    import jax_rnnt
    from jax_rnnt.xla import native


platform = "cpu"
"""Where the tests run; the option --platform changes it."""


def _native_missing() -> str | None:
    return None if native.native_available(platform) else f"the compiled module is not usable: {jax_rnnt.build_info()}"


@dataclass(frozen=True)
class Implementation:
    name: str  # the value of `implementation=`
    label: str  # the name in the IDs of tests
    why_missing: Callable[[], str | None] = lambda: None  # returns None if it can run here
    required_by: str | None = None  # this environment variable turns a skip into an error


IMPLEMENTATIONS = (
    (Implementation("native", "cuda_on_cpu"),)
    if CUDA_ON_CPU
    else (
        Implementation("lax", "lax"),
        Implementation("native", "native", _native_missing, required_by="JAX_RNNT_REQUIRE_NATIVE"),
    )
)


def is_required(implementation: Implementation) -> bool:
    return implementation.required_by is not None and os.environ.get(implementation.required_by) == "1"
