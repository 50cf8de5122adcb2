"""The sides that run in JAX: "native" (the kernels), "lax" (the library's own lax form) and "naive" (naive.py)."""

import functools

import jax
import jax.numpy as jnp
import naive
import numpy as np
from cases import FORWARD, Case, Inputs
from side import Side

import jax_rnnt


def _library_cost(implementation: str, kind: str):
    if kind == "lattice":
        return lambda x, targets, *lengths: jax_rnnt.lattice_cost(x, *lengths, implementation=implementation).sum()
    return functools.partial(jax_rnnt.rnnt_loss, reduction="sum", implementation=implementation)


def _naive_cost(kind: str):
    if kind == "lattice":
        return lambda x, targets, *lengths: naive.lattice_cost(x, *lengths).sum()
    return lambda *arguments: naive.rnnt_loss(*arguments).sum()


_COSTS = {
    "native": functools.partial(_library_cost, "native"),
    "lax": functools.partial(_library_cost, "lax"),
    "naive": _naive_cost,
}
NAMES = tuple(_COSTS)


def on_device(inputs: Inputs) -> dict[str, jax.Array]:
    """The arrays in JAX, made once. The numpy arrays become views of them, so that every side reads the same bytes."""
    if not hasattr(inputs, "arrays"):
        inputs.arrays = {}
        for name in list(inputs):
            inputs.arrays[name] = jnp.asarray(inputs[name])
            inputs[name] = np.asarray(inputs.arrays[name])
    return inputs.arrays


class JaxSide(Side):
    def __init__(self, name: str):
        self.name = name
        self._compiled = {}  # by case and operation: check, memory and clock share a compilation

    def prepare(self, case: Case, inputs: Inputs, operation: str) -> None:
        arrays = on_device(inputs)
        self._arguments = [arrays[n] for n in ("logits", "targets", "logit_lengths", "target_lengths")]
        self._forward_only = operation == FORWARD
        if (case, operation) not in self._compiled:
            cost = _COSTS[self.name](case.kind)
            function = jax.jit(cost if self._forward_only else jax.value_and_grad(cost))
            self._compiled[case, operation] = function.lower(*self._arguments).compile()
        self._call = self._compiled[case, operation]

    def run(self):
        return jax.block_until_ready(self._call(*self._arguments))

    def outputs(self) -> tuple[float, np.ndarray | None]:
        result = self.run()
        if self._forward_only:
            return float(result), None
        return float(result[0]), np.asarray(result[1])

    def planned_bytes(self) -> int:
        plan = self._call.memory_analysis()
        return plan.output_size_in_bytes + plan.temp_size_in_bytes

    def release(self) -> None:
        self._compiled.clear()
        self._call = self._arguments = None
