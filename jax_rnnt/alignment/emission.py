"""When labels are emitted, how late and with what certainty, from the posteriors of a lattice."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import RNNT_MOVES, check_moves
from jax_rnnt.ops.lax_lattice import shift


def _posteriors(x: ArrayLike) -> Array:
    posteriors = checks.as_array("posteriors", x)
    checks.floating("posteriors", posteriors)
    checks.rank("posteriors", posteriors, "B, T, U+1, K")
    return posteriors.astype(compute_dtype(posteriors.dtype))


def emission_times(posteriors: ArrayLike, moves: Sequence[Sequence[int]] = RNNT_MOVES) -> Array:
    r"""The expected frame of each label: the mean over all alignments of the frame that emits it.

    .. math:: \mathrm{time}_{b,u} = \sum_t t \, P(\mbox{label } u \mbox{ is emitted at frame } t)

    The times can be differentiated through :func:`lattice_posteriors` down to the logits. So a loss on the times moves
    labels.

    Args:
      posteriors: ``[B, T, U+1, K]``, floating, of :func:`lattice_posteriors`.
      moves: the ``K`` moves of their lattice.

    Returns:
      ``times [B, U]``, float32 (float64 for float64 posteriors). -1 beyond U_b, and in an example without a path. NaN
      for the labels of an invalid example.

    Raises:
      TypeError: if a dtype is wrong or ``moves`` are not pairs of integers.
      ValueError: if ``posteriors`` do not have four dimensions, or there are not as many ``moves`` as arcs.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> batch = jnp.zeros((1, 4, 2, 5)), jnp.array([[3]]), jnp.array([4]), jnp.array([1])  # T = 4, U = 1
      >>> lattice = jax_rnnt.alignment.loss_lattice(jax_rnnt.RNNTLoss(), *batch)
      >>> cost, posteriors = jax_rnnt.lattice_posteriors(*lattice)
      >>> jax_rnnt.alignment.emission_times(posteriors, lattice.moves).round(4)  # frames 0 to 3 are equally probable
      Array([[1.5]], dtype=float32)
    """
    arcs = _posteriors(posteriors)
    moves = check_moves(moves, arcs.shape[3], "posteriors")
    emitted = jnp.zeros_like(arcs[..., 0])
    for k, (_, du) in enumerate(moves):
        for later in range(min(du, arcs.shape[2])):  # the arc that leaves position u emits labels u, ..., u + du - 1
            emitted = emitted + shift(arcs[..., k], later)
    # The sum counts frames from 1, so that a label that is never emitted gets 0 - 1.
    t = lax.broadcasted_iota(emitted.dtype, emitted.shape, 1) + 1
    return (jnp.sum(t * emitted, axis=1) - 1)[:, :-1]


def expected_delay(times: ArrayLike, reference: ArrayLike) -> Array:
    """How many frames later than in a reference the labels of each example are emitted, on average.

    Args:
      times: ``[B, U]``, the frames of the labels, from :func:`emission_times` or :func:`best_alignment`; negative where
        there is no label.
      reference: ``[B, U]``, the frames at which the labels should be, integers or floating-point numbers. A label with
        a negative reference does not count. (Alignments have -1 beyond U_b.)

    Returns:
      ``delay [B]``, float32 (float64 if an argument is): the mean of ``times - reference`` over the labels that have
      both, and 0 if no label has both. NaN for an invalid example. The delay can be differentiated.

    Raises:
      TypeError: if an argument is not an array of numbers.
      ValueError: if the two do not have the same shape ``[B, U]``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> jax_rnnt.alignment.expected_delay(jnp.array([[2.5, 7.0, -1.0]]), jnp.array([[2, 5, -1]]))
      Array([1.25], dtype=float32)
    """
    emitted, wanted = checks.as_array("times", times), checks.as_array("reference", reference)
    checks.rank("times", emitted, "B, U")
    checks.shape("reference", wanted, emitted.shape, "times.shape")
    dtype = jnp.dtype("float64" if "float64" in (emitted.dtype, wanted.dtype) else "float32")
    emitted, wanted = emitted.astype(dtype), wanted.astype(dtype)
    # -1 means that there is no label. The time of a label at frame 0 is 0, apart from rounding.
    counts = ~(emitted < -0.5) & (wanted >= 0)
    total = jnp.sum(jnp.where(counts, emitted - wanted, 0), axis=1)
    return total / jnp.maximum(jnp.sum(counts, axis=1), 1).astype(dtype)


def alignment_entropy(posteriors: ArrayLike) -> Array:
    r"""The entropy of the distribution over alignments, in nats: 0 where a single path has all the probability.

    .. math:: H_b = -\sum_{\pi} P(\pi) \log P(\pi) = -\sum_{t,u,k} p_{t,u,k} \log \frac{p_{t,u,k}}{\sum_j p_{t,u,j}}

    with the posteriors p of the arcs. The second form is exact, because the arc that a path takes at a node does not
    depend on how the path reached the node. :math:`\log Z - \sum p \cdot \mathrm{arcs}` is the same number, but it is
    the difference of two large numbers.

    The entropy can be differentiated through :func:`lattice_posteriors` down to the logits.

    Args:
      posteriors: ``[B, T, U+1, K]``, floating, of :func:`lattice_posteriors`, for any moves.

    Returns:
      ``entropy [B]``, float32 (float64 for float64 posteriors), at least 0: 0 also where there is no path, NaN for an
      invalid example.

    Raises:
      TypeError, ValueError: if ``posteriors`` are not a floating array of four dimensions.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> log_probs = jnp.zeros((1, 4, 2, 2))  # T = 4, U = 1: four paths, equally probable
      >>> _, posteriors = jax_rnnt.lattice_posteriors(log_probs, jnp.array([4]), jnp.array([1]))
      >>> jnp.exp(jax_rnnt.alignment.alignment_entropy(posteriors)).round(4)
      Array([4.], dtype=float32)
    """
    arcs = _posteriors(posteriors)
    taken = arcs != 0
    node = jnp.sum(arcs, axis=-1, keepdims=True)
    surprise = jnp.log(jnp.where(taken, node, 1)) - jnp.log(jnp.where(taken, arcs, 1))
    return jnp.sum(jnp.where(taken, arcs * surprise, 0), axis=(1, 2, 3))
