"""Runs the loss and compares the results with the oracle.

All tests share one compiled function for a set of options.
"""

import functools
from dataclasses import dataclass

import jax
import numpy as np
import reference
import tolerances

import jax_rnnt

DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Result:
    cost: np.ndarray  # [B] in float64, from a call with a gradient
    cost_alone: np.ndarray  # [B], from a call without a gradient: other code, without beta and posteriors
    gradient: np.ndarray  # [B, T, U+1, V] in float64
    cost_dtype: str
    gradient_dtype: str


@functools.cache
def compiled(implementation: str | None, blank: int, clamp: float, fused: bool):
    def run(logits, targets, logit_lengths, target_lengths, cotangent):
        def costs(x):
            return jax_rnnt.rnnt_loss(
                x, targets, logit_lengths, target_lengths, blank, clamp, "none", fused, implementation=implementation
            )

        cost, pull = jax.vjp(costs, logits)
        return costs(logits), cost, pull(cotangent.astype(cost.dtype))[0]

    return jax.jit(run)


def evaluate(
    implementation: str | None,
    logits,
    targets,
    logit_lengths,
    target_lengths,
    *,
    blank: int = -1,
    clamp: float = -1.0,
    fused: bool = True,
    dtype: str = "float64",
    cotangent=None,
) -> Result:
    """The costs, and the gradient of sum(cotangent * costs). The default cotangent is 1."""
    x = rounded(logits, dtype).astype(jax.numpy.dtype(dtype))
    ct = np.ones(len(logits)) if cotangent is None else np.asarray(cotangent, np.float64)
    run = compiled(implementation, blank, clamp, fused)
    arrays = [np.asarray(a) for a in (targets, logit_lengths, target_lengths)]
    alone, cost, gradient = run(x, *arrays, ct)
    return Result(
        np.asarray(cost, np.float64),
        np.asarray(alone, np.float64),
        np.asarray(gradient).astype(np.float64),
        str(cost.dtype),
        str(gradient.dtype),
    )


def rounded(logits, dtype: str) -> np.ndarray:
    """The values that the library sees, in float64. A value that a 16-bit type can't hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(logits).astype(jax.numpy.dtype(dtype)).astype(np.float64)


def scale_of(logits) -> float:
    """The largest absolute entry. It ignores infinities and finite masks, which stand for minus infinity."""
    x = np.abs(np.asarray(logits, np.float64))
    return float(np.max(x, where=x < 1e5, initial=0.0))


def assert_matches_oracle(
    result: Result,
    logits,
    targets,
    logit_lengths,
    target_lengths,
    *,
    blank: int = -1,
    clamp: float = -1.0,
    fused: bool = True,
    dtype: str = "float64",
    cotangent=None,
) -> None:
    """Compares costs, gradients and dtypes with the oracle.

    NaN, infinity and exact zeros must be where the oracle has them.
    """
    x = rounded(logits, dtype)
    cost, gradient = reference.rnnt_loss(x, targets, logit_lengths, target_lengths, blank, clamp, fused)
    if cotangent is not None:
        gradient = gradient * np.asarray(cotangent, np.float64)[:, None, None, None]
    size = float(np.max(np.abs(cost), where=np.isfinite(cost), initial=0.0))
    allowed = tolerances.tolerance(dtype, scale_of(x), x.shape[1] + x.shape[2], size)
    assert result.cost_dtype == ("float64" if dtype == "float64" else "float32")
    assert result.gradient_dtype == dtype
    for actual in (result.cost, result.cost_alone):
        np.testing.assert_allclose(actual, cost, rtol=allowed.cost_rtol, atol=allowed.cost_atol)
    # If an example is NaN, the contract leaves open whether some entries of its gradient are NaN or 0. These are the
    # entries that are not read (`fused=False`), and the rows of only -inf, which have no mass to move.
    broken = np.isnan(gradient).any(-1, keepdims=True)
    free = broken & (np.isneginf(x).all(-1, keepdims=True) if fused else ~np.isnan(gradient))
    assert (np.isnan(result.gradient) | (result.gradient == 0))[free & np.ones_like(x, bool)].all()
    actual = np.where(free, gradient, result.gradient)
    size = 1.0 if cotangent is None else max(1.0, float(np.max(np.abs(cotangent))))
    np.testing.assert_allclose(actual, gradient, rtol=allowed.gradient_rtol, atol=allowed.gradient_atol * size)
    outside = outside_lattice(x.shape, logit_lengths, target_lengths) & ~np.isnan(gradient).any(-1)
    assert (actual[outside] == 0).all(), "the gradient of padding must be exactly zero"
    assert (actual[np.isposinf(cost)] == 0).all(), "the gradient of an impossible example must be exactly zero"


def outside_lattice(shape, logit_lengths, target_lengths) -> np.ndarray:
    """[B, T, U+1]: the nodes outside the lattice of their example."""
    t, u = np.arange(shape[1]), np.arange(shape[2])
    beyond_t = t[None, :] >= np.asarray(logit_lengths)[:, None]
    beyond_u = u[None, :] > np.asarray(target_lengths)[:, None]
    return beyond_t[:, :, None] | beyond_u[:, None, :]
