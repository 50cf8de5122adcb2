"""Operation 2: cost and arc posteriors of a lattice of nodes (t, u), summed over every path from (0, 0) to the end."""

from collections.abc import Sequence
from typing import Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.ops import checks, lax_lattice
from jax_rnnt.ops.labels import RNNT_MOVES, Moves, check_moves
from jax_rnnt.ops.slices import compute_dtype
from jax_rnnt.xla.primitive import Implementation, Operation, check_implementation

_SHARED_BYTES = (48 << 10) - 512  # of what every GPU gives a block: kSharedBytes in cuda/lattice.h


def _lattice_ndim(arcs, *_) -> int:
    return arcs.ndim - 3


def _cost_only(arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves) -> list[Array]:
    return lax_lattice.lattice(arcs, logit_lengths, target_lengths, moves=moves, posteriors=False)


def _with_posteriors(arcs: Array, logit_lengths: Array, target_lengths: Array, *, moves: Moves) -> list[Array]:
    return lax_lattice.lattice(arcs, logit_lengths, target_lengths, moves=moves, posteriors=True)


def _per_example(arcs, *_, **__) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(arcs.shape[:-3], arcs.dtype)]


def _per_example_and_arc(arcs, *_, **__) -> list[jax.ShapeDtypeStruct]:
    return [*_per_example(arcs), jax.ShapeDtypeStruct(arcs.shape, arcs.dtype)]


def _past(arcs, *_, moves: Moves) -> jax.ShapeDtypeStruct | None:
    """What a CUDA kernel remembers of the last diagonals, if that is too much for a block's shared memory.

    The rule is that of ``Remembered`` in cuda/lattice.cu, which checks it.
    """
    *batch, _, columns, k = arcs.shape
    depth = 2
    while depth <= max(dt + du for dt, du in moves):
        depth *= 2
    numbers = 2 * (k + 1) * depth * columns
    if isinstance(columns, int) and numbers * arcs.dtype.itemsize <= _SHARED_BYTES:
        return None
    return jax.ShapeDtypeStruct((*batch, numbers), arcs.dtype)


cost = Operation("lattice_cost", _per_example, _cost_only, _lattice_ndim, workspace=_past)
posteriors = Operation("lattice_posteriors", _per_example_and_arc, _with_posteriors, _lattice_ndim, workspace=_past)


def _cost_jvp(primals, tangents, **parameters):
    value, posterior = posteriors(*primals, **parameters)
    return [value], [-jnp.sum(posterior * tangents[0], axis=(-3, -2, -1))]


cost.def_jvp(_cost_jvp)


@overload
def lattice_cost(
    log_probs: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    moves: Sequence[Sequence[int]] = ...,
    *,
    return_posteriors: Literal[False] = ...,
    implementation: Implementation = ...,
) -> Array: ...
@overload
def lattice_cost(
    log_probs: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    moves: Sequence[Sequence[int]] = ...,
    *,
    return_posteriors: Literal[True],
    implementation: Implementation = ...,
) -> tuple[Array, Array]: ...
def lattice_cost(
    log_probs: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    moves: Sequence[Sequence[int]] = RNNT_MOVES,
    *,
    return_posteriors: bool = False,
    implementation: Implementation = None,
) -> Array | tuple[Array, Array]:
    r"""Minus the log of the summed probability of all paths through a lattice, for any set of moves.

    Arc ``k`` leaves node ``(t, u)`` for ``(t + dt_k, u + du_k)``. A path starts at (0, 0) and must land exactly on
    ``(T_b, U_b)``; on its way it visits nodes with ``t < T_b`` and ``u <= U_b`` only.

    .. math:: \mathrm{cost}_b = -\log \sum_{\pi} \prod_{(t,u,k) \in \pi} e^{\mathrm{log\_probs}_{b,t,u,k}}

    Args:
      log_probs: ``[B, T, U+1, K]``, floating; any scores will do, they need not be normalised. Arcs that leave the
        lattice are not read. Computed in float64 on the CPU, kept in float32 (float64 for float64).
      logit_lengths: ``[B]``, integers T_b in [0, T].
      target_lengths: ``[B]``, integers U_b in [0, U].
      moves: ``K`` static pairs ``(dt, du)`` with ``dt >= 0``, ``du >= 0`` and ``dt + du >= 1``. RNN-T:
        ``((1, 0), (0, 1))``, the default. One label a frame: ``((1, 0), (1, 1))``. Multi-blank:
        ``((1, 0), (2, 0), (4, 0), (0, 1))``.
      return_posteriors: whether to return also the posterior of each arc.
      implementation: None chooses by platform; "native" insists on the compiled kernel; "scan" is the ``lax`` form.

    Returns:
      ``cost [B]``; with ``return_posteriors``, also ``[B, T, U+1, K]``: the probability that a path drawn from the
      lattice takes the arc, which is the gradient of ``-cost``. +inf, with posteriors 0, where there is no path;
      NaN where an arc inside the lattice is NaN or +inf (its posteriors are NaN inside the lattice) or where a length
      is out of range (NaN throughout). Posteriors beyond T_b and U_b are exactly 0.

    Raises:
      TypeError: if a dtype is wrong or ``moves`` are not pairs of integers.
      ValueError: if a shape does not match, a move does not advance, or ``implementation`` is unknown.

    References:
      Graves, Sequence Transduction with Recurrent Neural Networks, 2012 (arXiv:1211.3711), equations 12-20.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> log_probs = jnp.log(jnp.full((1, 2, 2, 2), 0.5))  # T = 2 frames, U = 1 label: two paths of three arcs
      >>> jnp.exp(-jax_rnnt.lattice_cost(log_probs, jnp.array([2]), jnp.array([1])))
      Array([0.25], dtype=float32)
    """
    check_implementation(implementation)
    checks.boolean("return_posteriors", return_posteriors)
    arcs = checks.as_array("log_probs", log_probs)
    t_b = checks.as_integers("logit_lengths", logit_lengths)
    u_b = checks.as_integers("target_lengths", target_lengths)
    checks.floating("log_probs", arcs)
    checks.rank("log_probs", arcs, "B, T, U+1, K")
    checks.lengths(arcs.shape[0], t_b, u_b, "log_probs.shape[0]")
    if arcs.shape[2] < 1 or arcs.shape[3] < 1:
        raise ValueError(f"`log_probs` [B, T, U+1, K] must have U+1 >= 1 and K >= 1, got shape {arcs.shape}.")
    pairs = check_moves(moves, arcs.shape[3])
    arcs = arcs.astype(compute_dtype(arcs.dtype))
    *_, t_max, u1, _ = arcs.shape
    # A move longer than the lattice is never taken; left as it is, it would lengthen what the recursion remembers.
    too_long = [isinstance(t_max, int) and (dt > t_max or du >= u1) for dt, du in pairs]
    if any(too_long):
        arcs = jnp.where(np.array(too_long)[None, None, None], -jnp.inf, arcs)
        pairs = tuple((1, 0) if never else pair for pair, never in zip(pairs, too_long, strict=True))
    if len(pairs) == 1:
        # The kernels keep a pair of numbers in a node's posteriors while they run: there must be room for two.
        arcs, pairs = jnp.concatenate([arcs, jnp.full_like(arcs, -jnp.inf)], axis=-1), pairs * 2
        k = 1
    else:
        k = len(pairs)
    operation = posteriors if return_posteriors else cost
    results = operation(arcs, checks.to_int32(t_b), checks.to_int32(u_b), moves=pairs, implementation=implementation)
    return (results[0], results[1][..., :k]) if return_posteriors else results[0]
