"""The compiled kernels: loads their module, decides whether this jaxlib can run it, registers it, describes it."""

from __future__ import annotations

import importlib
import importlib.metadata
import pathlib
import re
import warnings

import jax

from jax_rnnt.version import VERSION
from jax_rnnt.xla.gpus import gpus

_PREFIX = "jax_rnnt_"
_XLA_NAMES = {"cuda": "CUDA"}


def _is_pure_python() -> bool:
    """Whether the package was installed with JAX_RNNT_NATIVE=OFF."""
    try:
        wheel = importlib.metadata.distribution("jax_rnnt").read_text("WHEEL")
    except importlib.metadata.PackageNotFoundError:
        return False
    return wheel is not None and "Root-Is-Purelib: true" in wheel


_PURE_PYTHON = _is_pure_python()


def _load():
    """The compiled module, or None, and the reason why the kernels can't be used ("" if they can)."""
    try:
        module = importlib.import_module("jax_rnnt._native")
    except ImportError as error:
        if _PURE_PYTHON:
            return None, "jax_rnnt was installed without them, as pure Python (JAX_RNNT_NATIVE=OFF)"
        here = pathlib.Path(__file__).resolve().parents[1]  # the package
        if (here.parent / "CMakeLists.txt").is_file():
            return None, (
                f"{here} is the source tree, where nothing is compiled, and comes first on Python's path; run from "
                "another folder, or install in place by the command `pip install -e .`"
            )
        return None, f"the compiled module could not be imported ({error})"
    header = pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = re.search(r"#define\s+XLA_FFI_API_MINOR\s+(\d+)", header.read_text()) if header.is_file() else None
    built = module.ffi_api_minor
    if found is not None and built > int(found[1]):
        # If it were registered, the CPU backend of JAX would not start.
        return module, (
            f"the compiled module speaks version 0.{built} of XLA's FFI and the installed jaxlib only 0.{found[1]}; "
            "rebuild jax_rnnt on this machine or install a newer jaxlib"
        )
    return module, ""


_module, _reason = _load()


def _register() -> frozenset[str]:
    """Registers every handler of the module and returns the platforms that have kernels."""
    if _reason:
        if not _PURE_PYTHON:
            warnings.warn(f"jax_rnnt runs without its compiled kernels: {_reason}.", RuntimeWarning, stacklevel=2)
        return frozenset()
    platforms = _module.handlers()
    for platform, handlers in platforms.items():
        for name, handler in handlers.items():
            jax.ffi.register_ffi_target(_PREFIX + name, handler, platform=_XLA_NAMES.get(platform, platform))
    for name in ffi_targets():  # once for all platforms: a second registration makes XLA complain on stderr
        jax.ffi.register_ffi_target_as_batch_partitionable(name)
    return frozenset(platforms)


def target(name: str) -> str:
    """The name of the custom call of the operation ``name``."""
    return _PREFIX + name


def traits(platform: str) -> list[str]:
    """What the kernels of ``platform`` need from a custom call.

    "in_place": results may take the memory of the first operands. "workspace": they need a further result to work in.
    """
    return _module.traits()[platform]


def lattice_workspace(
    moves: tuple[tuple[int, int], ...], with_posteriors: bool, num_frames: int, num_positions: int
) -> tuple[int, int, int, int]:
    """How many numbers an utterance's workspace has: for each of (T + U + 1) (U + 1) nodes, T + U + 1 diagonals and
    U + 1 positions, and the rest. -1 stands for a T or a U + 1 that is not known.
    """
    return _module.lattice_workspace(moves, with_posteriors, num_frames, num_positions)


def ffi_targets() -> list[str]:
    """Names of the custom calls, for ``jax.export``'s ``DisabledSafetyCheck.custom_call(name)``.

    >>> import jax, jax_rnnt
    >>> checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in jax_rnnt.ffi_targets()]
    """
    return [] if _reason else sorted({_PREFIX + name for handlers in _module.handlers().values() for name in handlers})


platforms = _register()
"""Platforms with compiled kernels, by the names that lowering rules go by ("cpu", "cuda")."""


def native_available(platform: str = "cpu") -> bool:
    """Whether compiled kernels run on ``platform`` ("cpu" or "cuda")."""
    return platform in platforms


def platforms_with(operation: str) -> frozenset[str]:
    """The platforms that have a compiled kernel of this operation."""
    return frozenset(p for p in platforms if operation in _module.handlers()[p])


def missing_reason(operation: str) -> str:
    """Why a platform has no kernel of ``operation``, and what to do about it: the end of an error message."""
    if _reason:
        return (
            f"{_reason}. Reinstall jax_rnnt from the folder of its source, with a C++17 compiler at hand, by "
            "`pip install --force-reinstall --no-deps .`"
        )
    return f"this build has one for {', '.join(sorted(platforms_with(operation)))} only"


def build_info() -> dict[str, object]:
    """What was built, and what runs where.

    Returns a dictionary: ``version`` ("unknown" where nothing says that the package was installed); ``ffi_api``
    (version of XLA's FFI that the module speaks, or None); ``cuda`` (None, or what was built: the ``version`` of nvcc,
    the ``architectures``, and ``gpus``: for each compute capability of a GPU in this machine, such as "9.0", the code
    that will run there: machine code "sm_90", PTX "compute_90" that the driver compiles, or None where this build has
    nothing for it); ``simd`` (the instruction set in use on this CPU, or None); ``implementations`` (platform ->
    "native" or "lax"); ``reason`` (why kernels are not in use, or None).

    >>> import jax_rnnt
    >>> sorted(jax_rnnt.build_info())
    ['cuda', 'ffi_api', 'implementations', 'reason', 'simd', 'version']
    """
    built = _module.build_info() if _module is not None else {}
    if cuda := built.get("cuda"):
        cuda["gpus"] = gpus(cuda["architectures"])
    return {
        "version": VERSION,
        "ffi_api": f"0.{_module.ffi_api_minor}" if _module is not None else None,
        "cuda": cuda,
        "simd": built.get("simd"),
        "implementations": {p: "native" if p in platforms else "lax" for p in ("cpu", "cuda", "tpu", "rocm")},
        "reason": _reason or None,
    }
