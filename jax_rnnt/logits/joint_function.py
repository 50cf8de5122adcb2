"""The user's joint network: what its output for one node looks like, and what the function must not do."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jax_rnnt import checks


def _check_signature(joint: Callable, args: tuple) -> None:
    try:
        inspect.signature(joint).bind(*args)
    except TypeError as error:
        names = "(params, e, p, keys), since there is a `dropout_key`" if len(args) == 4 else "(params, e, p)"
        raise TypeError(f"`joint` is called with {names}, and it does not take these: {error}.") from None
    except ValueError:  # a callable without a signature
        return


@functools.partial(jax.jit, static_argnums=0)  # keeps what it knows of a joint, for calls outside of `jit`
def one_row(joint: Callable[..., Array], *args: Any) -> Any:
    _check_signature(joint, args)
    traced, row = jax.make_jaxpr(joint, return_shape=True)(*args)
    if any(type(effect).__name__ == "ErrorEffect" for effect in traced.effects):
        raise NotImplementedError(
            "`joint` must not call checkify.check: it runs in a loop that is traced apart from the function around the "
            "loss. Check `encoded`, `predicted` and `params` instead."
        )
    if closed := [x for x in traced.consts if isinstance(x, Array)]:
        is_key = jnp.issubdtype(closed[0].dtype, jax.dtypes.prng_key)
        raise TypeError(
            f"`joint` must not close over an array, and it does over {checks.described(closed[0])}: "
            + (
                "for dropout give the key as `dropout_key`; any other key belongs into `params`."
                if is_key
                else "put that in `params`, so that it has a gradient."
            )
        )
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), row)
