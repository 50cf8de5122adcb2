"""The implementations that the suite runs over. To add one, add a line to IMPLEMENTATIONS.

If the environment names a library of the CUDA kernels built for the CPU, this library is "native", and the suite runs
over nothing else. If it names a platform that has `lax` forms of its own, the suite runs over these forms and nothing
else, without kernels: JAX_RNNT_LAX_FORMS_OF=tpu.
"""

import functools
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from jax.interpreters import mlir

CUDA_ON_CPU = os.environ.get("JAX_RNNT_CUDA_ON_CPU")
if CUDA_ON_CPU:
    from cuda_on_cpu import module

    sys.modules["jax_rnnt._native"] = module.load(CUDA_ON_CPU)
LAX_FORMS_OF = os.environ.get("JAX_RNNT_LAX_FORMS_OF")
if LAX_FORMS_OF:
    sys.modules["jax_rnnt._native"] = None  # its import fails

with warnings.catch_warnings():
    # The package warns once, on import, if it runs without kernels. The suite shows this by its skips instead.
    # test_import.py tests the warning.
    warnings.filterwarnings("ignore", "jax_rnnt runs without its compiled kernels", RuntimeWarning)
    import jax_rnnt
    from jax_rnnt.xla import native, primitive


platform = "cpu"
"""Where the tests run; the option --platform changes it."""


def _native_missing() -> str | None:
    return None if native.native_available(platform) else f"the compiled module is not usable: {jax_rnnt.build_info()}"


def _lower_as_on(other: str) -> None:
    """Lowers every operation here as on the platform `other`."""
    modules = [vars(module) for name, module in sys.modules.items() if name.startswith("jax_rnnt.ops.")]
    operations = {x for module in modules for x in module.values() if isinstance(x, primitive.Operation)}
    chosen = [x for x in operations if other in x._lax_forms]
    assert chosen, f"no operation has a lax form of its own on {other!r}"
    for operation in chosen:
        lowered = getattr(operation, "_placed", operation.primitive)
        for here in ("cpu", "cuda"):
            mlir.register_lowering(lowered, functools.partial(operation._lower, other), platform=here)


if LAX_FORMS_OF:
    _lower_as_on(LAX_FORMS_OF)


@dataclass(frozen=True)
class Implementation:
    name: str  # the value of `implementation=`
    label: str  # the name in the IDs of tests
    why_missing: Callable[[], str | None] = lambda: None  # returns None if it can run here
    required_by: str | None = None  # this environment variable turns a skip into an error


IMPLEMENTATIONS = (
    (Implementation("native", "cuda_on_cpu"),)
    if CUDA_ON_CPU
    else (Implementation("lax", f"lax_of_{LAX_FORMS_OF}"),)
    if LAX_FORMS_OF
    else (
        Implementation("lax", "lax"),
        Implementation("native", "native", _native_missing, required_by="JAX_RNNT_REQUIRE_NATIVE"),
    )
)


def is_required(implementation: Implementation) -> bool:
    return implementation.required_by is not None and os.environ.get(implementation.required_by) == "1"
