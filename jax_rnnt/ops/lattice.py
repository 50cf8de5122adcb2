"""Operation 2: cost and arc posteriors of a lattice of nodes (t, u), summed over every path from (0, 0) to the end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.ops import lax_lattice, lax_lattice_stacked
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import RNNT_MOVES, Moves, check_moves
from jax_rnnt.ops.masking import scaled
from jax_rnnt.xla import native, pallas
from jax_rnnt.xla.primitive import Implementation, Operation, check_implementation


def lattice_ndim(arcs, *_) -> int:
    return arcs.ndim - 3


Form = Callable[..., list[Array]]


def _forms(parts: Callable[[Form], Form]) -> dict[str, Any]:
    """The ``lax`` forms of an operation that is made of the lattice."""
    on_gpus = parts(_lattice_on_gpus)
    return {
        "lax_form": parts(lax_lattice.lattice),
        "lax_forms": {"tpu": parts(lax_lattice_stacked.lattice), "cuda": on_gpus, "rocm": on_gpus},
    }


def _lattice_on_gpus(arcs: Array, t_b: Array, u_b: Array, *, moves: Moves, posteriors: bool) -> list[Array]:
    # A diagonal of RNN-T takes 8 kernels in the stacked form and 17 in the other. With longer moves each of the last
    # diagonals is copied in every turn, and a diagonal of TDT takes 36 in place of 22.
    form = lax_lattice_stacked if all(dt + du == 1 for dt, du in moves) else lax_lattice
    return form.lattice(arcs, t_b, u_b, moves=moves, posteriors=posteriors)


def _cost_only(lattice: Form) -> Form:
    return functools.partial(lattice, posteriors=False)


def _with_posteriors(lattice: Form) -> Form:
    return functools.partial(lattice, posteriors=True)


def per_example(arcs, *_, **__) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(arcs.shape[:-3], arcs.dtype)]


def _per_arc(arcs, *_, **__) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(arcs.shape, arcs.dtype)]


def _per_example_and_arc(arcs, *_, **__) -> list[jax.ShapeDtypeStruct]:
    return [*per_example(arcs), *_per_arc(arcs)]


def _workspace(arcs, *_, moves: Moves, with_posteriors: bool) -> jax.ShapeDtypeStruct:
    """What CUDA kernels keep of an utterance. T and U + 1 may be symbolic."""
    *batch, num_frames, num_positions, _ = arcs.shape
    known = (n if isinstance(n, int) else -1 for n in (num_frames, num_positions))
    of_node, of_diagonal, of_position, rest = native.lattice_workspace(moves, with_posteriors, *known)
    diagonals = num_frames + num_positions
    numbers = (of_node * num_positions + of_diagonal) * diagonals + of_position * num_positions + rest
    return jax.ShapeDtypeStruct((*batch, numbers), arcs.dtype)


def _pallas_kernels(*, posteriors: bool) -> pallas.Kernels:
    from jax_rnnt.ops import pallas_lattice  # it imports Pallas, which few programs need

    return pallas.Kernels(functools.partial(pallas_lattice.lattice, posteriors=posteriors), pallas_lattice.refusal)


_cost = Operation(
    "lattice_cost",
    per_example,
    batch_ndim=lattice_ndim,
    workspace=functools.partial(_workspace, with_posteriors=False),
    pallas_kernels=functools.partial(_pallas_kernels, posteriors=False),
    **_forms(_cost_only),
)
_posteriors = Operation(
    "lattice_posteriors",
    _per_example_and_arc,
    batch_ndim=lattice_ndim,
    workspace=functools.partial(_workspace, with_posteriors=True),
    pallas_kernels=functools.partial(_pallas_kernels, posteriors=True),
    **_forms(_with_posteriors),
)


# The derivatives are separate operations, linear in the tangent of the arcs. So JAX computes only the part that is
# needed, and an example whose cotangent is 0 has a gradient of 0, even if its posteriors are NaN.


def _cost_tangent(tangent: Array, posterior: Array) -> list[Array]:
    return [-jnp.sum(posterior * tangent, axis=(-3, -2, -1))]


def _cost_tangent_transpose(cotangents, _, posterior, **__):
    (ct,) = cotangents
    if ct is None:
        return None, None
    return scaled(-posterior, by=ct[..., None, None, None]), None


def _posterior_tangent(lattice: Form) -> Form:
    def posterior_tangent(tangent: Array, arcs: Array, t_b: Array, u_b: Array, *, moves: Moves) -> list[Array]:
        def of(x: Array) -> Array:
            return lattice(x, t_b, u_b, moves=moves, posteriors=True)[1]

        return [jax.jvp(of, (arcs,), (tangent,))[1]]

    return posterior_tangent


def _posterior_tangent_transpose(cotangents, _, arcs, t_b, u_b, *, moves: Moves, **__):
    def of(x: Array) -> Array:
        return lax_lattice.lattice(x, t_b, u_b, moves=moves, posteriors=True)[1]

    (ct,) = cotangents
    return None if ct is None else jax.vjp(of, arcs)[1](ct)[0], None, None, None


_cost_tangents = Operation("lattice_cost_tangent", per_example, _cost_tangent, lattice_ndim, has_kernel=False)
_posterior_tangents = Operation(
    "lattice_posterior_tangent", _per_arc, batch_ndim=lattice_ndim, has_kernel=False, **_forms(_posterior_tangent)
)
_cost_tangents.def_transpose(_cost_tangent_transpose)
_posterior_tangents.def_transpose(_posterior_tangent_transpose)


def _cost_jvp(primals, tangents, *, implementation, **parameters):
    value, posterior = _posteriors(*primals, implementation=implementation, **parameters)
    return [value], _cost_tangents(tangents[0], posterior, implementation=implementation)


def _posteriors_jvp(primals, tangents, **parameters):
    value, posterior = _posteriors(*primals, **parameters)
    cost_tangent = _cost_tangents(tangents[0], posterior, implementation=parameters["implementation"])
    return [value, posterior], [*cost_tangent, *_posterior_tangents(tangents[0], *primals, **parameters)]


_cost.def_jvp(_cost_jvp)
_posteriors.def_jvp(_posteriors_jvp)


def costs(arcs: Array, t_b: Array, u_b: Array, *, moves: Moves, implementation: Implementation) -> Array:
    """``cost [...]`` of ``arcs [..., T, U+1, K]`` in float32 or float64; lengths ``[...]`` are int32."""
    arcs, moves = for_the_kernels(arcs, moves)
    return _cost(arcs, t_b, u_b, moves=moves, implementation=implementation)[0]


def posteriors(
    arcs: Array, t_b: Array, u_b: Array, *, moves: Moves, implementation: Implementation
) -> tuple[Array, Array]:
    """:func:`costs` and the posterior of each arc ``[..., T, U+1, K]``."""
    k = arcs.shape[-1]
    arcs, moves = for_the_kernels(arcs, moves)
    cost, posterior = _posteriors(arcs, t_b, u_b, moves=moves, implementation=implementation)
    return cost, posterior[..., :k]


def cost_tangents(tangent: Array, posterior: Array, implementation: Implementation = None) -> Array:
    """The tangent of the costs ``[...]``, from that of the arcs. Its transpose gives 0 where a cotangent is 0."""
    return _cost_tangents(tangent, posterior, implementation=implementation)[0]


def for_the_kernels(arcs: Array, moves: Moves) -> tuple[Array, Moves]:
    *_, t_max, u1, _ = arcs.shape
    # A move that is longer than the lattice is never taken. It is shortened, because the recursion remembers as many
    # diagonals as the longest move has.
    too_long = [(isinstance(t_max, int) and dt > t_max) or (isinstance(u1, int) and du >= u1) for dt, du in moves]
    if any(too_long):
        arcs = jnp.where(np.array(too_long), -jnp.inf, arcs)
        moves = tuple((1, 0) if never else move for move, never in zip(moves, too_long, strict=True))
    if len(moves) == 1:
        # While they run, the kernels keep a pair of numbers in the posteriors of a node. So a node needs two arcs.
        arcs, moves = jnp.concatenate([arcs, jnp.full_like(arcs, -jnp.inf)], axis=-1), moves * 2
    return arcs, moves


def checked(log_probs, logit_lengths, target_lengths, moves, implementation) -> tuple[Array, Array, Array, Moves]:
    check_implementation(implementation)
    arcs = checks.as_array("log_probs", log_probs)
    t_b = checks.as_integers("logit_lengths", logit_lengths)
    u_b = checks.as_integers("target_lengths", target_lengths)
    checks.floating("log_probs", arcs)
    checks.rank("log_probs", arcs, "B, T, U+1, K")
    checks.lengths(arcs.shape[0], t_b, u_b, "log_probs.shape[0]")
    if arcs.shape[2] < 1 or arcs.shape[3] < 1:
        raise ValueError(f"`log_probs` [B, T, U+1, K] must have U+1 >= 1 and K >= 1, got shape {arcs.shape}.")
    pairs = check_moves(moves, arcs.shape[3])
    return arcs.astype(compute_dtype(arcs.dtype)), checks.to_int32(t_b), checks.to_int32(u_b), pairs


def lattice_cost(
    log_probs: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    moves: Sequence[Sequence[int]] = RNNT_MOVES,
    *,
    implementation: Implementation = None,
) -> Array:
    r"""Minus the log of the summed probability of all paths through a lattice, for any set of moves.

    Arc ``k`` leaves node ``(t, u)`` for ``(t + dt_k, u + du_k)``. A path starts at (0, 0) and must land exactly on
    ``(T_b, U_b)``; on its way it visits nodes with ``t < T_b`` and ``u <= U_b`` only.

    .. math:: \mathrm{cost}_b = -\log \sum_{\pi} \prod_{(t,u,k) \in \pi} e^{\mathrm{log\_probs}_{b,t,u,k}}

    Args:
      log_probs: ``[B, T, U+1, K]``, floating. The scores need not be normalised. Arcs that leave the lattice are not
        read. The CPU computes in float64 and keeps float32 (float64 for float64). Masks of -inf and large finite ones
        (-1e9, ``finfo.min``) both work; masks beyond 7e11 / (T_b + U_b + 1) in size all count alike where a path must
        cross one.
      logit_lengths: ``[B]``, integers T_b in [0, T].
      target_lengths: ``[B]``, integers U_b in [0, U].
      moves: ``K`` static pairs ``(dt, du)`` with ``dt >= 0``, ``du >= 0`` and ``dt + du >= 1``. RNN-T:
        ``((1, 0), (0, 1))``, the default. One label per frame: ``((1, 0), (1, 1))``. Multi-blank:
        ``((1, 0), (2, 0), (4, 0), (0, 1))``.
      implementation: None chooses by platform; "native" insists on the compiled kernel; "lax" is the ``lax`` form.
        "pallas" insists on the Pallas kernels for TPUs, in float32 and of static shape; nothing chooses them by itself.

    Returns:
      ``cost [B]``: +inf where there is no path; NaN where an arc inside the lattice is NaN or +inf, or where a length
      is out of range. The cost is finite for finite arcs: a cost that its type cannot hold becomes the type's largest
      number. The gradient is minus the posteriors of :func:`lattice_posteriors` times the cotangent: exactly 0 where
      the cotangent is 0.

    Raises:
      TypeError: if a dtype is wrong or ``moves`` are not pairs of integers.
      ValueError: if a shape does not match, a move does not advance, or ``implementation`` is unknown.
      NotImplementedError: when the program is compiled, if there is no kernel of the asked ``implementation``.

    References:
      Graves, Sequence Transduction with Recurrent Neural Networks, 2012 (arXiv:1211.3711), equations 12-20.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> log_probs = jnp.log(jnp.full((1, 2, 2, 2), 0.5))  # T = 2 frames, U = 1 label: two paths of three arcs
      >>> jnp.exp(-jax_rnnt.lattice_cost(log_probs, jnp.array([2]), jnp.array([1])))
      Array([0.25], dtype=float32)
    """
    arcs, t_b, u_b, pairs = checked(log_probs, logit_lengths, target_lengths, moves, implementation)
    return costs(arcs, t_b, u_b, moves=pairs, implementation=implementation)


def lattice_posteriors(
    log_probs: ArrayLike,
    logit_lengths: ArrayLike,
    target_lengths: ArrayLike,
    moves: Sequence[Sequence[int]] = RNNT_MOVES,
    *,
    implementation: Implementation = None,
) -> tuple[Array, Array]:
    r"""The cost of :func:`lattice_cost`, and the posterior probability of each arc.

    .. math:: \mathrm{posterior}_{b,t,u,k} = P(\pi \ni (t,u,k)) = -\partial\, \mathrm{cost}_b /
                                             \partial\, \mathrm{log\_probs}_{b,t,u,k}

    Arguments, errors and references are those of :func:`lattice_cost`. Both results can be differentiated. The gradient
    of the cost needs no more than the posteriors; that of the posteriors runs the ``lax`` form.

    Returns:
      ``cost [B]`` and ``posteriors [B, T, U+1, K]``, each in [0, 1]: the probability that a path drawn from the lattice
      takes the arc. Posteriors are 0 where there is no path; NaN inside the lattice where one of its arcs is NaN or
      +inf; NaN throughout where a length is out of range; otherwise exactly 0 beyond T_b and U_b.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> log_probs = jnp.log(jnp.full((1, 2, 2, 2), 0.5))  # T = 2 frames, U = 1 label: two paths of three arcs
      >>> cost, posteriors = jax_rnnt.lattice_posteriors(log_probs, jnp.array([2]), jnp.array([1]))
      >>> posteriors[0, :, 0, 1]  # the label is as probable at the first frame as at the second
      Array([0.5, 0.5], dtype=float32)
    """
    arcs, t_b, u_b, pairs = checked(log_probs, logit_lengths, target_lengths, moves, implementation)
    return posteriors(arcs, t_b, u_b, moves=pairs, implementation=implementation)
