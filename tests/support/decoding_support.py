"""A tiny model to decode, and the expected results in plain Python, from the definitions of the losses."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from losses import LossUnderTest
from reference_losses import Monotonic, Rnnt, Rows, Tdt

import jax_rnnt

T, V = 4, 4
STATES = 7
LENGTHS = np.array([4, 3, 0, 1, 4], np.int32)


def row(name: str, call, oracle: Rnnt, width: int = V) -> LossUnderTest:
    return LossUnderTest(name, call, oracle, width=width)


RNNT = row("rnnt", jax_rnnt.rnnt_loss, Rnnt(blank=1))
MONOTONIC = row("monotonic", jax_rnnt.monotonic_rnnt_loss, Monotonic(blank=0))
TDT = row("tdt", jax_rnnt.tdt_loss, Tdt(blank=2, durations=(2, 0, 1)), V - 1 + 3)
TDT_MOVING = row("tdt_moving", jax_rnnt.tdt_loss, Tdt(durations=(1, 3)), V - 1 + 2)


def trained_with(kind: LossUnderTest) -> jax_rnnt.Loss:
    return kind.made(implementation=None)


def predictor(params, state, label):
    """The output depends on all labels so far, and on their order."""
    state = (5 * state + label + 1) % STATES
    return state, jnp.asarray(params)[state]


def joint(params, encoded, predicted):
    return encoded + predicted * (1 + encoded / 2)


@dataclasses.dataclass(frozen=True)
class Example:
    """The encoder's output and a table of predictions, for models of one kind. Frames beyond the lengths are NaN."""

    params: np.ndarray  # [STATES, W]
    encoded: np.ndarray  # [B, T, W]

    @property
    def state(self) -> jnp.ndarray:
        return jnp.zeros(len(self.encoded), jnp.int32)

    def logits(self, b: int, labels, start: int, frames: int) -> np.ndarray:
        """The logits [T_b, U + 1, W] of one utterance."""
        state, predicted = 0, []
        for label in (start, *labels):
            state = (5 * state + label + 1) % STATES
            predicted.append(self.params[state])
        p, e = np.stack(predicted)[None], self.encoded[b, :frames, None]
        return e + p * (1 + e / 2)


@functools.cache
def example(kind: LossUnderTest) -> Example:
    rng = np.random.default_rng(3)
    encoded = rng.normal(size=(len(LENGTHS), T, kind.width))
    encoded[np.arange(T) >= LENGTHS[:, None]] = np.nan
    return Example(rng.normal(size=(STATES, kind.width)), encoded)


Extra = Callable[[int, Sequence[int]], np.ndarray]
"""What fusions add to the scores [V] of the next label, in utterance b after these labels."""


def arc_scores(
    kind: LossUnderTest,
    b: int,
    labels,
    frames: int,
    internal_lm_weight: float = 0.0,
    extra: Extra | None = None,
    blank_penalty: float = 0.0,
    temperature: float = 1.0,
) -> np.ndarray:
    """The scores [T_b, U + 1, K] of the arcs along `labels`."""
    blank = kind.oracle.blanks(kind.width)[0]
    x = example(kind).logits(b, labels, blank, frames) / temperature
    scores = np.stack([score for score, _ in kind.oracle.arcs(Rows(x, labels))], axis=-1)
    if internal_lm_weight:
        # Where the encoder's output is 0, the joint network returns the predictor's output.
        alone = np.stack([example(kind).params[s] for s in states_along(labels, blank)]) / temperature
        rest = np.delete(np.arange(kind.width), blank)
        log_norm = np.log(np.exp(alone[:, rest]).sum(-1))
        for u, label in enumerate(labels):
            scores[:, u, 1] -= internal_lm_weight * (alone[u, label] - log_norm[u])
    emits = np.array([du > 0 for _, du in kind.oracle.moves])
    scores[..., ~emits] -= blank_penalty
    if extra:
        for u, label in enumerate(labels):
            scores[:, u, emits] += extra(b, labels[:u])[label]
    return scores


