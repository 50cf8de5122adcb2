"""A loop for a GPU whose number of turns depends on values, made of loops whose numbers of turns are known.

In a loop of the first kind the host waits before each turn, to read whether there is one, and the GPU has nothing to do
meanwhile. A loop of the second kind needs no host. Here the host waits once for each digit of the number of turns.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

Carry = TypeVar("Carry")

_BASE = 4  # with more the host would wait less often, and the program would hold more copies of a turn


def turns_by_digits(turns: Array, most: int, turn: Callable[[Array, Carry], Carry], carry: Carry) -> Carry:
    """``carry = turn(i, carry)`` for i = 0, 1, .., turns - 1, where ``turns``, int32, is at most ``most``.

    Each digit d of ``turns`` in base 4, from the highest one that ``most`` has, chooses a loop of d 4^k turns.
    """
    turn = jax.jit(turn)  # traced once for all loops

    def loop(length: int) -> Callable[[Array, Carry], Carry]:
        return lambda first, carry: lax.fori_loop(0, length, lambda i, carry: turn(first + jnp.int32(i), carry), carry)

    unit, first = 1, jnp.zeros_like(turns)
    while unit * _BASE <= most:
        unit *= _BASE
    while unit > 0:
        digit = turns // unit % _BASE
        loops = [loop(d * unit) for d in range(min(_BASE, most // unit + 1))]
        carry = lax.switch(digit, loops, first, carry)
        first, unit = first + digit * unit, unit // _BASE
    return carry
