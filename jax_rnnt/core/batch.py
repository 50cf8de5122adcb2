"""The arrays of a batch, checked while tracing and divided over a mesh as the logits are."""

import jax
from jax import Array
from jax.typing import ArrayLike

from jax_rnnt import checks
from jax_rnnt.logits.dense import DenseLogits
from jax_rnnt.logits.source import Source
from jax_rnnt.xla import sharding

Logits = ArrayLike | Source
"""What a loss takes: a dense array ``[B, T, U+1, W]``, or another source of logits."""


def checked_source(name: str, logits: Logits) -> Source:
    source = logits if isinstance(logits, Source) else DenseLogits(checks.as_array(name, logits))
    source._check()
    return source


def checked_batch(
    logits: Logits, targets: ArrayLike, logit_lengths: ArrayLike, target_lengths: ArrayLike, name: str = "logits"
) -> tuple[Source, Array, Array, Array]:
    """The source, and targets and lengths ``[B, U], [B], [B]``, divided over the batch as the logits are.

    ``name`` is that of the argument ``logits``.
    """
    source = checked_source(name, logits)
    labels = checks.as_integers("targets", targets)
    t_b = checks.as_integers("logit_lengths", logit_lengths)
    u_b = checks.as_integers("target_lengths", target_lengths)
    checks.loss_arguments(jax.ShapeDtypeStruct(source.shape, source.dtype), labels, t_b, u_b, name)
    like = source._batched()
    return (
        source,
        sharding.follow_batch(labels, like),
        sharding.follow_batch(t_b, like),
        sharding.follow_batch(u_b, like),
    )


def checked_weights(weights: ArrayLike | None, source: Source, dtype) -> Array | None:
    if weights is None:
        return None
    x = checks.as_array("weights", weights)
    checks.shape("weights", x, (source.shape[0],), "[B]")
    return sharding.follow_batch(x, source._batched()).astype(dtype)
