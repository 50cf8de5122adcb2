"""The pure ``lax`` form of operation 1: the fallback on every platform without kernels, and its derivative."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.ops.labels import PADDING
from jax_rnnt.ops.slices import at, compute_dtype
from jax_rnnt.xla.sharding import may_gather


def _row_state(labels: Array, log_norm: Array, vocabulary: int) -> tuple[Array, Array, Array]:
    """Masks [...] of rows that are padding, that are invalid (their values are NaN), and that have no mass at all."""
    padding = labels == PADDING
    outside = (labels < PADDING) | (labels >= vocabulary)
    invalid = outside | (~padding & ~(log_norm < jnp.inf))
    return padding, invalid, log_norm == -jnp.inf


def places_of_arcs(labels: Array, columns: Sequence[int], offsets: Array | None) -> list[Array]:
    """Where in its row [...] each arc points to: each static column, then the row's own label."""
    places = [jnp.full_like(labels, c) for c in columns] + [labels]
    return places if offsets is None else [p - offsets for p in places]


def _pick(x: Array, place: Array) -> Array:
    """The entry of ``x [..., V]`` in this place; an arbitrary one where that is not in the row."""
    place = jnp.clip(place, 0, x.shape[-1] - 1)[..., None]
    if may_gather(x):
        return jnp.take_along_axis(x, place, axis=-1)[..., 0]
    entry = lax.broadcasted_iota(place.dtype, x.shape, x.ndim - 1)
    return jnp.sum(jnp.where(entry == place, x, 0), axis=-1)


def _dead(labels: Array, columns: Sequence[int], row: Array) -> Array:
    """Mask [..., K] of arcs that do not exist: those of the given rows [...], and labels where there is none."""
    return jnp.stack([row] * len(columns) + [(labels < 0) | row], axis=-1)


def assemble(picks: Sequence[Array], labels: Array, log_norm: Array, columns: Sequence[int], vocabulary: int) -> Array:
    """``log_probs [..., K]`` from the logits [...] that arcs point to and the log-norm [...]."""
    padding, invalid, massless = _row_state(labels, log_norm, vocabulary)
    entries = jnp.stack(picks, axis=-1) - jnp.where(massless, 0, log_norm)[..., None]
    entries = jnp.where(_dead(labels, columns, padding | massless), -jnp.inf, entries)
    return jnp.where(invalid[..., None], jnp.nan, entries)


def arcs_forward(
    logits: Array, labels: Array, *offsets: Array, columns: tuple[int, ...], vocabulary: int, normalize: bool
) -> list[Array]:
    """``log_probs [..., K]`` and ``log_norm [...]``.

    With ``offsets [...]``, rows hold the entries from their offset on of a ``vocabulary`` that is divided over devices;
    arcs that point elsewhere have entries of -inf.
    """
    x = logits.astype(compute_dtype(logits.dtype))  # what stands in padding is masked out of the small arrays below
    log_norm = jax.nn.logsumexp(x, axis=-1) if normalize else jnp.zeros_like(at(x, 0))
    if offsets:
        places = places_of_arcs(labels, columns, offsets[0])
        picks = [jnp.where((p >= 0) & (p < x.shape[-1]), _pick(x, p), -jnp.inf) for p in places]
    else:
        picks = [*(at(x, c) for c in columns), _pick(x, labels)]
    log_probs = assemble(picks, labels, log_norm, columns, vocabulary)
    return [log_probs, jnp.where(labels == PADDING, 0, log_norm)]


def softmax(logits: Array, labels: Array, log_norm: Array, vocabulary: int, normalize: bool) -> Array:
    """``exp(logits - log_norm)``, 0 in padding and in rows without mass; 0 everywhere if rows are not normalised."""
    if not normalize:
        return jnp.zeros(logits.shape, compute_dtype(logits.dtype))
    padding, invalid, massless = _row_state(labels, log_norm, vocabulary)
    p = jnp.exp(logits.astype(log_norm.dtype) - jnp.where(massless, 0, log_norm)[..., None])
    constant = jnp.where(invalid, jnp.nan, 0).astype(log_norm.dtype)
    return jnp.where((padding | invalid | massless)[..., None], constant[..., None], p)


def arcs_tangent(
    tangent: Array,
    logits: Array,
    labels: Array,
    log_norm: Array,
    *,
    columns: tuple[int, ...],
    vocabulary: int,
    normalize: bool,
) -> list[Array]:
    """Tangents of ``log_probs`` and ``log_norm``, linear in ``tangent [..., V]``, the tangent of ``logits``."""
    padding, invalid, massless = _row_state(labels, log_norm, vocabulary)
    dx = jnp.where(padding[..., None], 0, tangent.astype(log_norm.dtype))
    d_norm = jnp.sum(softmax(logits, labels, log_norm, vocabulary, normalize) * dx, axis=-1)
    d_entries = jnp.stack([*(at(dx, c) for c in columns), _pick(dx, labels)], axis=-1) - d_norm[..., None]
    d_log_probs = jnp.where(_dead(labels, columns, padding | massless), 0, d_entries)
    return [jnp.where(invalid[..., None], jnp.nan, d_log_probs), d_norm]


def arcs_backward(
    logits: Array,
    labels: Array,
    log_norm: Array,
    cotangent: Array,
    *optional: Array,
    columns: tuple[int, ...],
    vocabulary: int,
    normalize: bool,
    clipped: bool,
) -> list[Array]:
    """``d logits [..., V]`` from ``cotangent [..., K]``.

    ``optional`` holds, if the gradient is ``clipped``, the limit of each row's elements ``[...]``; then, if the
    vocabulary is divided, the ``offsets [...]`` of :func:`arcs_forward`.
    """
    offsets = optional[1 if clipped else 0 :]
    padding, invalid, massless = _row_state(labels, log_norm, vocabulary)
    ct = jnp.where(_dead(labels, columns, padding | massless), 0, cotangent)
    x = logits.astype(log_norm.dtype)
    shift = jnp.where(massless, 0, log_norm)
    scale = -jnp.sum(ct, axis=-1) if normalize else jnp.zeros_like(log_norm)
    grad = scale[..., None] * jnp.exp(x - shift[..., None]) if normalize else jnp.zeros_like(x)
    # Entries that an arc points to are computed apart and selected: sums of arrays of the size of the logits would each
    # be written to memory by XLA's CPU backend.
    entry = lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    places = places_of_arcs(labels, columns, *(offsets or (None,)))
    for place in places:
        own = scale * jnp.exp(_pick(x, place) - shift) if normalize else jnp.zeros_like(scale)
        for k, other in enumerate(places):
            own = own + jnp.where(other == place, at(ct, k), 0)
        grad = jnp.where(entry == place[..., None], own[..., None], grad)
    if clipped:
        grad = jnp.clip(grad, -optional[0][..., None], optional[0][..., None])
    constant = jnp.where(invalid, jnp.nan, 0).astype(x.dtype)
    grad = jnp.where((padding | invalid | massless)[..., None], constant[..., None], grad)
    return [grad.astype(logits.dtype)]
