"""The arcs that a decoder may take from a node, for every label that may come next."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_rnnt.core.loss import Loss
from jax_rnnt.core.topology import Topology
from jax_rnnt.decoding.hypotheses import Confidence
from jax_rnnt.ops import arcs, lax_arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import NO_LABEL, PADDING

_NEVER = jnp.iinfo(jnp.int32).max
"""The length of an utterance whose end is not known yet: no arc leads there."""


class Choices(NamedTuple):
    """The arcs of rows of logits: those without a label, and those of the n best labels."""

    silent: Array  # scores [R, K0]
    labels: Array  # [R, n] int32
    emitting: Array  # scores [R, n, K1]
    confidence: Confidence | None  # of the arcs with a label: log-probabilities [R, n, K1]; the entropy [R] of the row

    def prefers_a_label(self) -> Array:
        """Whether the best arc emits a label, ``[R]``; or ``[B, N]`` for such rows."""
        return jnp.max(self.emitting, axis=(-2, -1)) > jnp.max(self.silent, axis=-1)


@dataclasses.dataclass(frozen=True)
class RowArcs:
    """The topology of a loss, for rows of one width, in the form that a decoder needs."""

    topology: Topology
    width: int
    blank_penalty: float
    confidence: bool

    @property
    def silent(self) -> tuple[int, ...]:
        """The frames that each arc without a label takes."""
        return tuple(dt for dt, du in self.topology.moves if du == 0)

    @property
    def emitting(self) -> tuple[int, ...]:
        """The frames that each arc with a label takes."""
        return tuple(dt for dt, du in self.topology.moves if du > 0)

    @property
    def has_durations(self) -> bool:
        """Whether labels differ in the frames that they take."""
        return len(self.emitting) > 1

    @property
    def stays(self) -> bool:
        """Whether a label may leave a frame for others of the same frame."""
        return 0 in self.emitting

    def labels(self, count: int) -> int:
        """``count``, or as many labels as there are."""
        return max(1, min(count, self.topology.vocabulary - len(self.topology.blanks)))

    def nothing(self, rows: int, count: int, dtype: np.dtype) -> Choices:
        """Choices where every arc is closed."""
        closed = [
            jnp.full((rows, *shape), -jnp.inf, dtype) for shape in ((len(self.silent),), (count, len(self.emitting)))
        ]
        confidence = Confidence(closed[1], jnp.zeros(rows, dtype)) if self.confidence else None
        return Choices(closed[0], jnp.zeros((rows, count), jnp.int32), closed[1], confidence)

    def choices(self, logits: Array, reads: Array, count: int, extra: Array | None) -> Choices:
        """Of ``logits [R, W]`` where ``reads [R]``; ``extra [R, V]`` is added to the scores of labels.

        The best labels are those of the largest logits and ``extra``: scores of arcs grow with them.
        """
        tokens = logits[:, : self.topology.vocabulary]
        column = lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
        for blank in self.topology.blanks:
            tokens = jnp.where(column == blank, -jnp.inf, tokens)
        better = tokens
        if extra is not None:
            better = jnp.where(tokens == -jnp.inf, -jnp.inf, tokens.astype(extra.dtype) + extra)
        if count == 1:
            labels = jnp.argmax(better, axis=-1, keepdims=True).astype(jnp.int32)
        else:
            of_labels, labels = lax.top_k(better, count)
        if count == 1 or extra is not None:
            of_labels = jnp.take_along_axis(tokens, labels, axis=-1)
        # A step has too few rows for the kernels: to wait for their threads would take longer than the work itself.
        parameters = ArcParameters(self.topology.columns, self.width, self.topology.window, "lax")
        unlabelled = jnp.where(reads, NO_LABEL, PADDING).astype(jnp.int32)
        entries, norm = arcs.forward(logits, unlabelled, **parameters.asdict())
        of_columns = jnp.broadcast_to(entries[:, None, :-1], (*labels.shape, len(self.topology.columns)))
        # Labels are in the window, or the window is empty and the norm is 0.
        of_labels = lax_arcs.normalised(of_labels.astype(norm.dtype), norm[:, None])
        of_labels = jnp.where(reads[:, None], of_labels, -jnp.inf)
        scores = jnp.concatenate([of_columns, of_labels[..., None]], axis=-1)
        # A row with NaN or +inf has no arcs that could be compared.
        spoilt = ~jnp.all(scores < jnp.inf, axis=(1, 2))
        if extra is not None:
            spoilt |= ~jnp.all(better < jnp.inf, axis=1)
        if self.topology.scores is not None:
            far, none = jnp.full(labels.shape[:1], _NEVER, jnp.int32), jnp.zeros(labels.shape[:1], jnp.int32)
            scores = self.topology.scores(scores[:, None], far, none)[:, 0]
        scores = jnp.where(spoilt[:, None, None], jnp.nan, scores)
        moves = enumerate(self.topology.moves)
        silent = jnp.stack([scores[:, 0][..., k] for k, (_, du) in moves if du == 0], axis=-1)
        moves = enumerate(self.topology.moves)
        emitting = jnp.stack([scores[..., k] for k, (_, du) in moves if du > 0], axis=-1)
        confidence = None
        if self.confidence:
            confidence = Confidence(emitting, self._entropy(tokens.astype(norm.dtype), labels[:, :1], silent, emitting))
        if extra is not None:
            emitting += jnp.take_along_axis(extra, labels, axis=-1)[..., None]
        return Choices(silent - self.blank_penalty if self.blank_penalty else silent, labels, emitting, confidence)

    def _entropy(self, tokens: Array, label: Array, silent: Array, emitting: Array) -> Array:
        """The entropy ``[R]`` of what comes next, one of the labels or a blank, as a part of the largest possible one.

        From the logits ``tokens [R, V]`` of the labels, -inf for blanks, and the scores of arcs, those of one ``label
        [R, 1]`` first: they say how probable labels are, whatever the loss.
        """
        top = jnp.max(tokens, axis=-1, keepdims=True)
        below = tokens - jnp.where(top == -jnp.inf, 0, top)
        each = jnp.exp(below)
        total = jnp.maximum(jnp.sum(each, axis=-1), jnp.finfo(each.dtype).tiny)
        among_labels = jnp.log(total) - jnp.sum(jnp.where(each > 0, each * below, 0), axis=-1) / total
        share = jnp.take_along_axis(below, label, axis=-1)[:, 0] - jnp.log(total)
        log_any = jax.nn.logsumexp(emitting[:, 0], axis=-1) - jnp.where(share == -jnp.inf, 0, share)
        if len(self.topology.blanks) == 1:  # its arcs may differ in their durations, and then some of them are closed
            silent = jnp.log(jnp.maximum(-jnp.expm1(log_any), 0))[:, None]
        others = jnp.concatenate([silent, log_any[:, None]], axis=-1)
        between = -jnp.sum(jnp.where(others > -jnp.inf, jnp.exp(others) * others, 0), axis=-1)
        entropy = (between + jnp.exp(log_any) * among_labels) / math.log(max(self.topology.vocabulary, 2))
        return jnp.clip(entropy, 0, 1)


def row_arcs(loss: Loss, width: int, blank_penalty: float, confidence: bool) -> RowArcs:
    return RowArcs(loss.topology(width), width, blank_penalty, confidence)
