"""The arcs that a decoder may take from a node, for every label that may come next."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jax_rnnt.core.loss import Loss
from jax_rnnt.core.topology import Topology
from jax_rnnt.decoding.hypotheses import Confidence
from jax_rnnt.ops import arcs, lax_arcs
from jax_rnnt.ops.arcs import ArcParameters
from jax_rnnt.ops.labels import NO_LABEL, PADDING

_NEVER = jnp.iinfo(jnp.int32).max
"""The length of an utterance whose end is not known yet: no arc leads there."""


class Row(NamedTuple):
    """What rows of logits say before their labels are compared with each other."""

    silent: Array  # scores [R, K0] of the arcs without a label; NaN for a row that is spoilt
    best: Array  # scores [R, K1] of the arcs of the best label
    entropy: Array | None  # [R]
    tokens: Array  # [R, V], the logits of labels; -inf for blanks
    entries: Array  # [R, K'], those of the topology's columns
    norm: Array  # [R, 2]
    reads: Array  # [R] bool

    def closed(self) -> "Row":
        """The same rows without arcs."""
        return self._replace(silent=jnp.full_like(self.silent, -jnp.inf), best=jnp.full_like(self.best, -jnp.inf))

    def prefers_a_label(self) -> Array:
        """Whether the best arc emits a label, ``[R]``; or ``[B, N]`` for such rows."""
        return jnp.max(self.best, axis=-1) > jnp.max(self.silent, axis=-1)


class Choices(NamedTuple):
    """The arcs of the n best labels."""

    labels: Array  # [R, n] int32
    emitting: Array  # scores [R, n, K1]
    confidence: Confidence | None  # log-probabilities [R, n, K1]; the entropy [R] of the row

    def closed(self) -> "Choices":
        """The same labels without arcs."""
        return self._replace(emitting=jnp.full_like(self.emitting, -jnp.inf))


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

    def read(self, logits: Array, reads: Array, extra: Array | None) -> Row:
        """Of ``logits [R, W]`` where ``reads [R]``; ``extra [R, V]`` is added to the scores of labels."""
        tokens = logits[:, : self.topology.vocabulary]
        column = lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
        for blank in self.topology.blanks:
            tokens = jnp.where(column == blank, -jnp.inf, tokens)
        # A step has too few rows for the kernels: to wait for their threads would take longer than the work itself.
        parameters = ArcParameters(self.topology.columns, self.width, self.topology.window, "lax")
        unlabelled = jnp.where(reads, NO_LABEL, PADDING).astype(jnp.int32)
        entries, norm = arcs.forward(logits, unlabelled, **parameters.asdict())
        better = _with_extra(tokens, extra)
        row = Row(norm, norm, None, tokens, entries[:, :-1], norm, reads)
        silent, best = self._scores(row, jnp.max(better, axis=-1, keepdims=True))
        # A row with NaN or +inf has no arcs that could be compared.
        spoilt = ~(jnp.all(silent < jnp.inf, axis=(1, 2)) & jnp.all(best < jnp.inf, axis=(1, 2)))
        first, stop = self.topology.window
        if extra is not None or first == stop:  # then the norm does not show what labels hold
            spoilt |= reads & ~jnp.all(better < jnp.inf, axis=1)
        silent, best = (jnp.where(spoilt[:, None], jnp.nan, x[:, 0]) for x in (silent, best))
        entropy = self._entropy(row, silent) if self.confidence else None
        silent = silent - self.blank_penalty if self.blank_penalty else silent
        return row._replace(silent=silent, best=best, entropy=entropy)

    def choices(self, row: Row, extra: Array | None, count: int) -> Choices:
        """The ``count`` best labels: those of the largest logits and ``extra``. Scores of arcs grow with them."""
        better = _with_extra(row.tokens, extra)
        if count == 1:
            labels = jnp.argmax(better, axis=-1, keepdims=True).astype(jnp.int32)
        else:
            of_labels, labels = lax.top_k(better, count)
        if count == 1 or extra is not None:
            of_labels = jnp.take_along_axis(row.tokens, labels, axis=-1)
        _, emitting = self._scores(row, of_labels)
        emitting = jnp.where(jnp.isnan(row.silent[:, :1, None]), jnp.nan, emitting)
        confidence = None if row.entropy is None else Confidence(emitting, row.entropy)
        if extra is not None:
            emitting += jnp.take_along_axis(extra, labels, axis=-1)[..., None]
        return Choices(labels, emitting, confidence)

    def _scores(self, row: Row, of_labels: Array) -> tuple[Array, Array]:
        """The scores of arcs without a label ``[R, n, K0]`` and with one ``[R, n, K1]``, whose logits are ``of_labels
        [R, n]``."""
        of_columns = jnp.broadcast_to(row.entries[:, None], (*of_labels.shape, row.entries.shape[1]))
        # Labels are in the window, or the window is empty and the norm is 0.
        of_labels = lax_arcs.normalised(of_labels.astype(row.norm.dtype), row.norm[:, None])
        of_labels = jnp.where(row.reads[:, None], of_labels, -jnp.inf)
        scores = jnp.concatenate([of_columns, of_labels[..., None]], axis=-1)
        if self.topology.scores is not None:
            far, none = jnp.full(of_labels.shape[:1], _NEVER, jnp.int32), jnp.zeros(of_labels.shape[:1], jnp.int32)
            scores = self.topology.scores(scores[:, None], far, none)[:, 0]
        emits = self.topology.label_arcs()
        silent = [scores[..., k] for k, has_label in enumerate(emits) if not has_label]
        return jnp.stack(silent, axis=-1), jnp.stack([scores[..., k] for k, has in enumerate(emits) if has], axis=-1)

    def _entropy(self, row: Row, silent: Array) -> Array:
        """The entropy ``[R]`` of what comes next, one of the labels or a blank, as a part of the largest possible one.

        The arcs of the most probable label say how probable labels are, whatever the loss.
        """
        tokens = row.tokens.astype(row.norm.dtype)
        top = jnp.max(tokens, axis=-1, keepdims=True)
        below = tokens - jnp.where(top == -jnp.inf, 0, top)
        each = jnp.exp(below)
        total = jnp.maximum(jnp.sum(each, axis=-1), jnp.finfo(each.dtype).tiny)
        among_labels = jnp.log(total) - jnp.sum(jnp.where(each > 0, each * below, 0), axis=-1) / total
        log_any = jax.nn.logsumexp(self._scores(row, top)[1][:, 0], axis=-1) + jnp.log(total)
        if len(self.topology.blanks) == 1:  # its arcs may differ in their durations, and then some of them are closed
            silent = jnp.log(jnp.maximum(-jnp.expm1(log_any), 0))[:, None]
        others = jnp.concatenate([silent, log_any[:, None]], axis=-1)
        between = -jnp.sum(jnp.where(others > -jnp.inf, jnp.exp(others) * others, 0), axis=-1)
        entropy = (between + jnp.exp(log_any) * among_labels) / math.log(max(self.topology.vocabulary, 2))
        return jnp.clip(entropy, 0, 1)


def _with_extra(tokens: Array, extra: Array | None) -> Array:
    return tokens if extra is None else jnp.where(tokens == -jnp.inf, -jnp.inf, tokens.astype(extra.dtype) + extra)


def row_arcs(loss: Loss, width: int, blank_penalty: float, confidence: bool) -> RowArcs:
    return RowArcs(loss.topology(width), width, blank_penalty, confidence)
