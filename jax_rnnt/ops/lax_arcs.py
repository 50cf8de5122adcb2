"""The pure ``lax`` form of operation 1: the fallback on every platform without kernels, and its derivative."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.ops.dtypes import at, compute_dtype
from jax_rnnt.ops.labels import NO_LABEL, PADDING, Window
from jax_rnnt.xla.sharding import may_gather


def _row_state(labels: Array, log_norm: Array, vocabulary: int) -> tuple[Array, Array, Array]:
    """Masks [...] of rows of padding, of invalid rows (their values are NaN), of rows whose window has no mass."""
    padding = labels == PADDING
    outside = (labels < PADDING) | (labels >= vocabulary)
    invalid = outside | (~padding & ~(log_norm < jnp.inf))
    return padding, invalid, log_norm == -jnp.inf


def places_of_arcs(labels: Array, columns: Sequence[int], offset: Array) -> list[Array]:
    """The place in its row [...] that each arc points to: each static column, then the row's own label."""
    return [p - offset for p in [*(jnp.full_like(labels, c) for c in columns), labels]]


def _pick(x: Array, place: Array) -> Array:
    """The entry of ``x [..., V]`` at this place; an arbitrary entry if the place is outside the row."""
    place = jnp.clip(place, 0, x.shape[-1] - 1)[..., None]
    if may_gather(x):
        return jnp.take_along_axis(x, place, axis=-1)[..., 0]
    entry = lax.broadcasted_iota(place.dtype, x.shape, x.ndim - 1)
    return jnp.sum(jnp.where(entry == place, x, 0), axis=-1)


def _inside(entry: Array, window: Window) -> Array:
    return (entry >= window[0]) & (entry < window[1])


def _entries_inside(x: Array, offset: Array, vocabulary: int, window: Window) -> Array | None:
    """Mask [..., V] of the entries in the window; None if it is the whole vocabulary."""
    if window == (0, vocabulary):
        return None
    entry = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return _inside(entry + offset[..., None], window)


def _arcs_inside(labels: Array, columns: Sequence[int], window: Window) -> Array:
    """Mask [..., K] of the arcs that point into the window."""
    return _inside(jnp.stack(places_of_arcs(labels, columns, jnp.zeros_like(labels)), axis=-1), window)


def _exp_inside(x: Array, log_norm: Array, inside: Array | None) -> Array:
    """``exp(x - log_norm)`` inside the window, 0 outside. Derivatives must not see that ``x`` overflows outside."""
    shifted = x - jnp.where(log_norm == -jnp.inf, 0, log_norm)
    return jnp.exp(shifted if inside is None else jnp.where(inside, shifted, -jnp.inf))


def _existing(labels: Array, columns: Sequence[int]) -> Array:
    """Mask [..., K] of arcs that exist. The label's arc does not exist in a row without a label."""
    return jnp.stack([jnp.ones_like(labels, bool)] * len(columns) + [labels != NO_LABEL], axis=-1)


def _moving(labels: Array, log_norm: Array, columns: Sequence[int], vocabulary: int, window: Window) -> Array:
    """Mask [..., K] of arcs whose entries depend on the logits: they exist, and their window has mass."""
    padding, _, massless = _row_state(labels, log_norm, vocabulary)
    still = padding[..., None] | (massless[..., None] & _arcs_inside(labels, columns, window))
    return _existing(labels, columns) & ~still


def assemble(
    picks: Sequence[Array], labels: Array, log_norm: Array, columns: Sequence[int], vocabulary: int, window: Window
) -> Array:
    """``log_probs [..., K]`` from the logits [...] that arcs point to and the log-norm [...]."""
    _, invalid, massless = _row_state(labels, log_norm, vocabulary)
    norm = jnp.where(massless, 0, log_norm)[..., None]
    entries = jnp.stack(picks, axis=-1) - jnp.where(_arcs_inside(labels, columns, window), norm, 0)
    entries = jnp.where(_moving(labels, log_norm, columns, vocabulary, window), entries, -jnp.inf)
    return jnp.where(invalid[..., None], jnp.nan, entries)


