"""The log-probabilities of the arcs of nodes, from any source of logits."""

from collections.abc import Sequence

from jax import Array
from jax.typing import ArrayLike

from jax_rnnt.logits.source import Source
from jax_rnnt.ops import checks
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import resolve_columns, resolve_window
from jax_rnnt.xla.primitive import Implementation, check_implementation


def source_log_probs(
    source: Source,
    labels: ArrayLike,
    columns: Sequence[int] = (-1,),
    *,
    window: tuple[int, int] | None = None,
    implementation: Implementation = None,
) -> Array:
    """:func:`arc_log_probs` of the nodes of a lattice whose logits are a source in place of a dense array.

    With :func:`lattice_posteriors` it gives the posteriors that :func:`prune_ranges` needs, and the cost beside them.

    Args:
      source: :class:`AdditiveLogits`, :class:`PrunedLogits` or :class:`PackedLogits`; it stands for ``[B, T, U+1, W]``.
      labels: ``[B, T, U+1]``, any integer type, the ``labels`` of :func:`node_labels`.
      columns, window, implementation: as in :func:`arc_log_probs`.

    Returns:
      ``[B, T, U+1, K]`` with ``K = len(columns) + 1``: the static columns in their order, then the label. float64 for
      float64 logits, float32 otherwise. It can be differentiated in every mode.

    Raises:
      TypeError, ValueError: as :func:`arc_log_probs`; TypeError also if ``source`` is another one.

    Example:
      >>> import jax.numpy as jnp
      >>> import jax_rnnt
      >>> simple = jax_rnnt.AdditiveLogits(jnp.zeros((1, 3, 5)), jnp.zeros((1, 2, 5)))  # B = 1, T = 3, U = 1, V = 5
      >>> nodes = jax_rnnt.node_labels(jnp.array([[2]]), jnp.array([3]), jnp.array([1]), simple.shape)
      >>> log_probs = jax_rnnt.source_log_probs(simple, nodes.labels)
      >>> cost, posteriors = jax_rnnt.lattice_posteriors(log_probs, nodes.logit_lengths, nodes.target_lengths)
      >>> cost.round(4), posteriors.shape
      (Array([5.3391], dtype=float32), (1, 3, 2, 2))
    """
    check_implementation(implementation)
    if not isinstance(source, Source) or not source.composes:
        raise TypeError(
            "`source` must be AdditiveLogits, PrunedLogits or PackedLogits (arc_log_probs takes arrays), got "
            f"{checks.described(source)}."
        )
    source.check()
    x = checks.as_integers("labels", labels)
    checks.integer("labels", x)
    checks.shape("labels", x, source.shape[:-1], "[B, T, U+1] of `source`")
    width = source.shape[-1]
    parameters = ArcParameters(
        resolve_columns(columns, width, "columns"), width, resolve_window(window, width), implementation
    )
    entries, _ = source.forward(checks.to_int32(x), parameters)
    return entries
