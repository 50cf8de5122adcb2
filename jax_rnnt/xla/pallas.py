"""Where a program may hold a Pallas kernel for TPUs, and how the kernel gets there.

Nothing here imports Pallas: the functions that do are called when a program is lowered.
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.experimental
from jax import Array
from jax.interpreters import mlir

PLATFORMS = ("tpu",)
_OPTIONS_OF_TYPES = inspect.signature(jax.ShapeDtypeStruct).parameters

interpreted: Any = False
"""What the tests set to run kernels on the CPU: True, or Pallas's ``InterpretParams``. Users have no option for it."""


class Kernels(NamedTuple):
    """An operation's form with Pallas kernels."""

    form: Callable[..., list[Array]]  #: ``form(*arrays, interpret, **parameters)``
    refusal: Callable[..., str | None]  #: ``refusal(*types, **parameters)``: why the form does not take them, or None


def devices_to_divide_over(ctx: mlir.LoweringRuleContext) -> int:
    """How many devices XLA would have to divide a kernel over, which it cannot; 1 where it need not.

    Inside ``shard_map`` with all axes manual each device runs its own program.
    """
    place: Any = ctx.module_context.axis_context
    mesh = getattr(place, "mesh", None)
    if mesh is None:
        return getattr(place, "num_devices", None) or 1
    manual = place.manual_axes | set(getattr(mesh, "manual_axes", ()))
    return 1 if manual >= set(mesh.axis_names) else mesh.size


def lowered(
    ctx: mlir.LoweringRuleContext,
    platform: str | None,
    name: str,
    kernels: Kernels,
    lax_form: Callable[..., list[Array]],
    *operands: Any,
    **parameters: Any,
) -> Any:
    """The kernels' form in the program, the ``lax`` form where XLA would have to divide it, or an error."""
    asked = "implementation='pallas' was asked for"
    is_compiled = platform in PLATFORMS
    if not is_compiled and not interpreted:
        platforms = ", ".join(ctx.platforms if ctx.platforms is not None else ctx.module_context.platforms)
        raise NotImplementedError(
            f"{asked}, and the Pallas kernels of {name} are for TPUs; this program is for {platforms}. "
            "implementation=None uses what there is."
        )
    reason = kernels.refusal(*ctx.avals_in, **parameters)
    if reason is not None:
        raise NotImplementedError(f"{asked}, and {name} can't do it here: {reason}. implementation=None can.")
    devices = devices_to_divide_over(ctx)
    if devices > 1:
        warnings.warn(
            f"{asked}, and the lax form of {name} runs: the program is for {devices} devices, and XLA cannot divide a "
            "Pallas kernel. Call the loss inside jax.shard_map with all axes manual.",
            RuntimeWarning,
            stacklevel=2,
        )
        return mlir.lower_fun(lax_form, multiple_results=True)(ctx, *operands)

    def form(*arrays: Array) -> list[Array]:
        return kernels.form(*arrays, interpret=not is_compiled and interpreted, **parameters)

    with _without_64_bits():
        return mlir.lower_fun(form, multiple_results=True)(_without_manual_axes(ctx), *operands)


def _without_64_bits() -> contextlib.AbstractContextManager:
    """Integers of Python become int32, which is all that a kernel can have."""
    place = jax if hasattr(jax, "enable_x64") else jax.experimental  # where it was until jax 0.8
    return getattr(place, "enable_x64")(False)  # noqa: B009  (mypy does not know it in one of them)


def _without_manual_axes(ctx: mlir.LoweringRuleContext) -> mlir.LoweringRuleContext:
    """The same, but the operands' types do not say along which axes they vary.

    Only a trace asks for that. A kernel runs on what one device has.
    """

    def plain(aval: Any) -> Any:
        if getattr(aval, "manual_axis_type", None) is not None or getattr(aval, "vma", None):
            return jax.core.ShapedArray(aval.shape, aval.dtype)
        return aval

    return ctx.replace(avals_in=[plain(a) for a in ctx.avals_in], avals_out=[plain(a) for a in ctx.avals_out])


def result(shape: tuple[int, ...], dtype: Any, like: Array) -> jax.ShapeDtypeStruct:
    """The type of a kernel's result, which varies along the same manual axes as ``like``, an operand."""
    names = ("manual_axis_type", "vma")  # what JAX has called it, the newest name first
    varying = next(({n: getattr(jax.typeof(like), n)} for n in names if n in _OPTIONS_OF_TYPES), {})
    return jax.ShapeDtypeStruct(shape, dtype, **varying)
