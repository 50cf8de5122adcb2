"""The definition of the loss in float64 numpy. Tests compare every implementation with it.

It shares no code with the library. It has two forms of the lattice. `lattice` is the recursion in logs over
anti-diagonals. It takes any moves and is fast enough for T = 1500. `exact_lattice` lists every path of a tiny
lattice and adds their probabilities. test_reference.py compares them with each other and with finite differences.

A lattice of T_b frames and U_b labels has the nodes (t, u) with 0 <= t < T_b and 0 <= u <= U_b, and the end (T_b, U_b).
Arc k of node (t, u) leads to (t + dt_k, u + du_k). If this is neither a node nor the end, the arc does not exist.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

Moves = tuple[tuple[int, int], ...]
Window = tuple[int, int]
RNNT: Moves = ((1, 0), (0, 1))
MONOTONIC: Moves = ((1, 0), (1, 1))
MULTI_BLANK: Moves = ((1, 0), (2, 0), (4, 0), (0, 1))
TDT: Moves = ((1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 1), (3, 1))  # durations 0 to 3; a blank takes at least 1


# --- operation 1: log-probabilities of the arcs that leave a row of logits --------------------------------------------


def log_normaliser(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits))) over the last axis.

    It is NaN if a logit is NaN or +inf, and -inf if all logits are -inf.
    """
    x = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):
        top = np.max(x, axis=-1)
        shift = np.where(np.isfinite(top), top, 0.0)
        total = np.sum(np.exp(x - shift[..., None]), axis=-1)
    with np.errstate(divide="ignore"):
        norm = np.log(total) + shift
    return np.where(np.isposinf(top) | np.isnan(top), np.nan, norm)


def window_normaliser(logits: np.ndarray, window: Window | None) -> np.ndarray:
    """`log_normaliser` of the entries first, ..., stop - 1, or of all entries (None).

    Without entries it is 0: nothing is normalised.
    """
    first, stop = window or (0, logits.shape[-1])
    return log_normaliser(logits[..., first:stop]) if first < stop else np.zeros(logits.shape[:-1])


def softmax(logits: np.ndarray, window: Window | None = None) -> np.ndarray:
    """exp(logits - norm) in the window, and 0 elsewhere. A window of only -inf has no mass, so its entries are 0."""
    x = np.asarray(logits, np.float64)
    first, stop = window or (0, x.shape[-1])
    norm = window_normaliser(x, window)[..., None]
    y = np.zeros(x.shape)
    with np.errstate(invalid="ignore"):
        y[..., first:stop] = np.exp(np.where(np.isneginf(norm), -np.inf, x[..., first:stop] - norm))
    return y


def arc_log_probs(
    logits: np.ndarray, labels: np.ndarray, columns: tuple[int, ...], window: Window | None = None
) -> np.ndarray:
    """Log-probabilities [..., K] of the static columns, then of the row's label (-1: none, -2: the row is padding).

    An entry in the window is the logit minus the window's log-normaliser. Another entry is the logit.
    """
    x = np.asarray(logits, np.float64)
    labels = np.asarray(labels)
    vocabulary = x.shape[-1]
    first, stop = window or (0, vocabulary)
    norm = window_normaliser(x, window)
    y = x.copy()
    with np.errstate(invalid="ignore"):
        y[..., first:stop] = np.where(np.isneginf(norm)[..., None], -np.inf, x[..., first:stop] - norm[..., None])
    known = (labels >= 0) & (labels < vocabulary)
    of_label = np.take_along_axis(y, np.where(known, labels, 0)[..., None], -1)
    out = np.concatenate([y[..., list(columns)], np.where(known[..., None], of_label, -np.inf)], -1)
    out[~known & (labels != -1) | np.isnan(norm)] = np.nan
    out[labels == -2] = -np.inf
    return out


