"""The pure ``lax`` form of operation 1: the fallback on every platform without kernels, and its derivative.

With ``fuses`` it is the form for TPUs. There XLA fuses a sum with what it adds up, while a gather needs its whole
operand in memory, in float32. So that form gathers nothing: masks and sums take the place of the gathers.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.ops.dtypes import compute_dtype
from jax_rnnt.ops.labels import NO_LABEL, PADDING, Window


def norm_of(x: Array) -> Array:
    """The norms ``[..., 2]`` of rows ``[..., V]``: top, the maximum, and log_sum, the log of the sum of exp(x - top).

    As one number, top + log_sum would be rounded to the size of the logits. The entries of a row that is sure are much
    smaller than that.
    """
    top = jnp.max(x, axis=-1)
    each = jnp.exp(x - _finite_top(top)[..., None])
    total = jnp.sum(each, axis=-1)
    # In a row that is sure, the sum of the others is small, and `total` has lost its digits. Only one entry is 1 there.
    # XLA may compute `x - top` from what `x` was made of, rounded once less. Then exp of it is not 1 at the maximum.
    rest = jnp.sum(jnp.where(x == top[..., None], 0, each), axis=-1)
    log_sum = jnp.log1p(jnp.where(total < 1.5, rest, total - 1))
    # On a CPU, XLA's maximum may be -inf where a row holds NaN. Then log_sum must show it.
    return jnp.stack([top, jnp.where(total == 0, 0, log_sum)], axis=-1)


def normalised(x: Array, norm: Array) -> Array:
    """``x [...]`` minus the log-norm. Where a row has no mass, ``x`` as it is."""
    return (x - _finite_top(norm[..., 0])) - norm[..., 1]


def _finite_top(top: Array) -> Array:
    return jnp.where(top == -jnp.inf, 0, top)


def _row_state(labels: Array, norm: Array, vocabulary: int) -> tuple[Array, Array, Array]:
    """Masks [...] of rows of padding, of invalid rows (their values are NaN), of rows whose window has no mass."""
    padding = labels == PADDING
    outside = (labels < PADDING) | (labels >= vocabulary)
    top, log_sum = norm[..., 0], norm[..., 1]
    invalid = outside | (~padding & ~(top + log_sum < jnp.inf))
    return padding, invalid, top == -jnp.inf


def places_of_arcs(labels: Array, columns: Sequence[int], offset: Array) -> list[Array]:
    """The place in its row [...] that each arc points to: each static column, then the row's own label."""
    return [p - offset for p in [*(jnp.full_like(labels, c) for c in columns), labels]]


def _pick(x: Array, place: Array, fuses: bool) -> Array:
    """The entry of ``x [..., V]`` at this place; an arbitrary number if the place is outside the row."""
    if fuses:
        return jnp.sum(jnp.where(_entry_of(x) == place[..., None], x, 0), axis=-1)
    return jnp.take_along_axis(x, jnp.clip(place, 0, x.shape[-1] - 1)[..., None], axis=-1)[..., 0]


def _pick_each(x: Array, labels: Array, columns: Sequence[int], fuses: bool) -> list[Array]:
    """The entries of ``x [..., V]`` that arcs point to."""
    # On TPUs a slice of one column is a pass of its own over all rows.
    each = [_pick(x, jnp.full_like(labels, c), fuses) if fuses else x[..., c] for c in columns]
    return [*each, _pick(x, labels, fuses)]


def _entry_of(x: Array) -> Array:
    """The place in its row of each entry of ``x [..., V]``."""
    return lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)


def _inside(entry: Array, window: Window) -> Array:
    return (entry >= window[0]) & (entry < window[1])


def _entries_inside(x: Array, offset: Array, vocabulary: int, window: Window) -> Array | None:
    """Mask [..., V] of the entries in the window; None if it is the whole vocabulary."""
    if window == (0, vocabulary):
        return None
    return _inside(_entry_of(x) + offset[..., None], window)


