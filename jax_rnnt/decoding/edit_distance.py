"""The Levenshtein distance of label sequences, batched."""

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt import checks


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
      ``[...]``, int32.

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
    arrays = {name: checks.as_integers(name, x) for name, x in arguments.items()}
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
    x, y, of_x, of_y = (checks.to_int32(a) for a in arrays.values())
    x, y = jnp.broadcast_to(x, (*batch, x.shape[-1])), jnp.broadcast_to(y, (*batch, y.shape[-1]))
    of_x, of_y = jnp.broadcast_to(of_x, batch), jnp.broadcast_to(of_y, batch)
    column = lax.broadcasted_iota(jnp.int32, (*batch, y.shape[-1] + 1), len(batch))

    def row(above: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        """Distances ``[..., U + 1]`` of the hypothesis, with one more label, to every prefix of the targets."""
        i, label = at
        replaced = above[..., :-1] + (label[..., None] != y).astype(jnp.int32)
        best = jnp.minimum(above + 1, jnp.concatenate([above[..., :1] + 1, replaced], axis=-1))
        # Insertions run along the row: the least of best[k] + (u - k) over k <= u.
        best = lax.cummin(best - column, axis=len(batch)) + column
        return jnp.where((i < of_x)[..., None], best, above), None

    steps = jnp.arange(x.shape[-1], dtype=jnp.int32), jnp.moveaxis(x, -1, 0)
    last, _ = lax.scan(row, column, steps)
    return jnp.take_along_axis(last, of_y[..., None], axis=-1, mode="clip")[..., 0]
