"""Which entries of hidden rows dropout leaves: a function of a seed, the node and the column, whatever the tiles.

The bits are those of Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; 2011).
Its counter is (d // 8, u, t, b), so one call serves eight columns, with 16 bits each. cuda/philox.cuh has the same.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.xla.sharding import vary_alike

STEPS = 1 << 16  # dropout rates are multiples of one over this
_COLUMNS = 8
_FACTORS = np.uint32(0xD2511F53), np.uint32(0xCD9E8D57)
_KEY_STEPS = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW, _HALF = np.uint32(0xFFFF), np.uint32(16)


def _product(a: np.uint32, x: Array) -> tuple[Array, Array]:
    """The upper and the lower 32 bits of ``a x``, in 32-bit arithmetic."""
    a_low, a_high = a & _LOW, a >> _HALF
    x_low, x_high = x & _LOW, x >> _HALF
    crossed = a_low * x_high, a_high * x_low
    carry = (a_low * x_low >> _HALF) + (crossed[0] & _LOW) + (crossed[1] & _LOW)
    upper = a_high * x_high + (crossed[0] >> _HALF) + (crossed[1] >> _HALF) + (carry >> _HALF)
    return upper, a * x


def philox(counter: Sequence[Array], key: tuple[Array, Array]) -> tuple[Array, ...]:
    """Four words of random bits for four words of a counter, which broadcast against each other, all uint32."""

    def turn(_: int, state: tuple[Array, ...]) -> tuple[Array, ...]:
        c0, c1, c2, c3, key0, key1 = state
        (upper0, lower0), (upper2, lower2) = _product(_FACTORS[0], c0), _product(_FACTORS[1], c2)
        return upper2 ^ c1 ^ key0, lower2, upper0 ^ c3 ^ key1, lower0, key0 + _KEY_STEPS[0], key1 + _KEY_STEPS[1]

    # A loop, because XLA takes seconds to compile ten turns in one.
    start = vary_alike((*jnp.broadcast_arrays(*counter), *key))
    return lax.fori_loop(0, 10, turn, start)[:4]


def kept(seed: Array, b: Array, t: Array, u: Array, width: int, dropped: int) -> Array:
    """The mask ``[N, width]`` of the entries that stay, for nodes ``b, t, u [N]`` and ``seed [2]``, uint32."""
    blocks = jnp.arange(-(-width // _COLUMNS), dtype=jnp.uint32)[None]
    node = [x.astype(jnp.uint32)[:, None] for x in (u, t, b)]
    words = jnp.stack(jnp.broadcast_arrays(*philox((blocks, *node), (seed[0], seed[1]))), axis=-1)
    bits = jnp.stack([words & _LOW, words >> _HALF], axis=-1)
    return bits.reshape(b.shape[0], _COLUMNS * blocks.shape[1])[:, :width] >= np.uint32(dropped)