def _arcs_inside(labels: Array, columns: Sequence[int], window: Window) -> Array:
    """Mask [..., K] of the arcs that point into the window."""
    return _inside(jnp.stack(places_of_arcs(labels, columns, jnp.zeros_like(labels)), axis=-1), window)


def _exp_inside(x: Array, inside: Array | None) -> Array:
    """``exp(x)`` inside the window, 0 outside. Derivatives must not see that ``x`` overflows outside."""
    return jnp.exp(x if inside is None else jnp.where(inside, x, -jnp.inf))


def _existing(labels: Array, columns: Sequence[int]) -> Array:
    """Mask [..., K] of arcs that exist. The label's arc does not exist in a row without a label."""
    return jnp.stack([jnp.ones_like(labels, bool)] * len(columns) + [labels != NO_LABEL], axis=-1)


def _moving(labels: Array, norm: Array, columns: Sequence[int], vocabulary: int, window: Window) -> Array:
    """Mask [..., K] of arcs whose entries depend on the logits: they exist, and their window has mass."""
    padding, _, massless = _row_state(labels, norm, vocabulary)
    still = padding[..., None] | (massless[..., None] & _arcs_inside(labels, columns, window))
    return _existing(labels, columns) & ~still


def assemble(
    picks: Sequence[Array], labels: Array, norm: Array, columns: Sequence[int], vocabulary: int, window: Window
) -> Array:
    """``log_probs [..., K]`` from the logits [...] that arcs point to and the norm [..., 2]."""
    _, invalid, _ = _row_state(labels, norm, vocabulary)
    raw = jnp.stack(picks, axis=-1)
    entries = jnp.where(_arcs_inside(labels, columns, window), normalised(raw, norm[..., None, :]), raw)
    entries = jnp.where(_moving(labels, norm, columns, vocabulary, window), entries, -jnp.inf)
    return jnp.where(invalid[..., None], jnp.nan, entries)


def arcs_forward(
    logits: Array,
    labels: Array,
    *offsets: Array,
    columns: tuple[int, ...],
    vocabulary: int,
    window: Window,
    fuses: bool = False,
) -> list[Array]:
    """``log_probs [..., K]`` and ``norm [..., 2]``.

    With ``offsets [...]``, rows hold the entries from their offset on of a ``vocabulary`` that is divided over devices;
    arcs that point elsewhere have entries of -inf.
    """
    offset = offsets[0] if offsets else jnp.zeros_like(labels)
    x = logits.astype(compute_dtype(logits.dtype))  # padding is masked in the small arrays below
    if window[0] < window[1]:
        inside = _entries_inside(x, offset, vocabulary, window)
        norm = norm_of(x if inside is None else jnp.where(inside, x, -jnp.inf))
    else:
        norm = jnp.stack([jnp.zeros_like(x[..., 0])] * 2, axis=-1)
    if offsets:
        places = places_of_arcs(labels, columns, offset)
        picks = [jnp.where((p >= 0) & (p < x.shape[-1]), _pick(x, p, fuses), -jnp.inf) for p in places]
    else:
        picks = _pick_each(x, labels, columns, fuses)
    log_probs = assemble(picks, labels, norm, columns, vocabulary, window)
    return [log_probs, jnp.where((labels == PADDING)[..., None], 0, norm)]


def softmax(logits: Array, labels: Array, norm: Array, vocabulary: int, window: Window) -> Array:
    """The probabilities of the entries in the window, 0 outside of it, in padding and in rows without mass."""
    padding, invalid, massless = _row_state(labels, norm, vocabulary)
    inside = _entries_inside(logits, jnp.zeros_like(labels), vocabulary, window)
    p = _exp_inside(normalised(logits.astype(norm.dtype), norm[..., None, :]), inside)
    constant = jnp.where(invalid, jnp.nan, 0).astype(norm.dtype)
    return jnp.where((padding | invalid | massless)[..., None], constant[..., None], p)


