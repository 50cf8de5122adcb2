"""Minimum word error rate training: the expected errors of a list of hypotheses (Prabhavalkar 2018)."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.xla.sharding import follow_batch

_Reduction = Literal["none", "mean", "sum"]


def mwer_loss(
    costs: ArrayLike, errors: ArrayLike, *, where: ArrayLike | None = None, reduction: _Reduction = "mean"
) -> Array:
    r"""The expected number of errors over the n best hypotheses of each utterance.

    .. math:: \mathrm{loss}_b = \sum_n \frac{e^{-c_{b,n}}}{\sum_m e^{-c_{b,m}}}\, \mathrm{errors}_{b,n}

    To get the costs, call a loss of this library with the hypotheses as targets. Then the gradient reaches the model
    through all paths of each hypothesis (Guo 2020), not only through the paths that the beam kept. The costs also give
    the weights of the hypotheses. The scores of the search are not needed. The papers subtract the mean of the errors.
    Here this would change no gradient, because the weights sum to 1.

    Args:
      costs: ``[B, N]``, floating: minus the log-probability of each hypothesis. Hypotheses of cost +inf have no weight.
        A cost of NaN makes the result of its utterance NaN.
      errors: ``[B, N]``, any real type: the errors of each hypothesis, such as those that :func:`edit_distance` counts.
        The loss has no gradient with respect to ``errors``.
      where: ``[B, N]`` booleans: which hypotheses exist. :func:`beam_decode` fills up its list with scores of -inf.
      reduction: "none" gives ``[B]``, "sum" their sum, "mean" their sum divided by B.

    Returns:
      A scalar, or ``[B]`` for "none": float64 for float64 costs, else float32. 0, with a gradient of 0, where an
      utterance has no hypothesis of finite cost.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if a shape does not match, or ``reduction`` is unknown.

    References:
      Prabhavalkar et al., Minimum word error rate training for attention-based sequence-to-sequence models, 2018
      (arXiv:1712.01818). Guo et al., Efficient minimum word error rate training of RNN-transducer for end-to-end speech
      recognition, 2020 (arXiv:2007.13802).

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> costs = -jnp.log(jnp.array([[0.3, 0.1, 0.0]]))  # the third hypothesis has no path
      >>> float(jax_rnnt.decoding.mwer_loss(costs, jnp.array([[0, 2, 9]])))
      0.5
    """
    if reduction not in get_args(_Reduction):
        raise ValueError(f"`reduction` must be one of {get_args(_Reduction)}, got {reduction!r}.")
    x = checks.as_array("costs", costs)
    checks.floating("costs", x)
    checks.rank("costs", x, "B, N")
    wrong = checks.as_array("errors", errors)
    checks.shape("errors", wrong, x.shape, "[B, N], as `costs`")
    wrong = follow_batch(wrong, x)
    x = x.astype(compute_dtype(x.dtype))
    there = x != jnp.inf
    if where is not None:
        mask = checks.as_array("where", where)
        if mask.dtype != bool:
            raise TypeError(f"`where` must be an array of booleans, got {mask.dtype.name}.")
        checks.shape("where", mask, x.shape, "[B, N], as `costs`")
        there &= follow_batch(mask, x)
    # What does not exist is replaced before each operation, because the derivative at inf or NaN would be NaN.
    none = ~jnp.any(there, axis=-1)
    least = jnp.min(jax.lax.stop_gradient(x), axis=-1, keepdims=True, initial=jnp.inf, where=there)
    least = jnp.where(none[:, None], 0, least)
    weights = jnp.where(there, jnp.exp(least - jnp.where(there, x, least)), 0)
    count = jax.lax.stop_gradient(jnp.where(there, wrong.astype(x.dtype), 0))
    expected = jnp.sum(weights * count, axis=-1) / jnp.where(none, 1, jnp.sum(weights, axis=-1))
    if reduction == "none":
        return expected
    return jnp.sum(expected) / (max(x.shape[0], 1) if reduction == "mean" else 1)
