"""The definitions of the losses in float64 numpy, by their papers: scores of arcs, regularisers, wildcards, gradients.

Two functions sum over paths. `sum_of_paths` is a recursion over the edges of a lattice, with the jumps of wildcards.
`enumerated` lists the paths of a tiny lattice. test_losses_reference.py compares them with each other, with the
recursion of reference.py and with finite differences.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import reference
from reference import Moves

Node = tuple[int, int]
Edge = tuple[Node, Node, float, tuple[int, int, int] | None]  # from, to, score, and the arc (t, u, k) if it is one
Scored = tuple[np.ndarray, np.ndarray]  # the score of an arc at all nodes, and its derivative by the logits of the node


class Rows:
    """The rows of logits [T, U+1, W] of one example, and the scores that the definitions consist of."""

    def __init__(self, logits: np.ndarray, labels: Sequence[int]):
        self.x = np.asarray(logits, np.float64)
        self.width = self.x.shape[-1]
        self.labels = [*labels, *[None] * (self.x.shape[1] - len(labels))]

    def raw(self, column: int) -> Scored:
        return self.x[..., column], np.broadcast_to(np.eye(self.width)[column], self.x.shape)

    def normalised(self, column: int, window: reference.Window) -> Scored:
        """The log-softmax over the entries of the window. It is -inf if all entries of the window are -inf."""
        norm = reference.window_normaliser(self.x, window)
        with np.errstate(invalid="ignore"):
            score = np.where(np.isneginf(norm), -np.inf, self.x[..., column] - norm)
        return score, np.eye(self.width)[column] - reference.softmax(self.x, window)

    def of_labels(self, score: Callable[[int], Scored]) -> Scored:
        """`score(y_u)` at the nodes (t, u), and -inf where no label is left."""
        value, slope = np.full(self.x.shape[:2], -np.inf), np.zeros(self.x.shape)
        for u, label in enumerate(self.labels):
            if label is not None:
                of_label = score(label)
                value[:, u], slope[:, u] = of_label[0][:, u], of_label[1][:, u]
        return value, slope


def plus(a: Scored, b: Scored) -> Scored:
    return a[0] + b[0], a[1] + b[1]


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)


@dataclasses.dataclass(frozen=True)
class Rnnt:
    """One softmax over blank and labels (Graves 2012). With `fused` the rows are normalised here."""

    blank: int = -1
    fused: bool = True

    @property
    def moves(self) -> Moves:
        return reference.RNNT

    def vocabulary(self, width: int) -> int:
        return width

    def blanks(self, width: int) -> tuple[int, ...]:
        return (self.blank % width,)

    def arcs(self, rows: Rows) -> list[Scored]:
        window = (0, rows.width) if self.fused else (0, 0)
        blanks = [rows.normalised(column, window) for column in self.blanks(rows.width)]
        return [*blanks, rows.of_labels(lambda y: rows.normalised(y, window))]

    def ends_with(self, du: int) -> bool:
        """Returns whether an arc that takes the last frame may emit du labels."""
        return True


@dataclasses.dataclass(frozen=True)
class Monotonic(Rnnt):
    """Each label takes a frame (Tripathi 2019).

    Any arc may end the last frame in k2, only a blank in optimized_transducer.
    """

    last_blank: bool = False

    @property
    def moves(self) -> Moves:
        return reference.MONOTONIC

    def ends_with(self, du: int) -> bool:
        return du == 0 or not self.last_blank


@dataclasses.dataclass(frozen=True)
class MultiBlank(Rnnt):
    """Blanks that take several frames (arXiv:2211.03541)."""

    big_blanks: tuple[int, ...] = ()
    durations: tuple[int, ...] = ()

    @property
    def moves(self) -> Moves:
        return ((1, 0), *((d, 0) for d in self.durations), (0, 1))

    def blanks(self, width: int) -> tuple[int, ...]:
        return tuple(column % width for column in (self.blank, *self.big_blanks))


@dataclasses.dataclass(frozen=True)
class Tdt(Rnnt):
    """Tokens and durations (arXiv:2304.06795): a row holds V tokens, then D durations. No label leads to the end."""

    durations: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def moves(self) -> Moves:
        return (*((d, 0) for d in self.durations if d > 0), *((d, 1) for d in self.durations))

    def vocabulary(self, width: int) -> int:
        return width - len(self.durations)

    def blanks(self, width: int) -> tuple[int, ...]:
        return (self.blank % self.vocabulary(width),)

    def arcs(self, rows: Rows) -> list[Scored]:
        v = self.vocabulary(rows.width)
        tokens, rest = ((0, v), (v, rows.width)) if self.fused else ((0, 0), (0, 0))
        blank = rows.normalised(self.blank % v, tokens)
        label = rows.of_labels(lambda y: rows.normalised(y, tokens))
        durations = [rows.normalised(v + k, rest) for k in range(len(self.durations))]
        of_blank = [plus(blank, score) for score, d in zip(durations, self.durations, strict=True) if d > 0]
        return [*of_blank, *(plus(label, score) for score in durations)]

    def ends_with(self, du: int) -> bool:
        return du == 0


@dataclasses.dataclass(frozen=True)
class Hat(Rnnt):
    """A sigmoid gives the blank, and a softmax without it the labels (arXiv:2003.07705).

    Blank is the first or last entry.
    """

    def arcs(self, rows: Rows) -> list[Scored]:
        column = self.blank % rows.width
        window = (1, rows.width) if column == 0 else (0, rows.width - 1)
        x, e = rows.raw(column)
        x = np.where(np.isposinf(x), np.nan, x)
        of_blank, of_rest = np.exp(log_sigmoid(x)), np.exp(log_sigmoid(-x))
        blank = log_sigmoid(x), of_rest[..., None] * e
        rest = log_sigmoid(-x), -of_blank[..., None] * e
        return [blank, rows.of_labels(lambda y: plus(rest, rows.normalised(y, window)))]


@dataclasses.dataclass(frozen=True)
class Regularisers:
    fastemit_lambda: float = 0.0
    delay_penalty: float = 0.0
    sigma: float = 0.0
    wildcard: str | None = None
    wildcard_weight: float = 0.0


def jumps(frames: int, labels: int, on: Regularisers) -> list[Edge]:
    """The edges that wildcards add to the arcs of a lattice."""
    w = on.wildcard_weight
    if on.wildcard in ("anywhere", "star"):  # one jump beside each blank, for a star not at the last frame
        nodes = [(t, u) for t in range(frames) for u in range(labels + 1)]
        last = on.wildcard == "anywhere"
        return [((t, u), (t + 1, u), w, None) for t, u in nodes if t + 1 < frames or (last and u == labels)]
    if on.wildcard == "ends":
        start = [((0, 0), (t, 0), w, None) for t in range(1, frames)]
        end = [((t, labels), (frames - 1, labels), w, None) for t in range(frames - 1)]
        return start + (end if labels > 0 else [])
    return []


def edges_of(
    definition: Rnnt, scores: np.ndarray, frames: int, labels: int, on: Regularisers, nodes: np.ndarray | None = None
) -> list[Edge]:
    """All arcs and jumps; only those that leave `nodes` [T, U+1] for one another or the end, if not all are there.

    But a NaN in a node spoils the example, wherever its arc leads.
    """
    found = jumps(frames, labels, on)
    for t, u in np.ndindex(frames, labels + 1):
        for k, (dt, du) in enumerate(definition.moves):
            to_node = t + dt < frames and u + du <= labels
            to_end = t + dt == frames and u + du == labels and definition.ends_with(du)
            if to_node or to_end:
                found.append(((t, u), (t + dt, u + du), scores[t, u, k], (t, u, k)))
    if nodes is None:
        return found
    there = {(frames, labels), *((int(t), int(u)) for t, u in np.argwhere(nodes))}
    return [edge for edge in found if edge[0] in there and (edge[1] in there or not edge[2] < np.inf)]


def sum_of_paths(edges: Sequence[Edge], frames: int, labels: int, shape) -> tuple[float, np.ndarray]:
    """The cost and the posteriors [T, U+1, K], by a recursion over the edges in the order of t + u."""
    posteriors = np.zeros(shape)
    if any(not score < np.inf for _, _, score, _ in edges):
        posteriors[:frames, : labels + 1] = np.nan
        return np.nan, posteriors
    alpha, beta = (np.full((frames + 1, labels + 1), -np.inf) for _ in range(2))
    alpha[0, 0] = beta[frames, labels] = 0.0
    forwards = sorted(edges, key=lambda edge: sum(edge[0]))
    for source, target, score, _ in forwards:
        alpha[target] = np.logaddexp(alpha[target], alpha[source] + score)
    for source, target, score, _ in reversed(forwards):
        beta[source] = np.logaddexp(beta[source], score + beta[target])
    total = alpha[frames, labels]
    if total == -np.inf:
        return np.inf, posteriors
    for source, target, score, arc in edges:
        if arc is not None:
            posteriors[arc] = np.exp(alpha[source] + score + beta[target] - total)
    return 0.0 - total, posteriors


def paths_along(edges: Sequence[Edge], node: Node, end: Node):
    """Yields every path from `node` to `end`, as the list of its edges."""
    if node == end:
        yield []
    for edge in edges:
        if edge[0] == node and node != end:
            for rest in paths_along(edges, edge[1], end):
                yield [edge, *rest]


def enumerated(edges: Sequence[Edge], frames: int, labels: int, shape) -> tuple[float, np.ndarray]:
    """`sum_of_paths` for finite scores. It adds up the paths one by one."""
    posteriors, total = np.zeros(shape), 0.0
    for path in paths_along(edges, (0, 0), (frames, labels)):
        probability = np.exp(sum(score for _, _, score, _ in path))
        total += probability
        for *_, arc in path:
            if arc is not None:
                posteriors[arc] += probability
    return (-np.log(total), posteriors / total) if total > 0 else (np.inf, posteriors)


def example(
    definition: Rnnt,
    logits,
    targets,
    frames,
    labels,
    on: Regularisers = Regularisers(),
    clamp=-1.0,
    total=sum_of_paths,
    nodes=None,
) -> tuple[float, np.ndarray]:
    """The cost of one example (logits [T, U+1, W], targets [U]) and its gradient, for a cotangent of 1.

    `nodes` [T, U+1] says which nodes there are, if not all are.
    """
    x = np.asarray(logits, np.float64)
    frames, labels = int(frames), int(labels)
    bad = np.nan, np.full(x.shape, np.nan)
    if not (0 <= frames <= x.shape[0] and 0 <= labels < x.shape[1]):
        return bad
    real, width = [int(label) for label in targets[:labels]], x.shape[-1]
    if any(not 0 <= y < definition.vocabulary(width) or y in definition.blanks(width) for y in real):
        return bad
    with np.errstate(invalid="ignore", over="ignore"):  # padding may hold anything
        scored = definition.arcs(Rows(x, real))
    emits = np.array([du > 0 for _, du in definition.moves])
    scores = np.stack([value for value, _ in scored], axis=-1) - on.sigma
    early = (frames - 1) / 2 - np.arange(x.shape[0])
    scores = scores + np.where(emits, on.delay_penalty * early[:, None, None], 0.0)
    cost, posteriors = total(edges_of(definition, scores, frames, labels, on, nodes), frames, labels, scores.shape)
    gradient = np.zeros(x.shape)
    for k, (_, slope) in enumerate(scored):
        factor = posteriors[..., k, None] * (1 + on.fastemit_lambda if emits[k] else 1)
        gradient -= np.where(factor == 0, 0.0, factor * slope)
    return cost, np.clip(gradient, -clamp, clamp) if clamp > 0 else gradient


def batch(
    definition: Rnnt,
    logits,
    targets,
    logit_lengths,
    target_lengths,
    on: Regularisers = Regularisers(),
    clamp=-1.0,
    nodes=None,
) -> tuple[np.ndarray, np.ndarray]:
    """The costs [B] of a batch and their gradients [B, T, U+1, W], for cotangents of 1."""
    arrays = zip(logits, targets, logit_lengths, target_lengths, strict=True)
    each = [None] * len(logits) if nodes is None else nodes
    results = [example(definition, *of_one, on, clamp, nodes=n) for of_one, n in zip(arrays, each, strict=True)]
    return np.array([cost for cost, _ in results]), np.stack([gradient for _, gradient in results])