def arcs_forward(
    logits: Array, labels: Array, *offsets: Array, columns: tuple[int, ...], vocabulary: int, window: Window
) -> list[Array]:
    """``log_probs [..., K]`` and ``log_norm [...]``.

    With ``offsets [...]``, rows hold the entries from their offset on of a ``vocabulary`` that is divided over devices;
    arcs that point elsewhere have entries of -inf.
    """
    offset = offsets[0] if offsets else jnp.zeros_like(labels)
    x = logits.astype(compute_dtype(logits.dtype))  # padding is masked in the small arrays below
    if window[0] < window[1]:
        inside = _entries_inside(x, offset, vocabulary, window)
        log_norm = jax.nn.logsumexp(x if inside is None else jnp.where(inside, x, -jnp.inf), axis=-1)
    else:
        log_norm = jnp.zeros_like(at(x, 0))
    if offsets:
        places = places_of_arcs(labels, columns, offset)
        picks = [jnp.where((p >= 0) & (p < x.shape[-1]), _pick(x, p), -jnp.inf) for p in places]
    else:
        picks = [*(at(x, c) for c in columns), _pick(x, labels)]
    log_probs = assemble(picks, labels, log_norm, columns, vocabulary, window)
    return [log_probs, jnp.where(labels == PADDING, 0, log_norm)]


def softmax(logits: Array, labels: Array, log_norm: Array, vocabulary: int, window: Window) -> Array:
    """``exp(logits - log_norm)`` in the window, 0 outside of it, in padding and in rows without mass."""
    padding, invalid, massless = _row_state(labels, log_norm, vocabulary)
    inside = _entries_inside(logits, jnp.zeros_like(labels), vocabulary, window)
    p = _exp_inside(logits.astype(log_norm.dtype), log_norm[..., None], inside)
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
    window: Window,
) -> list[Array]:
    """Tangents of ``log_probs`` and ``log_norm``, linear in ``tangent [..., V]``, the tangent of ``logits``."""
    padding, invalid, _ = _row_state(labels, log_norm, vocabulary)
    dx = jnp.where(padding[..., None], 0, tangent.astype(log_norm.dtype))
    d_norm = jnp.zeros_like(log_norm)
    if window[0] < window[1]:
        d_norm = jnp.sum(softmax(logits, labels, log_norm, vocabulary, window) * dx, axis=-1)
    d_entries = jnp.stack([*(at(dx, c) for c in columns), _pick(dx, labels)], axis=-1)
    d_entries = d_entries - jnp.where(_arcs_inside(labels, columns, window), d_norm[..., None], 0)
    d_log_probs = jnp.where(_moving(labels, log_norm, columns, vocabulary, window), d_entries, 0)
    return [jnp.where(invalid[..., None], jnp.nan, d_log_probs), d_norm]


def arcs_backward(
    logits: Array,
    labels: Array,
    log_norm: Array,
    cotangent: Array,
    *optional: Array,
    columns: tuple[int, ...],
    vocabulary: int,
    window: Window,
    clipped: bool,
) -> list[Array]:
    """``d logits [..., V]`` from ``cotangent [..., K]``; exactly 0 for a row whose cotangents are 0, even a row of NaN.

    ``optional`` holds, if the gradient is ``clipped``, the limit of each row's elements ``[...]``; then, if the
    vocabulary is divided, the ``offsets [...]`` of :func:`arcs_forward`.
    """
    *_, offset = jnp.zeros_like(labels), *optional[1 if clipped else 0 :]
    normalizes = window[0] < window[1]
    padding, invalid, _ = _row_state(labels, log_norm, vocabulary)
    moving = _moving(labels, log_norm, columns, vocabulary, window) & ~invalid[..., None]
    ct = jnp.where(moving, cotangent, 0)
    arcs_inside = _arcs_inside(labels, columns, window)
    x = logits.astype(log_norm.dtype)
    scale = -jnp.sum(jnp.where(arcs_inside, ct, 0), axis=-1)
    alive = ~(padding | invalid)
    if normalizes:
        mask = _entries_inside(x, offset, vocabulary, window)
        inside = alive[..., None] if mask is None else mask & alive[..., None]
        grad = jnp.where(inside, scale[..., None] * _exp_inside(x, log_norm[..., None], inside), 0)
    else:
        grad = jnp.zeros_like(x)
    # The entries that arcs point to are computed separately and then selected. The CPU backend of XLA would write every
    # sum of arrays as large as the logits to memory.
    entry = lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    places = places_of_arcs(labels, columns, offset)
    for j, place in enumerate(places):
        own = jnp.zeros_like(scale)
        if normalizes:
            inside = at(arcs_inside, j) & alive
            own = jnp.where(inside, scale * _exp_inside(_pick(x, place), log_norm, inside), 0)
        for k, other in enumerate(places):
            own = own + jnp.where(other == place, at(ct, k), 0)
        grad = jnp.where(entry == place[..., None], own[..., None], grad)
    if clipped:
        grad = jnp.clip(grad, -optional[0][..., None], optional[0][..., None])
    asked = jnp.any(_existing(labels, columns) & (cotangent != 0), axis=-1)
    return [jnp.where((invalid & asked)[..., None], jnp.nan, grad).astype(logits.dtype)]
