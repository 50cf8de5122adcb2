"""The sides of bench.py that need no other library: `native` and `lax` of this one, and `floor` (floor.py)."""

from collections.abc import Callable

import floor
import jax
import jax.numpy as jnp
import numpy as np
from cases import FORWARD
from clock import compiled

import jax_rnnt

NAMES = ("floor", "native", "lax")
VERSIONS: dict[str, str] = {}


def _cost(name: str, kind: str) -> Callable:
    if kind == "lattice":
        return lambda x, targets, *lengths: jax_rnnt.lattice_cost(x, *lengths, implementation=name).sum()
    return jax_rnnt.RNNTLoss(reduction="sum", implementation=name)


def calls(arrays: dict[str, np.ndarray], operation: str, kind: str, names=NAMES) -> dict[str, Callable]:
    """A call returns (cost,) or (cost, gradient); the floor's call returns None. All calls read the same bytes."""
    inputs = [jnp.asarray(arrays[name]) for name in ("logits", "targets", "logit_lengths", "target_lengths")]
    made: dict[str, Callable] = {}
    for name in names:
        if name == "floor":
            made[name] = floor.call(np.asarray(inputs[0]), operation)
            continue
        cost = _cost(name, kind)
        step = (lambda *x, of=cost: (of(*x),)) if operation == FORWARD else jax.value_and_grad(cost)
        made[name], temporaries, results = compiled(step, *inputs)
        made[name].planned_bytes = temporaries + results
    return made
