"""Turns a kernel and its ``lax`` form into one JAX primitive: lowering by platform, batching, sharding, derivatives.

A primitive lowers to the compiled custom call where there is one and to the ``lax`` form elsewhere, at lowering time
and per platform, so that a function exported for another platform gets the right one.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jax_rnnt.xla import native, pallas, sharding
from jax_rnnt.xla.in_place import worth_overwriting

_LOWERING_OPTIONS = inspect.signature(mlir.register_lowering).parameters

Implementation = Literal["native", "lax", "pallas"] | None
IMPLEMENTATIONS = (None, "native", "lax", "pallas")


def check_implementation(implementation: object) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"`implementation` must be one of {IMPLEMENTATIONS}, got {implementation!r}.")


class Operation:
    """A primitive on arrays that share their leading dimensions (the batch), called with static parameters.

    Args:
      name: of the primitive; with a prefix, also of the custom call.
      results: ``results(*types, **parameters)``: shape and dtype of each result.
      lax_form: ``lax_form(*arrays, **parameters) -> list of arrays``; it must accept any number of batch dimensions.
      batch_ndim: maps the operands' types to the number of batch dimensions. None: there are none, so ``vmap`` has no
        rule for the primitive, and no mesh divides it.
      has_kernel: whether there is a compiled form at all; on which platforms, the compiled module says.
      in_place: how many results may take the memory of the operands of the same numbers, where the kernels allow that.
        They do so unless one of these operands is an argument that the caller keeps.
      workspace: ``workspace(*types, **parameters)``: shape and dtype of what the kernels need to work in, or None;
        asked where the kernels do need it.
      lax_forms: by platform, the ``lax`` form there, where it is a better one than ``lax_form``. Derivatives that JAX
        takes of a ``lax`` form are those of ``lax_form`` everywhere.
      pallas_kernels: loads the form with Pallas kernels for TPUs, where there is one. Only implementation="pallas"
        takes it, and on other platforms that is an error. For an operation without such kernels "pallas" means None.
    """

    def __init__(
        self,
        name: str,
        results: Callable[..., list[jax.ShapeDtypeStruct]],
        lax_form: Callable[..., list[Array]],
        batch_ndim: Callable[..., int] | None,
        has_kernel: bool = True,
        in_place: int = 0,
        workspace: Callable[..., jax.ShapeDtypeStruct | None] | None = None,
        lax_forms: Mapping[str, Callable[..., list[Array]]] | None = None,
        pallas_kernels: Callable[[], pallas.Kernels] | None = None,
    ):
        self.name = name
        self._results = results
        self._lax_form = lax_form
        self._batch_ndim = batch_ndim or (lambda *_: 0)
        self._in_place = in_place
        self._has_kernel = has_kernel
        self._workspace = workspace
        self._lax_forms = dict(lax_forms or {})
        self._pallas_kernels = pallas_kernels
        self._kernels = native.platforms_with(name) if has_kernel else frozenset()
        self.primitive = Primitive(f"jax_rnnt_{name}")
        self.primitive.multiple_results = True
        self.primitive.def_impl(self._eager)
        self.primitive.def_abstract_eval(self._abstract)
        if batch_ndim is not None:
            batching.primitive_batchers[self.primitive] = self._batch
        ad.primitive_jvps[self.primitive] = self._jvp_of_lax_form
        lowered = self.primitive
        if in_place:
            # JAX lowers most primitives as a separate function, which does not show where the operands come from. So
            # this primitive is lowered at its place in the program, to a second primitive with the decision.
            lowered = self._placed = Primitive(f"jax_rnnt_{name}_placed")
            lowered.multiple_results = True
            lowered.def_abstract_eval(lambda *avals, in_place, **parameters: self._abstract(*avals, **parameters))
            where_it_stands: dict[str, Any] = {"cacheable": False} if "cacheable" in _LOWERING_OPTIONS else {}
            mlir.register_lowering(self.primitive, self._lower_placed, **where_it_stands)
        mlir.register_lowering(lowered, functools.partial(self._lower, None))
        for platform in self._kernels.union(self._lax_forms, () if pallas_kernels is None else pallas.PLATFORMS):
            mlir.register_lowering(lowered, functools.partial(self._lower, platform), platform=platform)

    def __call__(self, *args: Array, implementation: str | None, **parameters) -> list[Array]:
        return self.primitive.bind(*sharding.match_manual_axes(args), implementation=implementation, **parameters)

    def def_jvp(self, rule: Callable) -> None:
        ad.primitive_jvps[self.primitive] = rule

    def def_transpose(self, rule: Callable) -> None:
        """``rule(cotangents, *operands, **parameters)`` gives each operand's cotangent; None is a zero, in and out."""

        def with_none_for_zero(cotangents, *operands, **parameters):
            given = [None if type(ct) is ad.Zero else ct for ct in cotangents]
            return rule(given, *operands, **parameters)  # JAX takes a None that it returns for a zero

        ad.primitive_transposes[self.primitive] = with_none_for_zero

    def _eager(self, *args, **parameters):
        # Neither the NaN checks nor disable_jit may act here. Both make jit call the primitive without jit, and that
        # calls this function again.
        with jax.debug_nans(False), jax.debug_infs(False), jax.disable_jit(False):
            results = _jitted(self.primitive, tuple(sorted(parameters.items())))(*args)
        for kind, is_kind in (("nan", np.isnan), ("inf", np.isinf)):
            wanted = getattr(jax.config, f"jax_debug_{kind}s")
            if wanted and any(is_kind(np.asarray(part.data)).any() for x in results for part in x.addressable_shards):
                raise FloatingPointError(f"invalid value ({kind}) encountered in {self.primitive.name}")
        return results

    def _abstract(self, *avals, implementation, **parameters):
        batch_ndim = self._batch_ndim(*avals)
        results = self._results(*avals, **parameters)
        return [sharding.result_aval(self.name, avals[0], batch_ndim, r.shape, r.dtype) for r in results]

    def _batch(self, args, dims, **parameters):
        size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        moved = [
            jax.numpy.broadcast_to(a[None], (size, *a.shape)) if d is None else jax.numpy.moveaxis(a, d, 0)
            for a, d in zip(args, dims, strict=True)
        ]
        results = self(*moved, **parameters)
        return results, [0] * len(results)

    def _jvp_of_lax_form(self, primals, tangents, *, implementation, **parameters):
        """Results by the primitive itself, tangents by differentiating the ``lax`` form."""
        results = self(*primals, implementation=implementation, **parameters)
        tangents = tuple(ad.instantiate_zeros(t) for t in tangents)
        _, tangents_out = jax.jvp(functools.partial(self._lax_form, **parameters), tuple(primals), tangents)
        return results, tangents_out

    def _lower_placed(self, ctx, *args, **parameters):
        in_place = all(map(worth_overwriting, args[: self._in_place]))
        placed = functools.partial(self._placed.bind, in_place=in_place, **parameters)
        return mlir.lower_fun(placed, multiple_results=True)(ctx, *args)

    def _lower(self, platform, ctx, *args, implementation, in_place=False, **parameters):
        lax_form = functools.partial(self._lax_forms.get(platform, self._lax_form), **parameters)
        if implementation == "pallas" and self._pallas_kernels is not None:
            return pallas.lowered(ctx, platform, self.name, self._pallas_kernels(), lax_form, *args, **parameters)
        if platform not in self._kernels or implementation == "lax":
            if implementation == "native" and self._has_kernel:
                names = ctx.platforms if ctx.platforms is not None else ctx.module_context.platforms
                raise NotImplementedError(
                    f"implementation='native' was asked for, and {self.name} has no kernel for {', '.join(names)}: "
                    f"{native.missing_reason(self.name)}. implementation=None uses the lax form there."
                )
            return mlir.lower_fun(lax_form, multiple_results=True)(ctx, *args)
        traits, batch_ndim = native.traits(platform), self._batch_ndim(*ctx.avals_in)
        results = len(ctx.avals_out)
        extra = self._workspace(*ctx.avals_in, **parameters) if self._workspace and "workspace" in traits else None
        if extra is not None:
            # A result, because memory that a kernel allocates by itself keeps the call out of a command buffer.
            workspace = sharding.result_aval(self.name, ctx.avals_in[0], batch_ndim, extra.shape, extra.dtype)
            ctx = ctx.replace(avals_out=[*ctx.avals_out, workspace])
        attributes = sharding.ffi_attributes(ctx.avals_in, ctx.avals_out, batch_ndim)
        lowering = jax.ffi.ffi_lowering(
            native.target(self.name),
            extra_attributes=attributes,
            operand_output_aliases={i: i for i in range(self._in_place)} if in_place and "in_place" in traits else None,
        )
        return lowering(ctx, *args, **{k: _ffi_attribute(v) for k, v in parameters.items()})[:results]


@functools.cache
def _jitted(primitive: Primitive, parameters: Sequence) -> Callable:
    return jax.jit(functools.partial(primitive.bind, **dict(parameters)))


def _ffi_attribute(value) -> np.ndarray | np.generic:
    """Static parameters as the exact types that C++ decodes: a bool, an int64, or a flat list of int64."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    return np.asarray(value, np.int64).ravel()
