"""The best path of a lattice: operation 2 with the maximum in place of the sum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt.ops import lattice, lax_best_path, lax_lattice
from jax_rnnt.ops.labels import RNNT_MOVES, Moves
from jax_rnnt.xla.primitive import Implementation, Operation


class BestPath(NamedTuple):
    """What :func:`lattice_best_path` and :func:`best_alignment` return."""

    cost: Array  #: ``[B]``
    frames: Array  #: ``[B, U]``, where each label is emitted
    durations: Array  #: ``[B, U]``, the frames that it takes
    arcs: Array  #: ``[B, T + U]``, the arc with which the path leaves the node (t, u), at t + u


def _results(arcs, *_, **__) -> list[jax.ShapeDtypeStruct]:
    *batch, t_max, u1, _ = arcs.shape
    per_label, per_step = (jax.ShapeDtypeStruct((*batch, size), jnp.int32) for size in (u1 - 1, t_max + u1 - 1))
    return [*lattice.per_example(arcs), per_label, per_label, per_step]


_best_path = Operation("lattice_best_path", _results, lax_best_path.best_path, lattice.lattice_ndim)


def lattice_best_path(
    log_probs: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    moves: Sequence[Sequence[int]] = RNNT_MOVES,
    *,
    implementation: Implementation = None,
) -> BestPath:
    r"""The most probable path through a lattice, for any set of moves: an alignment of labels with frames.

    .. math:: \mathrm{cost}_b = -\max_{\pi} \sum_{(t,u,k) \in \pi} \mathrm{log\_probs}_{b,t,u,k}

    over the paths of :func:`lattice_cost`. If several paths have the same score, look at the first node where they
    part. The result is the path whose arc comes first in ``moves``. With the moves of RNN-T it emits its labels late.

    Args:
      log_probs, logit_lengths, target_lengths, moves, implementation: as in :func:`lattice_cost`. Scores are added in
        float64 on the CPU, and in pairs of floats by the ``lax`` form; float32 arcs then give the exact maximum unless
        paths agree in about 14 digits. On CUDA the ``lax`` form runs; there is no kernel for it.

    Returns:
      A :class:`BestPath`, whose integers are int32:

      * ``cost [B]``: minus the path's score, with the corner cases of :func:`lattice_cost`. It can be differentiated:
        the gradient is -1 at the arcs that the path takes, times the cotangent.
      * ``frames [B, U]``: the frame t of the node at which the path emits each label.
      * ``durations [B, U]``: the frames dt of the arc that emits the label: 0 for RNN-T.
      * ``arcs [B, T+U]``: the arc k with which the path leaves the node (t, u), at index t + u.

      All three are -1 beyond U_b, at an index t + u where the path has no node, and throughout an example that has no
      path (its cost is +inf) or is invalid (NaN).

    Raises:
      TypeError, ValueError: as :func:`lattice_cost`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> log_probs = jnp.zeros((1, 3, 2, 2)).at[0, 1, 0, 1].set(1.0)  # T = 3, U = 1: the label fits frame 1 best
      >>> best = jax_rnnt.alignment.lattice_best_path(log_probs, jnp.array([3]), jnp.array([1]))
      >>> best.frames.tolist(), best.arcs.tolist()  # blank, label, blank, blank
      ([[1]], [[0, 1, 0, 0]])
    """
    arcs, t_b, u_b, pairs = lattice.checked(log_probs, logit_lengths, target_lengths, moves, implementation)
    return best_paths(arcs, t_b, u_b, moves=pairs, implementation=implementation)


def best_paths(arcs: Array, t_b: Array, u_b: Array, *, moves: Moves, implementation: Implementation) -> BestPath:
    """:func:`lattice_best_path` of ``arcs [B, T, U+1, K]`` in float32 or float64; lengths are int32."""
    arcs, moves = lattice.for_the_kernels(arcs, moves)
    cost, *path = _best_path(lax.stop_gradient(arcs), t_b, u_b, moves=moves, implementation=implementation)
    return BestPath(_with_derivative(arcs, cost, path[-1], moves), *path)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _with_derivative(arcs: Array, cost: Array, taken: Array, moves: Moves) -> Array:
    """``cost``, with its derivative: the cost is minus the sum of the arcs of the path."""
    return cost


@_with_derivative.defjvp
def _jvp(moves: Moves, primals, tangents):
    arcs, cost, taken = primals
    *_, t_max, u1, k = arcs.shape
    # A sheared lattice has one more diagonal, that of the end.
    taken = jnp.pad(taken, ((0, 0), (0, 1)), constant_values=-1)
    u = lax_best_path.positions(taken, moves)
    here = u[..., None] == jnp.arange(u1, dtype=jnp.int32)[None, None]  # [B, N, U+1]
    each = [here & (taken == arc)[..., None] for arc in range(k)]
    on_path = jnp.stack([lax_lattice.unshear(jnp.moveaxis(x, 1, 0), t_max) for x in each], axis=-1)
    nan = jnp.isnan(cost)[:, None, None, None]
    return cost, lattice.cost_tangents(tangents[0], jnp.where(nan, jnp.nan, on_path.astype(arcs.dtype)))
