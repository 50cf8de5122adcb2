"""The Levenshtein distance of label sequences, batched."""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.xla.sharding import explicit_axes, vary_alike, with_automatic_axes


def edit_distance(
    hypotheses: ArrayLike, targets: ArrayLike, hypothesis_lengths: ArrayLike, target_lengths: ArrayLike
) -> Array:
    """How many labels must be inserted, deleted or replaced to turn one sequence into the other.

    Args:
      hypotheses: ``[..., L]``, any integer type. Only labels inside the lengths count.
      targets: ``[..., U]``, any integer type. The leading dimensions of all arguments are broadcast against each other.
      hypothesis_lengths: ``[...]``, any integer type, in [0, L].
      target_lengths: ``[...]``, any integer type, in [0, U].

    Returns:
      ``[...]``, int32; -1 where a length is outside of its range.

    Raises:
      TypeError: if a dtype is not an integer type.
      ValueError: if a sequence has no dimension, or the leading dimensions do not fit together.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> two, reference = jnp.array([[1, 2, 3], [1, 4, -1]]), jnp.array([2, 3])
      >>> jax_rnnt.decoding.edit_distance(two, reference, jnp.array([3, 2]), jnp.array(2))
      Array([1, 2], dtype=int32)
    """
    arguments = {
        "hypotheses": hypotheses,
        "targets": targets,
        "hypothesis_lengths": hypothesis_lengths,
        "target_lengths": target_lengths,
    }
    # 64 bits of NumPy become 32 in JAX's default mode, so labels are taken apart before they become arrays of JAX.
    arrays = {name: x if isinstance(x, np.ndarray) else checks.as_array(name, x) for name, x in arguments.items()}
    for name, x in arrays.items():
        checks.integer(name, x)
        if name in ("hypotheses", "targets") and x.ndim < 1:
            raise ValueError(f"`{name}` must have shape [..., L], got a scalar.")
    leading = [x.shape[:-1] if name in ("hypotheses", "targets") else x.shape for name, x in arrays.items()]
    try:
        batch = jnp.broadcast_shapes(*leading)
    except ValueError as error:
        shapes = ", ".join(f"`{name}` {x.shape}" for name, x in arrays.items())
        raise ValueError(f"The leading dimensions must fit together, got {shapes}.") from error
    found, wanted, *lengths = arrays.values()
    wide = not all(np.can_cast(x.dtype, np.int32) for x in (found, wanted))
    of_found, of_wanted = map(checks.as_integers, ("hypothesis_lengths", "target_lengths"), lengths)
    return _distance(batch, _spec(batch, arrays), _words(found, wide), _words(wanted, wide), of_found, of_wanted)


def _words(labels: np.ndarray | Array, wide: bool) -> list[Array]:
    """Arrays that are all equal where labels are equal: int32, or the halves and the sign of wider integers."""
    if not wide:
        return [jnp.asarray(labels, jnp.int32)]
    negative, low = labels < 0, labels.astype(np.uint32)
    high = labels >> 32 if labels.dtype.itemsize == 8 else -negative.astype(np.int32)
    return [jnp.asarray(x) for x in (low, high.astype(np.uint32), negative)]


def _spec(batch: tuple[int, ...], arrays: dict[str, Array | np.ndarray]) -> PartitionSpec:
    """How an explicit mesh divides the leading dimensions, according to the arguments that have all of them."""
    of_batch = (explicit_axes(x)[: len(batch)] for x in arrays.values() if x.shape[: len(batch)] == batch)
    return PartitionSpec(*next((axes for axes in of_batch if any(axes)), ()))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _distance(
    batch: tuple[int, ...], spec: PartitionSpec, x: list[Array], y: list[Array], of_x: Array, of_y: Array
) -> Array:
    return with_automatic_axes(functools.partial(_one_after_another, batch), spec, x, y, of_x, of_y)


def _one_after_another(batch: tuple[int, ...], x: list[Array], y: list[Array], of_x: Array, of_y: Array) -> Array:
    """Goes through the labels of the hypotheses."""
    x, y = ([jnp.broadcast_to(a, (*batch, a.shape[-1])) for a in words] for words in (x, y))
    of_x, of_y = (jnp.broadcast_to(checks.to_int32(a), batch) for a in (of_x, of_y))
    most_x, most_y = x[0].shape[-1], y[0].shape[-1]
    column = lax.broadcasted_iota(jnp.int32, (*batch, most_y + 1), len(batch))

    def row(above: Array, at: tuple[Array, list[Array]]) -> tuple[Array, None]:
        """Distances ``[..., U + 1]`` of the hypothesis, with one more label, to every prefix of the targets."""
        i, words = at
        differs = functools.reduce(operator.or_, (word[..., None] != b for word, b in zip(words, y, strict=True)))
        replaced = above[..., :-1] + differs.astype(jnp.int32)
        best = jnp.minimum(above + 1, jnp.concatenate([above[..., :1] + 1, replaced], axis=-1))
        # Insertions run along the row: the least of best[k] + (u - k) over k <= u.
        best = lax.cummin(best - column, axis=len(batch)) + column
        return jnp.where((i < of_x)[..., None], best, above), None

    steps = jnp.arange(most_x, dtype=jnp.int32), [jnp.moveaxis(a, -1, 0) for a in x]
    last, _ = lax.scan(row, vary_alike(column, x, y, of_x, of_y), steps)
    end = jnp.clip(of_y, 0, most_y)[..., None]
    distance = jnp.take_along_axis(last, end, axis=-1, mode="clip")[..., 0]
    valid = (of_x >= 0) & (of_x <= most_x) & (of_y >= 0) & (of_y <= most_y)
    return jnp.where(valid, distance, -1)