def arc_gradient(
    logits: np.ndarray,
    labels: np.ndarray,
    columns: tuple[int, ...],
    cotangent: np.ndarray,
    window: Window | None = None,
) -> np.ndarray:
    """[..., V]: sum_k ct[k] * (1[v is arc k's column] - 1[both in the window] * p[v]), over the arcs that exist.

    A row whose cotangents are all 0 has a gradient of exactly 0, even if it holds NaN.
    """
    vocabulary = logits.shape[-1]
    first, stop = window or (0, vocabulary)
    gradient = np.zeros(logits.shape)
    norm, probabilities = window_normaliser(logits, window), softmax(logits, window)
    for row in np.ndindex(*labels.shape):
        label = int(labels[row])
        taken = [c % vocabulary for c in columns] + ([label] if label != -1 else [])
        if label == -2 or not np.any(cotangent[row][: len(taken)]):
            continue
        if not -1 <= label < vocabulary or np.isnan(norm[row]):
            gradient[row] = np.nan
            continue
        for k, column in enumerate(taken):
            inside = first <= column < stop
            if inside and np.isneginf(norm[row]):
                continue
            gradient[row][column] += cotangent[row][k]
            if inside:
                gradient[row] -= cotangent[row][k] * probabilities[row]
    return gradient


# --- operation 2: the lattice -----------------------------------------------------------------------------------------


def _weights(log_probs: np.ndarray, frames: int, labels: int, moves: Moves) -> np.ndarray:
    """[T_b + 1, U_b + 1, K]: the log-probability of each arc that exists, -inf for all others."""
    w = np.full((frames + 1, labels + 1, len(moves)), -np.inf)
    w[:frames] = log_probs[:frames, : labels + 1]
    t, u = np.meshgrid(np.arange(frames + 1), np.arange(labels + 1), indexing="ij")
    for k, (dt, du) in enumerate(moves):
        to_node = (t + dt < frames) & (u + du <= labels)
        to_end = (t + dt == frames) & (u + du == labels)
        w[..., k] = np.where(to_node | to_end, w[..., k], -np.inf)
    return w


def _in_range(log_probs: np.ndarray, frames: int, labels: int) -> bool:
    return 0 <= frames <= log_probs.shape[0] and 0 <= labels <= log_probs.shape[1] - 1


def lattice(log_probs: np.ndarray, frames: int, labels: int, moves: Moves = RNNT) -> tuple[float, np.ndarray]:
    """The cost of one example [T, U+1, K] and the posterior of each arc, by the recursion over anti-diagonals."""
    log_probs = np.asarray(log_probs, np.float64)
    frames, labels = int(frames), int(labels)
    posteriors = np.zeros(log_probs.shape)
    if not _in_range(log_probs, frames, labels):
        return np.nan, np.full(log_probs.shape, np.nan)
    w = _weights(log_probs, frames, labels, moves)
    if np.isnan(w).any() or np.isposinf(w).any():
        posteriors[:frames, : labels + 1] = np.nan
        return np.nan, posteriors
    # A margin of -inf, as wide as the longest move, stands for everything outside the lattice.
    pad_t, pad_u = max(dt for dt, _ in moves), max(du for _, du in moves)
    alpha = np.full((pad_t + frames + 1, pad_u + labels + 1), -np.inf)
    beta = np.full((frames + 1 + pad_t, labels + 1 + pad_u), -np.inf)
    w_alpha = np.pad(w, ((pad_t, 0), (pad_u, 0), (0, 0)), constant_values=-np.inf)
    alpha[pad_t, pad_u] = 0.0
    beta[frames, labels] = 0.0
    last = frames + labels
    for n in range(1, last + 1):
        t = np.arange(max(0, n - labels), min(n, frames) + 1)
        source = [(t + pad_t - dt, n - t + pad_u - du) for dt, du in moves]
        terms = [alpha[s] + w_alpha[(*s, k)] for k, s in enumerate(source)]
        alpha[t + pad_t, n - t + pad_u] = np.logaddexp.reduce(terms, axis=0)
    for n in range(last - 1, -1, -1):
        t = np.arange(max(0, n - labels), min(n, frames) + 1)
        terms = [w[t, n - t, k] + beta[t + dt, n - t + du] for k, (dt, du) in enumerate(moves)]
        beta[t, n - t] = np.logaddexp.reduce(terms, axis=0)
    log_likelihood = alpha[pad_t + frames, pad_u + labels]
    if log_likelihood == -np.inf:
        return np.inf, posteriors
    for k, (dt, du) in enumerate(moves):
        after = beta[dt : dt + frames, du : du + labels + 1]
        before = alpha[pad_t : pad_t + frames, pad_u:]
        posteriors[:frames, : labels + 1, k] = np.exp(before + w[:frames, :, k] + after - log_likelihood)
    return 0.0 - log_likelihood, posteriors