def states_along(labels, start: int) -> list[int]:
    states = [0]
    for label in (start, *labels):
        states.append((5 * states[-1] + label + 1) % STATES)
    return states[1:]


def labels_of(kind: LossUnderTest) -> list[int]:
    blanks = kind.oracle.blanks(kind.width)
    return [label for label in range(kind.oracle.vocabulary(kind.width)) if label not in blanks]


def log_probability(kind: LossUnderTest, b: int, labels, frames: int, cap: int, *changes) -> float:
    """The log-probability of a label sequence, summed over the paths that end at T_b or beyond.

    A path has at most `cap` labels in one frame. `changes` are the last arguments of `arc_scores`.
    """
    scores, moves = arc_scores(kind, b, labels, frames, *changes), kind.oracle.moves
    alpha = np.full((frames + 1, len(labels) + 1, cap + 1), -np.inf)
    alpha[0, 0, 0] = 0.0
    for t in range(frames):
        for u in range(len(labels) + 1):
            for here in range(cap + 1):
                for k, (dt, du) in enumerate(moves):
                    if u + du <= len(labels) and here + du <= cap:
                        to = min(t + dt, frames), u + du, 0 if dt else here + du
                        alpha[to] = np.logaddexp(alpha[to], alpha[t, u, here] + scores[t, u, k])
    return alpha[frames, len(labels), 0]


def entropy(kind: LossUnderTest, logits: np.ndarray) -> float:
    """Of what comes next at a node, one of the labels or a blank, as a part of the largest possible entropy."""
    x = logits[: kind.oracle.vocabulary(kind.width)]
    p = np.exp(x - np.logaddexp.reduce(x))
    if kind.name == "hat":
        blank = kind.oracle.blanks(kind.width)[0]
        p = np.delete(np.exp(x), blank)
        p = np.append(p / p.sum() / (1 + np.exp(x[blank])), 1 / (1 + np.exp(-x[blank])))
    return -(p * np.log(p)).sum() / np.log(len(p))


def confidence(kind: LossUnderTest, b: int, labels, times, durations, frames: int, temperature: float = 1.0):
    """The log-probabilities and the entropies of labels at these times."""
    scores = arc_scores(kind, b, labels, frames, temperature=temperature)
    logits = example(kind).logits(b, labels, kind.oracle.blanks(kind.width)[0], frames) / temperature
    emitting = [k for k, (_, du) in enumerate(kind.oracle.moves) if du > 0]
    taken = [kind.oracle.moves[k][0] for k in emitting]
    arcs = [emitting[taken.index(d)] for d in durations] if durations is not None else [emitting[0]] * len(labels)
    log_probs = [scores[t, u, k] for u, (t, k) in enumerate(zip(times, arcs, strict=True))]
    return log_probs, [entropy(kind, logits[t, u]) for u, t in enumerate(times)]


def greedy(kind: LossUnderTest, b: int, frames: int, cap: int, *changes):
    """Decodes with a plain loop. Returns the labels, their times and durations, and the score of the path.

    `changes` are the last arguments of `arc_scores`.
    """
    labels, times, durations, total, t, here = [], [], [], 0.0, 0, 0
    while t < frames:
        found = []
        for label in labels_of(kind):
            scores = arc_scores(kind, b, [*labels, label], frames, *changes)[t, len(labels)]
            for score, (dt, du) in zip(scores, kind.oracle.moves, strict=True):
                if du == 0 or here < cap:
                    found.append((score, dt, label if du else None))
        score, dt, label = max(found, key=lambda arc: arc[0])
        total += score
        if label is not None:
            labels.append(label)
            times.append(t)
            durations.append(dt)
            here += 1
        t, here = t + dt, 0 if dt else here
    return labels, times, durations, total
