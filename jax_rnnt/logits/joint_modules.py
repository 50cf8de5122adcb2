"""Joint networks that are modules of Flax, as the pure functions that :class:`JointLogits` takes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array

from jax_rnnt import checks


@dataclasses.dataclass(frozen=True)
class _LinenJoint:
    module: Any
    method: Any
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, params: Any, e: Array, p: Array, keys: Array | None = None) -> Array:
        if isinstance(params, Mapping) and "params" in params:
            raise ValueError(
                "`params` must be the parameters of the module, variables['params'], got a mapping of "
                f"{sorted(params)}: the joint network has no other variables."
            )

        def apply(e: Array, p: Array, **rngs: Any) -> Array:
            return self.module.apply({"params": params}, e, p, method=self.method, **rngs, **dict(self.arguments))

        if keys is None:
            return apply(e, p)
        return jax.vmap(lambda e, p, key: apply(e, p, rngs={"dropout": key}))(e, p, keys)


def linen_joint(module: Any, method: Callable | str | None, arguments: Mapping[str, Any]) -> Callable[..., Array]:
    """A static function of (params, e, p) and, for dropout, keys. Equal modules and arguments make equal functions."""
    if isinstance(module, type) or not callable(getattr(module, "apply", None)):
        raise TypeError(f"`module` must be a module of Flax linen, such as Joint(), got {checks.described(module)}.")
    return _LinenJoint(module, method, tuple(sorted(arguments.items())))


@dataclasses.dataclass(frozen=True)
class _NnxJoint:
    graph: Any
    method: str

    def __call__(self, params: Any, e: Array, p: Array) -> Array:
        from flax import nnx

        return getattr(nnx.merge(self.graph, params), self.method)(e, p)


def nnx_joint(module: Any, method: str) -> tuple[Callable[..., Array], Any]:
    """A static function of (params, e, p), and the state of the module."""
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise TypeError(f"`module` must be a module of Flax nnx, got {checks.described(module)}.")
    graph, state = nnx.split(module)
    return _NnxJoint(graph, method), state