def arcs_tangent(
    tangent: Array,
    logits: Array,
    labels: Array,
    norm: Array,
    *,
    columns: tuple[int, ...],
    vocabulary: int,
    window: Window,
    fuses: bool = False,
) -> list[Array]:
    """Tangents of ``log_probs`` and ``norm``, linear in ``tangent [..., V]``, the tangent of ``logits``.

    Every result that is computed from the norm depends only on top + log_sum. So top may count as a constant.
    """
    padding, invalid, _ = _row_state(labels, norm, vocabulary)
    dx = jnp.where(padding[..., None], 0, tangent.astype(norm.dtype))
    d_norm = jnp.zeros_like(norm[..., 1])
    if window[0] < window[1]:
        d_norm = jnp.sum(softmax(logits, labels, norm, vocabulary, window) * dx, axis=-1)
    d_entries = jnp.stack(_pick_each(dx, labels, columns, fuses), axis=-1)
    d_entries = d_entries - jnp.where(_arcs_inside(labels, columns, window), d_norm[..., None], 0)
    d_log_probs = jnp.where(_moving(labels, norm, columns, vocabulary, window), d_entries, 0)
    return [jnp.where(invalid[..., None], jnp.nan, d_log_probs), jnp.stack([jnp.zeros_like(d_norm), d_norm], axis=-1)]


def arcs_backward(
    logits: Array,
    labels: Array,
    norm: Array,
    cotangent: Array,
    *optional: Array,
    columns: tuple[int, ...],
    vocabulary: int,
    window: Window,
    clipped: bool,
    fuses: bool = False,
) -> list[Array]:
    """``d logits [..., V]`` from ``cotangent [..., K]``; exactly 0 for a row whose cotangents are 0, even a row of NaN.

    ``optional`` holds, if the gradient is ``clipped``, the limit of each row's elements ``[...]``; then, if the
    vocabulary is divided, the ``offsets [...]`` of :func:`arcs_forward`.
    """
    *_, offset = jnp.zeros_like(labels), *optional[1 if clipped else 0 :]
    normalizes = window[0] < window[1]
    padding, invalid, massless = _row_state(labels, norm, vocabulary)
    moving = _moving(labels, norm, columns, vocabulary, window) & ~invalid[..., None]
    ct = jnp.where(moving, cotangent, 0)
    arcs_inside = _arcs_inside(labels, columns, window)
    x = logits.astype(norm.dtype)
    alive = ~(padding | invalid)
    # The gradient is scale * exp(x - top): the sum of the row is a part of the factor.
    one_over_sum = jnp.exp(-jnp.where(alive & ~massless, norm[..., 1], 0))
    scale = -jnp.sum(jnp.where(arcs_inside, ct, 0), axis=-1) * one_over_sum
    top = _finite_top(norm[..., 0])
    if normalizes:
        mask = _entries_inside(x, offset, vocabulary, window)
        inside = alive[..., None] if mask is None else mask & alive[..., None]
        grad = jnp.where(inside, scale[..., None] * _exp_inside(x - top[..., None], inside), 0)
    else:
        grad = jnp.zeros_like(x)
    entry, places = _entry_of(x), places_of_arcs(labels, columns, offset)
    if fuses:
        grad = grad + sum(jnp.where(entry == p[..., None], ct[..., k, None], 0) for k, p in enumerate(places))
    else:
        # The entries that arcs point to are computed separately and then selected. The CPU backend of XLA would write
        # every sum of arrays as large as the logits to memory.
        for j, place in enumerate(places):
            own = jnp.zeros_like(scale)
            for k, other in enumerate(places):
                own = own + jnp.where(other == place, ct[..., k], 0)
            if normalizes:
                inside = arcs_inside[..., j] & alive
                own = own + jnp.where(inside, scale * _exp_inside(_pick(x, place, False) - top, inside), 0)
            grad = jnp.where(entry == place[..., None], own[..., None], grad)
    if clipped:
        grad = jnp.clip(grad, -optional[0][..., None], optional[0][..., None])
    asked = jnp.any(_existing(labels, columns) & (cotangent != 0), axis=-1)
    return [jnp.where((invalid & asked)[..., None], jnp.nan, grad).astype(logits.dtype)]
