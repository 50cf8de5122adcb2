"""The losses of two models by their definition, node by node in float64: values, and the gradient of the student.

A row stands for distributions over classes: log-probabilities, and their derivatives by the row. HAT's row is one
distribution over the blank and the labels, so the definition does not use the chain rule. Only where the labels of a
side have no mass are its blank and its labels two distributions.
"""

import numpy as np
from reference_losses import Hat, Rnnt, Tdt

INF, NAN = np.inf, np.nan


def _log_sum(x: np.ndarray) -> float:
    top = x.max()
    return top if top == -INF else top + np.log(np.exp(x - top).sum())


def _softmax(x: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the entries inside, and their derivatives by all entries."""
    norm = _log_sum(x[inside])
    log_p = np.where(inside, x - (0 if norm == -INF else norm), -INF)
    return log_p[inside], (np.eye(len(x)) - np.exp(log_p)[None])[inside]


def _distributions(oracle: Rnnt, x: np.ndarray, split: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    entry, tokens = np.arange(len(x)), oracle.vocabulary(len(x))
    if isinstance(oracle, Tdt):
        return [_softmax(x, entry < tokens), _softmax(x, entry >= tokens)]
    if not isinstance(oracle, Hat):
        return [_softmax(x, entry < tokens)]
    (blank,) = oracle.blanks(len(x))
    labels, of_labels = _softmax(x, entry != blank)
    log_b, log_not = -np.logaddexp(0, -x[blank]), -np.logaddexp(0, x[blank])
    log_p, derivative = np.zeros(len(x)), np.zeros((len(x), len(x)))
    log_p[blank], derivative[blank, blank] = log_b, np.exp(log_not)
    log_p[entry != blank], derivative[entry != blank] = log_not + labels, of_labels
    derivative[entry != blank, blank] -= np.exp(log_b)
    if split:
        of_not = -np.exp(log_b) * np.eye(len(x))[blank]
        return [(labels, of_labels), (np.array([log_b, log_not]), np.stack([derivative[blank], of_not]))]
    return [(log_p, derivative)]


def _together(log_p, derivative, groups) -> tuple[np.ndarray, np.ndarray]:
    """The log-probabilities of groups of classes."""
    sums = np.array([_log_sum(log_p[g]) if g else -INF for g in groups])
    shares = [
        np.exp(log_p[g] - s) if s > -INF else np.full(len(g), float(len(g) == 1))
        for g, s in zip(groups, sums, strict=True)
    ]
    rows = [share @ derivative[g] if g else 0 * derivative[0] for g, share in zip(groups, shares, strict=True)]
    return sums, np.stack(rows)


def divergence(
    oracle: Rnnt, student: np.ndarray, teacher: np.ndarray, label: int | None, collapsed: bool
) -> tuple[float, np.ndarray]:
    """KL(teacher || student) of two rows, and its gradient by the student's row."""
    if not ((student < INF) & (teacher < INF)).all():
        return NAN, np.full(len(student), NAN)
    value, gradient = 0.0, np.zeros(len(student))
    blanks = oracle.blanks(len(student))
    split = isinstance(oracle, Hat) and any((np.delete(x, blanks) == -INF).all() for x in (student, teacher))
    each = zip(*(_distributions(oracle, x, split) for x in (student, teacher)), strict=True)
    for i, ((log_p, of_p), (log_q, of_q)) in enumerate(each):
        if collapsed and i == 0 and not split:
            alone = [*blanks, *([] if label is None else [label])]
            groups = [[c] for c in alone] + [[c for c in range(len(log_p)) if c not in alone]]
            (log_p, of_p), (log_q, _) = _together(log_p, of_p, groups), _together(log_q, of_q, groups)
        if (log_q == -INF).all():  # the target has no mass
            continue
        counts = log_q > -INF
        value += (np.exp(log_q) * (np.where(counts, log_q, 0) - np.where(counts, log_p, 0)))[counts].sum()
        if not (log_p == -INF).all():
            gradient -= np.exp(log_q) @ of_p
    return value, gradient


def nodes(batch, weights: np.ndarray):
    """Yields (b, t, u), the label and the weight of every node that counts. `batch`: targets, T_b, U_b."""
    targets, t_b, u_b = batch
    for b, t, u in np.ndindex(weights.shape):
        if t < t_b[b] and u <= u_b[b] and weights[b, t, u] != 0:
            yield (b, t, u), None if u == u_b[b] else int(targets[b, u]), weights[b, t, u]


def is_invalid(oracle: Rnnt, shape: tuple[int, ...], batch, b: int) -> bool:
    targets, t_b, u_b = batch
    if not (0 <= t_b[b] <= shape[1] and 0 <= u_b[b] < shape[2]):
        return True
    used = targets[b, : u_b[b]]
    width = shape[3]
    return bool(((used < 0) | (used >= oracle.vocabulary(width)) | np.isin(used, oracle.blanks(width))).any())


def distillation(
    oracle: Rnnt, student, teacher, batch, weights, temperature=1.0, collapsed=False, mean=True
) -> tuple[np.ndarray, np.ndarray]:
    """Values [B], and the gradient of each by the student's logits."""
    student, teacher = (np.asarray(x, np.float64) for x in (student, teacher))
    value, gradient = np.zeros(len(student)), np.zeros(student.shape)
    invalid = np.array([is_invalid(oracle, student.shape, batch, b) for b in range(len(student))])
    valid = np.where(invalid[:, None, None], 0, weights)
    volume = np.zeros(len(student))
    for (b, t, u), label, weight in nodes(batch, valid):
        one, of_one = divergence(
            oracle, student[b, t, u] / temperature, teacher[b, t, u] / temperature, label, collapsed
        )
        value[b] += temperature**2 * weight * one
        gradient[b, t, u] = temperature * weight * of_one
        volume[b] += weight
    if mean:
        divisor = np.where(volume == 0, 1, volume)
        value, gradient = value / divisor, gradient / divisor[:, None, None, None]
    value[invalid], gradient[invalid] = NAN, np.where((weights[invalid] != 0)[..., None], NAN, 0)
    return value, gradient


def consistency(oracle: Rnnt, first, second, batch, weights, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values [B], and the gradients by both: each learns from the other one, which is a constant."""
    one, of_first = distillation(oracle, first, second, batch, weights, **options)
    other, of_second = distillation(oracle, second, first, batch, weights, **options)
    return (one + other) / 2, of_first / 2, of_second / 2
