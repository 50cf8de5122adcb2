"""Products and sums for which masked numbers do no harm: exact zeros, and large finite masks."""

import jax
import jax.numpy as jnp
from jax import Array


def scaled(x: Array, by: Array) -> Array:
    """``x * by``, but exactly 0 where ``by`` is 0 and ``x`` is NaN or infinite.

    There the derivatives with respect to both are 0 too. Everywhere else, also where ``by`` is 0, they are those of the
    product: a choice that depends on ``by`` alone would lose the derivative with respect to ``by``.
    """
    masked = (by == 0) & ~jnp.isfinite(x)
    return by * jnp.where(masked, 0, x)


@jax.custom_jvp
def finite_sum(x: Array, y: Array) -> Array:
    """``x + y``, but a sum of finite numbers that their type cannot hold becomes the type's largest number.

    So a node that is masked twice, by the lowest numbers of the type, still has an arc. The derivatives are those of
    the sum.
    """
    total, most = x + y, jnp.finfo(x.dtype).max
    return jnp.where(jnp.isfinite(x) & jnp.isfinite(y), jnp.clip(total, -most, most), total)


@finite_sum.defjvp
def _finite_sum_jvp(primals, tangents):
    return finite_sum(*primals), tangents[0] + tangents[1]
