"""Joint networks that are modules of Flax, as the pure functions that :class:`JointLogits` takes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
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
            from flax.errors import InvalidRngError

            try:
                return apply(e, p)
            except InvalidRngError as error:
                raise ValueError(
                    "`module` draws random numbers, as nn.Dropout does in training, so JointLogits.from_linen needs "
                    "`dropout_key`, got None. Give a key of each step, or arguments={'deterministic': True}, if the "
                    "module has such an argument."
                ) from error
        return jax.vmap(lambda e, p, key: apply(e, p, rngs={"dropout": key}))(e, p, keys)


def linen_joint(module: Any, method: Callable | str | None, arguments: Mapping[str, Any]) -> Callable[..., Array]:
    """A static function of (params, e, p) and, for dropout, keys. Equal modules and arguments make equal functions."""
    if isinstance(module, type) or not callable(getattr(module, "apply", None)):
        raise TypeError(f"`module` must be a module of Flax linen, such as Joint(), got {checks.described(module)}.")
    return _LinenJoint(module, method, tuple(sorted(arguments.items())))


@dataclasses.dataclass(frozen=True)
class _NnxJoint:
    graph: Any
    streams: tuple[jax.ShapeDtypeStruct, ...]  # the keys and the counts of random streams
    structure: Any  # of the state that they make
    method: str

    def __call__(self, params: Any, e: Array, p: Array, keys: Array | None = None) -> Array:
        if keys is None:
            return self._with_key(jax.random.key(0), False, params, e, p)
        return jax.vmap(lambda e, p, key: self._with_key(key, True, params, e, p))(e, p, keys)

    def _with_key(self, key: Array, may_draw: bool, params: Any, e: Array, p: Array) -> Array:
        """The logits of a module whose random streams begin with ``key``."""
        from flax import nnx

        def begin(i: int, like: jax.ShapeDtypeStruct) -> Array:
            is_key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
            return jax.random.split(jax.random.fold_in(key, i), like.shape) if is_key else jnp.zeros_like(like)

        begun = [begin(i, like) for i, like in enumerate(self.streams)]
        module = nnx.merge(self.graph, jax.tree.unflatten(self.structure, begun), params)
        logits = getattr(module, self.method)(e, p)
        if not may_draw:
            after = jax.tree.leaves(nnx.state(module, nnx.RngState))
            if any(new is not old for new, old in zip(after, begun, strict=True)):
                raise ValueError(
                    "`module` draws random numbers, as nnx.Dropout does in training, so JointLogits.from_nnx needs "
                    "`dropout_key`, got None. Give a key of each step, such as rngs.dropout(), or call module.eval()."
                )
        return logits


def nnx_joint(module: Any, method: str) -> tuple[Callable[..., Array], Any]:
    """A static function of (params, e, p) and, for dropout, keys; and the state of the module without its streams.

    The keys and the counts of random streams are made of the row's key. The module's own ones belong to the trace
    around the loss. The loops of JointLogits could not change them.
    """
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise TypeError(f"`module` must be a module of Flax nnx, got {checks.described(module)}.")
    parts: Any = nnx.split(module, nnx.RngState, ...)
    graph, streams, state = parts
    leaves, structure = jax.tree.flatten(streams)
    types = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _NnxJoint(graph, types, structure, method), state
