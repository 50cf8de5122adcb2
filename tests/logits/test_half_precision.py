"""Gradients of long utterances in bfloat16: every source against float64, for the same rounded operands.

The operands are what a user differentiates: outputs of the encoder and of the predictor, and the joint network's
matrix. A gradient is a sum over hundreds of nodes. Sums that are kept in 16 bits are off by 11% here.
"""

import functools

import jax
import jax.numpy as jnp
import losses
import numpy as np
import pytest

import jax_rnnt

pytestmark = pytest.mark.once

T, U, V, D = 1000, 100, 8, 4
LENGTHS = np.array([T], np.int32), np.array([U], np.int32)
TARGETS = np.random.default_rng(1).integers(1, V, (1, U)).astype(np.int32)


def _joint(kernel, e, p):
    return jnp.tanh(e + p) @ kernel


def _dense(kernel, e, p):
    return _joint(kernel, e[:, :, None], p[:, None])


def _packed(kernel, e, p):
    rows = jax_rnnt.PackedLogits.pack(e, p, *LENGTHS, num_rows=T * (U + 1))
    return jax_rnnt.PackedLogits(_joint(kernel, *rows), *LENGTHS, num_frames=T, num_labels=U)


def _pruned(kernel, e, p):
    """All positions are kept."""
    ranges = np.zeros((1, T), np.int32)
    return jax_rnnt.PrunedLogits(
        _joint(kernel, *jax_rnnt.PrunedLogits.prune(e, p, ranges, U + 1)), ranges, num_labels=U
    )


def _tiled(kernel, e, p):
    return jax_rnnt.JointLogits(_joint, kernel, e, p)


JOINTS = {"dense": _dense, "packed": _packed, "pruned": _pruned, "joint": _tiled}


def _gradient(make, operands):
    def loss(operands):
        return jax_rnnt.rnnt_loss(make(*operands), TARGETS, *LENGTHS, blank=0, implementation=losses.QUICK)

    return losses.jit(jax.grad(loss))(operands)


def _made(name: str):
    if name in JOINTS:
        return JOINTS[name]
    return lambda am, lm: jax_rnnt.AdditiveLogits(am, lm, 0.25, 0.25)


@functools.cache
def _operands(name: str, dtype: str) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(0)
    shapes = [(D, V), (1, T, D), (1, U + 1, D)] if name in JOINTS else [(1, T, V), (1, U + 1, V)]
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


@functools.cache
def _expected(name: str) -> tuple[np.ndarray, ...]:
    wide = tuple(x.astype("float64") for x in _operands(name, "bfloat16"))
    return tuple(map(np.asarray, _gradient(_made(name), wide)))


@pytest.mark.parametrize("name", ["packed", "pruned", "joint", "smoothed"])
def test_gradients_are_within_a_percent(name: str) -> None:
    gradients = _gradient(_made(name), _operands(name, "bfloat16"))
    wanted = _expected("dense" if name in JOINTS else name)
    for operand, actual, exact in zip(("kernel", "e", "p")[-len(wanted) :], gradients, wanted, strict=True):
        assert actual.dtype == "bfloat16"
        error = np.linalg.norm(np.asarray(actual, np.float64) - exact) / np.linalg.norm(exact)
        assert error <= 0.01, f"{operand}: {error:.1%}"
