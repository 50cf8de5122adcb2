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


def linen_joint(module: Any, method: Callable | str | None = None, **arguments: Any) -> Callable[..., Array]:
    """The ``joint`` of :class:`JointLogits` from a module of Flax linen.

    Args:
      module: a ``flax.linen.Module`` that is called with rows of the encoder and of the predictor. It must have no
        variables other than its parameters.
      method: the method that is the joint network, as in ``module.apply``; None: its ``__call__``.
      **arguments: static further arguments by name, such as ``deterministic=False``.

    Returns:
      A static function of (params, e, p); with the ``dropout_key`` of :class:`JointLogits`, each row has its own
      "dropout" key. Its ``params`` are ``variables["params"]``. Calls with equal arguments make equal functions.

    Raises:
      TypeError: if ``module`` is not a module of linen.
      ValueError: in the loss, if ``params`` are all variables.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> import jax_rnnt
      >>> class Joint(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, e, p):
      ...         return nn.Dense(5)(jnp.tanh(e + p))
      >>> encoded, predicted = jnp.ones((2, 4, 8)), jnp.ones((2, 3, 8))
      >>> params = Joint().init(jax.random.key(0), encoded[:, :1], predicted[:, :1])["params"]
      >>> jax_rnnt.JointLogits(jax_rnnt.linen_joint(Joint()), params, encoded, predicted).shape
      (2, 4, 3, 5)
    """
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


def nnx_joint(module: Any, method: str = "__call__") -> tuple[Callable[..., Array], Any]:
    """The ``joint`` and the ``params`` of :class:`JointLogits` from a module of Flax nnx.

    Call it where the loss is computed, inside ``nnx.grad`` or ``nnx.value_and_grad``: gradients then reach ``module``.

    Args:
      module: an ``nnx.Module`` that is called with rows of the encoder and of the predictor. Changes that the call
        makes to it are lost, such as the counts of ``nnx.Rngs``. For dropout, write a ``joint`` that takes keys.
      method: the name of the method that is the joint network.

    Returns:
      A static function of (params, e, p), and the state of ``module``: ``JointLogits(*nnx_joint(module), ...)``.

    Raises:
      TypeError: if ``module`` is not a module of nnx.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jax_rnnt
      >>> class Joint(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.output = nnx.Linear(8, 5, rngs=rngs)
      ...     def __call__(self, e, p):
      ...         return self.output(jnp.tanh(e + p))
      >>> encoded, predicted = jnp.ones((2, 4, 8)), jnp.ones((2, 3, 8))
      >>> jax_rnnt.JointLogits(*jax_rnnt.nnx_joint(Joint(nnx.Rngs(0))), encoded, predicted).shape
      (2, 4, 3, 5)
    """
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise TypeError(f"`module` must be a module of Flax nnx, got {checks.described(module)}.")
    graph, state = nnx.split(module)
    return _NnxJoint(graph, method), state
