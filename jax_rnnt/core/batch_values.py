"""What is wrong with the values of a batch: a sentence for the first bad example. All arrays are NumPy's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jax_rnnt.core.topology import Topology

if TYPE_CHECKING:
    from jax_rnnt.core.loss import Loss


def check_values(
    loss: Loss, shape: tuple[int, ...], targets: np.ndarray, logit_lengths: np.ndarray, target_lengths: np.ndarray
) -> None:
    """Raises a ValueError for the first bad example; ``shape`` is (B, T, U+1, W)."""
    targets, t_b, u_b = np.asarray(targets), np.asarray(logit_lengths), np.asarray(target_lengths)
    topology = loss.topology(shape[-1])
    _check_lengths(t_b, u_b, shape[1], shape[2] - 1)
    _check_frames(topology, t_b, u_b)
    _check_labels(loss, topology, targets, u_b)


def _check_lengths(t_b: np.ndarray, u_b: np.ndarray, t_max: int, u_max: int) -> None:
    def fit(x: np.ndarray, limit: int) -> bool:
        return bool(((x >= 0) & (x <= limit)).all())

    hint = ""
    if fit(t_b, u_max) and fit(u_b, t_max):
        hint = " Are they swapped? All `target_lengths` lie in [0, T], and all `logit_lengths` in [0, U]."
    for b in np.flatnonzero((t_b < 0) | (t_b > t_max))[:1]:
        if t_b[b] > t_max:
            hint = hint or " Lengths count the frames of the logits, after the encoder's subsampling."
        raise ValueError(f"`logit_lengths[{b}]` must be in [0, T] = [0, {t_max}], got {t_b[b]}.{hint}")
    for b in np.flatnonzero((u_b < 0) | (u_b > u_max))[:1]:
        raise ValueError(f"`target_lengths[{b}]` must be in [0, U] = [0, {u_max}], got {u_b[b]}.{hint}")


def _check_frames(topology: Topology, t_b: np.ndarray, u_b: np.ndarray) -> None:
    needed = topology.least_frames(u_b)
    for b in np.flatnonzero((u_b > 0) & (t_b < needed))[:1]:
        raise ValueError(
            f"`logit_lengths[{b}]` is {t_b[b]}, and the {u_b[b]} labels of target_lengths[{b}] need at least "
            f"{needed[b]} frames under this loss."
        )


def _check_labels(loss: Loss, topology: Topology, targets: np.ndarray, u_b: np.ndarray) -> None:
    v = topology.vocabulary
    used = np.arange(targets.shape[1])[None] < u_b[:, None]
    is_blank = np.isin(targets, topology.blanks)
    for b, u in np.argwhere(used & ((targets < 0) | (targets >= v) | is_blank))[:1]:
        value = targets[b, u]
        if not is_blank[b, u]:
            entries = f"[0, V) = [0, {v})"
            more = (
                f", and the entries behind them are durations: rows have {v} tokens"
                if len(topology.columns) > len(topology.blanks)
                else ""
            )
            raise ValueError(f"`targets[{b}, {u}]` must be in {entries}, got {value}{more}.")
        kind = f"the blank (blank={loss.blank})" if value == topology.blanks[0] else "a big blank"
        hint = ""
        if loss.blank == -1 and value == v - 1 and not (used & (targets == 0)).any():
            hint = " The default is the last entry. Did you mean blank=0? No target is 0."
        raise ValueError(
            f"`targets[{b}, {u}]` is {value}, {kind}. Targets must not contain blank: the loss inserts it.{hint}"
        )


def check_log_probs(
    topology: Topology, logits: np.ndarray, logit_lengths: np.ndarray, target_lengths: np.ndarray
) -> None:
    """Raises a ValueError if a row of ``logits [B, T, U+1, W]`` inside the lengths does not hold log-probabilities."""
    inside = np.arange(logits.shape[1])[None, :, None] < logit_lengths[:, None, None]
    inside = inside & (np.arange(logits.shape[2])[None, None] <= target_lengths[:, None, None])
    parts = [(0, topology.vocabulary), (topology.vocabulary, logits.shape[-1])]
    for first, stop in parts:
        x = logits[..., first:stop].astype(np.float64)
        if first == stop:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.exp(x).sum(axis=-1)
        for b, t, u in np.argwhere(inside & (np.abs(sums - 1) > 0.05))[:1]:
            raise ValueError(
                f"`logits[{b}, {t}, {u}, {first}:{stop}]` must be log-probabilities, because fused_log_softmax is "
                f"False, and their probabilities sum to {sums[b, t, u]:.4g}. Apply jax.nn.log_softmax, or leave "
                "fused_log_softmax=True."
            )
