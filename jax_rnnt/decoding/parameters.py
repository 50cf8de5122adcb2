"""Parameters of a model as an argument of ``jax.jit``, which takes arrays only."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax import Array

_AN_ARRAY = "an array"


@functools.partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["structure", "others"])
@dataclasses.dataclass(frozen=True)
class Parameters:
    """A pytree of anything: its arrays are traced, and its other leaves are static."""

    arrays: list[Array]
    structure: jax.tree_util.PyTreeDef
    others: tuple[tuple[type, Any] | str, ...]  # the leaves with their types, because 1 == 1.0 == True

    @classmethod
    def of(cls, tree: Any) -> "Parameters":
        leaves, structure = jax.tree.flatten(tree)
        is_array = [isinstance(x, Array | np.ndarray | np.generic) for x in leaves]
        others = tuple(_AN_ARRAY if is_ else (type(x), x) for x, is_ in zip(leaves, is_array, strict=True))
        try:
            hash((structure, others))
        except TypeError as error:
            raise TypeError(f"`params` must hold arrays and hashable values only: {error}.") from error
        return cls([x for x, is_ in zip(leaves, is_array, strict=True) if is_], structure, others)

    def tree(self) -> Any:
        arrays = iter(self.arrays)
        return self.structure.unflatten([next(arrays) if x is _AN_ARRAY else x[1] for x in self.others])
