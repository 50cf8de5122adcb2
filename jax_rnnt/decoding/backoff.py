"""Automata that back off: the form in which n-gram models and lists of phrases run on a device.

A state has arcs for some labels. For any other label the automaton backs off to another state, which adds a score, and
looks there. The last state is the root, which has an arc for every label. An n-gram model is such an automaton by
definition. A list of phrases becomes one: a match that fails backs off to what is left of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


@dataclasses.dataclass
class State:
    """A state while an automaton is built. State 0 is the root; a label without an arc there leads back to it."""

    arcs: dict[int, tuple[int, float]]  # from a label to the next state and the score
    fallback: int = 0  # a state with a smaller number
    penalty: float = 0.0  # the score of backing off
    final: float = 0.0  # the score of a sequence that ends here


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        *("root_scores", "root_next", "level", "first", "count", "fallback", "penalty", "final"),
        *("labels", "next", "scores"),
    ],
    meta_fields=["widths"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
    """G automata with up to S states and E arcs each. The arcs of a state stand together, sorted by their labels."""

    root_scores: Array  # [G, V] float32
    root_next: Array  # [G, V] int32
    level: Array  # [G, S] int32: how often a state can back off
    first: Array  # [G, S] int32: its first arc
    count: Array  # [G, S] int32: how many arcs it has
    fallback: Array  # [G, S] int32
    penalty: Array  # [G, S] float32
    final: Array  # [G, S] float32
    labels: Array  # [G, E] int32
    next: Array  # [G, E] int32
    scores: Array  # [G, E] float32
    widths: tuple[int, ...]  # the most arcs of a state of each level, from level 1 on

    def levels(self, group: Array, state: Array) -> tuple[list[tuple[Array, Array, Array]], Array]:
        """The arcs that ``state [R]`` of automata ``group [R]`` reaches by backing off, without those of the root.

        For each level, from 1 on: labels ``[R, K]``, where -1 is no arc; the places of these arcs; and what it takes to
        back off to them, ``[R]``. Then what it takes to back off to the root.
        """
        found, cost = [], jnp.zeros(state.shape, jnp.float32)
        for level in range(len(self.widths), 0, -1):
            here = self.level[group, state] == level
            k = lax.broadcasted_iota(jnp.int32, (len(state), self.widths[level - 1]), 1)
            place = jnp.minimum(self.first[group, state][:, None] + k, self.labels.shape[1] - 1)
            is_arc = here[:, None] & (k < self.count[group, state][:, None])
            labels = jnp.where(is_arc, self.labels[group[:, None], place], -1)
            found.append((labels, place, cost))
            cost = jnp.where(here, cost + self.penalty[group, state], cost)
            state = jnp.where(here, self.fallback[group, state], state)
        return found[::-1], cost


Place = tuple[Array, Array]
"""The automaton of each row ``[R]``, and its state ``[R]``: ``~state`` as long as no start symbol has come."""


def step(automaton: Automaton, place: Place, label: Array) -> tuple[Place, Array]:
    """The places after ``label [R]``, and the scores ``[R, V]`` of the labels that may come next."""
    group, state = place
    levels, _ = automaton.levels(group, jnp.maximum(state, 0))
    after = automaton.root_next[group, label]
    for labels, arcs, _ in levels:
        is_label = labels == label[:, None]
        to = jnp.max(jnp.where(is_label, automaton.next[group[:, None], arcs], -1), axis=1, initial=-1)
        after = jnp.where(to >= 0, to, after)
    state = jnp.where(state < 0, ~state, after)

    levels, cost = automaton.levels(group, state)
    scores = automaton.root_scores[group] + cost[:, None]
    rows = lax.broadcasted_iota(jnp.int32, (len(state), 1), 0)
    for labels, arcs, cost in levels:  # longer matches later, so that they win
        # A place that holds no arc gets a column of its own, which does not exist.
        beyond = scores.shape[1] + lax.broadcasted_iota(jnp.int32, labels.shape, 1)
        column = jnp.where(labels < 0, beyond, labels)
        better = automaton.scores[group[:, None], arcs] + cost[:, None]
        scores = scores.at[rows, column].set(better, mode="drop", unique_indices=True)
    return (group, state), scores


def final(automaton: Automaton, place: Place) -> Array:
    """The scores ``[R]`` of sequences that end at ``place``."""
    group, state = place
    return automaton.final[group, jnp.where(state < 0, ~state, state)]


def walk(states: Sequence[State], at: int, label: int) -> tuple[int, float]:
    """The state after ``label``, and the score, while an automaton is built."""
    total = 0.0
    while label not in states[at].arcs and at:
        total += states[at].penalty
        at = states[at].fallback
    to, score = states[at].arcs.get(label, (0, 0.0))
    return to, total + score


def compiled(
    automata: Sequence[Sequence[State]], vocab_size: int, rounded: Callable[[int], int] = lambda size: size
) -> Automaton:
    """The arrays of ``automata``; ``rounded`` says which sizes they get, so that similar ones share a program."""
    levels = [_levels(states) for states in automata]
    widths = [0] * rounded(max((max(level) for level in levels), default=0))
    for states, level in zip(automata, levels, strict=True):
        for state, at in zip(states[1:], level[1:], strict=True):
            widths[at - 1] = max(widths[at - 1], len(state.arcs))
    num_states = rounded(max((len(states) for states in automata), default=1))
    num_arcs = rounded(max((sum(len(s.arcs) for s in states[1:]) for states in automata), default=1) or 1)

    def table(rows: Iterator[Sequence[float] | np.ndarray], width: int, dtype: type) -> Array:
        """``rows``, filled up with zeros to the same ``width``."""
        array: np.ndarray = np.zeros((len(automata), width), dtype)
        for to, row in zip(array, rows, strict=True):
            to[: len(row)] = row
        return jnp.asarray(array)

    arcs = [[(label, *s.arcs[label]) for s in states[1:] for label in sorted(s.arcs)] for states in automata]
    counts = [[0, *(len(s.arcs) for s in states[1:])] for states in automata]
    root = [[states[0].arcs.get(label, (0, 0.0)) for label in range(vocab_size)] for states in automata]
    return Automaton(
        root_scores=table(([score for _, score in row] for row in root), vocab_size, np.float32),
        root_next=table(([to for to, _ in row] for row in root), vocab_size, np.int32),
        level=table(iter(levels), num_states, np.int32),
        first=table((np.cumsum(count) - count for count in counts), num_states, np.int32),
        count=table(iter(counts), num_states, np.int32),
        fallback=table(([s.fallback for s in states] for states in automata), num_states, np.int32),
        penalty=table(([s.penalty for s in states] for states in automata), num_states, np.float32),
        final=table(([s.final for s in states] for states in automata), num_states, np.float32),
        labels=table(([label for label, _, _ in row] for row in arcs), num_arcs, np.int32),
        next=table(([to for _, to, _ in row] for row in arcs), num_arcs, np.int32),
        scores=table(([score for _, _, score in row] for row in arcs), num_arcs, np.float32),
        widths=tuple(map(rounded, widths)),
    )


def _levels(states: Sequence[State]) -> list[int]:
    levels = [0]
    for state in states[1:]:
        levels.append(levels[state.fallback] + 1)
    return levels
