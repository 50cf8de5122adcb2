"""Two fusions, and in plain Python what they add; for decoders of V labels."""

import functools

import jax.numpy as jnp
import numpy as np

from jax_rnnt.decoding import Fusion

WEIGHTS = 0.7, -0.4


@functools.cache
def bigram_table(v: int) -> np.ndarray:
    """[last, next]; the last column is the end."""
    return np.log(np.random.default_rng(5).dirichlet(np.ones(v + 1), size=v))


@functools.cache
def list_table(v: int) -> np.ndarray:
    """Two lists of scores, at three positions in turn."""
    return np.random.default_rng(6).normal(size=(2, 3, v))


def bigram(params, state, label):
    del state
    return label, params[label, :-1]


def end(params, state):
    return params[state, -1]


def lists(params, state, label):
    which, count = state
    return (which, count + 1), params[which, count % 3]


def fusions(v: int, which) -> tuple[Fusion, Fusion]:
    """A bigram model, and scores that depend on the utterance's list, ``which [B]``, and on the number of labels."""
    which = jnp.asarray(which, jnp.int32)
    return (
        Fusion(bigram, bigram_table(v), jnp.zeros(1, jnp.int32), WEIGHTS[0], end),
        Fusion(lists, list_table(v), (which, 0 * which), WEIGHTS[1]),
    )


def extra_of(v: int, start: int):
    """What the fusions add, where utterance b has list b % 2."""

    def extra(b, labels):
        last = [start, *labels][-1]
        return WEIGHTS[0] * bigram_table(v)[last, :-1] + WEIGHTS[1] * list_table(v)[b % 2, len(labels) % 3]

    return extra


def end_of(v: int, start: int, labels) -> float:
    return WEIGHTS[0] * bigram_table(v)[[start, *labels][-1], -1]