def paths(
    frames: int, labels: int, moves: Moves, node: tuple[int, int] = (0, 0)
) -> Iterator[list[tuple[int, int, int]]]:
    """Yields every path from `node` to the end (frames, labels), as the list of its arcs (t, u, k)."""
    t, u = node
    if node == (frames, labels):
        yield []
    elif t < frames and u <= labels:
        for k, (dt, du) in enumerate(moves):
            for rest in paths(frames, labels, moves, (t + dt, u + du)):
                yield [(t, u, k), *rest]


def exact_lattice(log_probs: np.ndarray, frames: int, labels: int, moves: Moves) -> tuple[float, np.ndarray]:
    """`lattice` for tiny sizes, and for arcs of any size. It adds up the paths one by one.

    It adds and compares the scores of paths as fractions. In floats a mask of -1e30 would swallow the difference
    between two paths. The cost may be larger than any float32.
    """
    posteriors = np.zeros(np.shape(log_probs))
    scored = [
        (sum(Fraction(float(log_probs[arc])) for arc in path), path)
        for path in paths(frames, labels, moves)
        if all(np.isfinite(log_probs[arc]) for arc in path)
    ]
    if not scored:
        return np.inf, posteriors
    top = max(score for score, _ in scored)
    total = 0.0
    for score, path in scored:
        probability = float(np.exp(max(float(score - top), -1000.0)))
        total += probability
        for arc in path:
            posteriors[arc] += probability
    return 0.0 - (float(top) + np.log(total)), posteriors / total


def lattice_cost(log_probs, frames, labels, moves: Moves = RNNT) -> tuple[np.ndarray, np.ndarray]:
    """`lattice` for a batch [B, T, U+1, K]. Returns costs [B] and posteriors [B, T, U+1, K]."""
    costs, posteriors = np.zeros(len(log_probs)), np.zeros(np.shape(log_probs))
    for b in range(len(log_probs)):
        costs[b], posteriors[b] = lattice(log_probs[b], frames[b], labels[b], moves)
    return costs, posteriors


# --- the loss ---------------------------------------------------------------------------------------------------------


def rnnt_example(logits, targets, frames, labels, blank=-1, clamp=-1.0, fused=True) -> tuple[float, np.ndarray]:
    """The cost of one example (logits [T, U+1, V], targets [U]) and its gradient, for a cotangent of 1.

    If the gradient of log-probabilities (`fused=False`) is NaN, only the entries that are read are NaN. The contract
    leaves open whether the others are 0 or NaN.
    """
    x = np.asarray(logits, np.float64)
    t_size, u_size, vocabulary = x.shape
    frames, labels = int(frames), int(labels)
    blank = blank % vocabulary
    if not _in_range(x, frames, labels):
        return np.nan, np.full(x.shape, np.nan)
    real = [int(label) for label in targets[:labels]]
    if any(not 0 <= label < vocabulary or label == blank for label in real):
        return np.nan, np.full(x.shape, np.nan)
    node_labels = np.full((t_size, u_size), -2)
    node_labels[:frames, : labels + 1] = [*real, -1]
    log_probs = arc_log_probs(x, node_labels, (blank,), None if fused else (0, 0))
    cost, posteriors = lattice(log_probs, frames, labels)
    gradient = np.zeros(x.shape)
    inside = x[:frames, : labels + 1]
    if fused:
        with np.errstate(invalid="ignore"):
            gradient[:frames, : labels + 1] = softmax(inside) * posteriors[:frames, : labels + 1].sum(-1, keepdims=True)
    gradient[..., blank] -= posteriors[..., 0]
    for u, label in enumerate(real):
        gradient[:, u, label] -= posteriors[:, u, 1]
    if clamp > 0:
        gradient = np.clip(gradient, -clamp, clamp)
    return cost, gradient


def rnnt_loss(
    logits, targets, logit_lengths, target_lengths, blank=-1, clamp=-1.0, fused=True
) -> tuple[np.ndarray, np.ndarray]:
    """The costs [B] of a batch and their gradients [B, T, U+1, V], for cotangents of 1."""
    costs, gradients = np.zeros(len(logits)), np.zeros(np.shape(logits))
    for b in range(len(logits)):
        costs[b], gradients[b] = rnnt_example(
            logits[b], targets[b], logit_lengths[b], target_lengths[b], blank, clamp, fused
        )
    return costs, gradients
