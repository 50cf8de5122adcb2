"""The sources under test.

Each one says how it holds the logits of `losses.batch`, and how its gradient follows from that of a dense array.
Packing and pruning are written here a second time, node by node. Rows that must not be read are NaN.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import losses
import numpy as np
import runner
import tolerances
from losses import Batch, LossUnderTest, T, U

import jax_rnnt

SPARE, KEPT = 3, 2
Arrays = tuple[np.ndarray, ...]


def is_valid(frames: int, labels: int) -> bool:
    return 0 <= frames <= T and 0 <= labels <= U


def nodes_of(logit_lengths: Sequence[int], target_lengths: Sequence[int]):
    """Yields (b, t, u) of every node within the lengths, in the order of packed rows."""
    for b, (frames, labels) in enumerate(zip(logit_lengths, target_lengths, strict=True)):
        if is_valid(frames, labels):
            yield from ((b, t, u) for t in range(frames) for u in range(labels + 1))


@dataclasses.dataclass(frozen=True, eq=False)
class SourceUnderTest:
    name: str
    arrays: Callable[[Batch], Arrays]  # floating-point arrays, which have a gradient
    source: Callable[..., object]  # made from these arrays and the lengths
    logits: Callable[[Batch], np.ndarray]  # the dense array that the source stands for
    gradient: Callable[[Batch, np.ndarray], Arrays]  # the gradient of the arrays, from that of the logits
    nodes: Callable[[Batch], np.ndarray | None] = lambda batch: None  # which nodes there are, if not all are


# --- packed -----------------------------------------------------------------------------------------------------------


def packed_rows(batch: Batch) -> Arrays:
    nodes = list(nodes_of(*batch.arrays[2:]))
    return (
        np.concatenate(
            [np.stack([batch.logits[node] for node in nodes]), np.full((SPARE, batch.logits.shape[-1]), np.nan)]
        ),
    )


def packed_gradient(batch: Batch, gradient: np.ndarray) -> Arrays:
    nodes = list(nodes_of(*batch.arrays[2:]))
    return (np.concatenate([np.stack([gradient[node] for node in nodes]), np.zeros((SPARE, batch.logits.shape[-1]))]),)


def packed(rows, logit_lengths, target_lengths):
    return jax_rnnt.PackedLogits(rows, logit_lengths, target_lengths, num_frames=T, num_labels=U)


# --- pruned -----------------------------------------------------------------------------------------------------------


@functools.cache
def ranges(examples: int) -> np.ndarray:
    """The first of the KEPT positions of each frame. It starts at 0 and never falls."""
    steps = np.random.default_rng(3).integers(0, 2, (examples, T))
    steps[:, 0] = 0
    return np.minimum(np.cumsum(steps, axis=1), U).astype(np.int32)


def kept_nodes(examples: int):
    """Yields (b, t, s) and (b, t, u) of every row whose position is in [0, U]."""
    for b, t, s in np.ndindex(examples, T, KEPT):
        u = ranges(examples)[b, t] + s
        if u <= U:
            yield (b, t, s), (b, t, u)


def pruned_rows(batch: Batch) -> Arrays:
    rows = np.full((len(batch.names), T, KEPT, batch.logits.shape[-1]), np.nan)
    for row, node in kept_nodes(len(rows)):
        rows[row] = batch.logits[node]
    return (rows,)


def pruned_logits(batch: Batch) -> np.ndarray:
    """The dense logits. Pruned nodes are -inf in all entries, so no path goes through them."""
    logits = np.full(batch.logits.shape, -np.inf)
    for _, node in kept_nodes(len(logits)):
        logits[node] = batch.logits[node]
    return logits


def pruned_nodes(batch: Batch) -> np.ndarray:
    nodes = np.zeros(batch.logits.shape[:3], bool)
    for _, node in kept_nodes(len(nodes)):
        nodes[node] = True
    return nodes


def pruned_gradient(batch: Batch, gradient: np.ndarray) -> Arrays:
    rows = np.zeros((len(batch.names), T, KEPT, batch.logits.shape[-1]))
    for row, node in kept_nodes(len(rows)):
        rows[row] = gradient[node]
    return (rows,)


def pruned(rows, logit_lengths, target_lengths):
    return jax_rnnt.PrunedLogits(rows, jnp.asarray(ranges(rows.shape[0])), num_labels=U)


# --- additive ---------------------------------------------------------------------------------------------------------


def parts(batch: Batch) -> Arrays:
    """The parts of frames and of positions: column 1 and frame 0 of the batch. Each bad value is in one."""
    return batch.logits[:, :, 1], batch.logits[:, 0]


def sums(batch: Batch) -> np.ndarray:
    am, lm = parts(batch)
    with np.errstate(invalid="ignore"):
        return am[:, :, None] + lm[:, None]


def gradient_of_parts(batch: Batch, gradient: np.ndarray) -> Arrays:
    return gradient.sum(axis=2), gradient.sum(axis=1)


def additive(am, lm, logit_lengths, target_lengths):
    return jax_rnnt.AdditiveLogits(am, lm)


SOURCES = (
    SourceUnderTest("packed", packed_rows, packed, lambda batch: batch.logits, packed_gradient),
    SourceUnderTest("pruned", pruned_rows, pruned, pruned_logits, pruned_gradient, pruned_nodes),
    SourceUnderTest("additive", parts, additive, sums, gradient_of_parts),
)


# --- evaluation -------------------------------------------------------------------------------------------------------


@functools.cache
def _compiled(source: SourceUnderTest, loss: LossUnderTest, implementation: str, clamp: float):
    def run(arrays, targets, logit_lengths, target_lengths, cotangent):
        def costs(arrays):
            held = source.source(*arrays, logit_lengths, target_lengths)
            return loss.costs(held, targets, logit_lengths, target_lengths, clamp=clamp, implementation=implementation)

        cost, pull = jax.vjp(costs, arrays)
        return cost, pull(cotangent.astype(cost.dtype))[0]

    return losses.jit(run)


def evaluate(source, loss, implementation=losses.QUICK, dtype="float64", clamp=-1.0, cotangent=None):
    """The costs and the gradients of the source's arrays, in float64."""
    batch = losses.batch(loss)
    arrays = tuple(runner.rounded(x, dtype).astype(jnp.dtype(dtype)) for x in source.arrays(batch))
    ct = np.ones(len(batch.names)) if cotangent is None else cotangent
    cost, gradients = _compiled(source, loss, implementation, clamp)(arrays, *batch.arrays[1:], ct)
    assert cost.dtype == ("float64" if dtype == "float64" else "float32")
    assert all(g.dtype == dtype for g in gradients)
    return np.asarray(cost, np.float64), [np.asarray(g).astype(np.float64) for g in gradients]


def assert_matches(source, loss, cost, gradients, dtype="float64", clamp=-1.0, cotangent=None) -> None:
    """Compares the results with the definition, for the dense logits that the source stands for."""
    batch = losses.batch(loss)
    batch = dataclasses.replace(batch, logits=runner.rounded(batch.logits, dtype))
    x = source.logits(batch)
    wanted_cost, dense = loss.expected(x, *batch.arrays[1:], clamp=clamp, nodes=source.nodes(batch))
    ct = np.ones(len(batch.names)) if cotangent is None else cotangent
    dense = np.where((ct == 0)[:, None, None, None], 0, dense * ct[:, None, None, None])
    size = np.abs(np.nan_to_num(wanted_cost, posinf=0.0))
    allowed = tolerances.tolerance(dtype, runner.scale_of(x), T + U, min(size.max(), 1e3))
    for b, name in enumerate(batch.names):
        np.testing.assert_allclose(cost[b], wanted_cost[b], allowed.cost_rtol, allowed.cost_atol, err_msg=name)
    for actual, wanted in zip(gradients, source.gradient(batch, dense), strict=True):
        assert actual.shape == wanted.shape
        nan = np.isnan(wanted)
        assert (np.isnan(actual) | (actual == 0))[nan].all()
        assert np.isnan(actual).any(-1)[nan.any(-1)].all()
        atol = allowed.gradient_atol * max(1.0, np.abs(ct).max()) * (T + U)
        np.testing.assert_allclose(np.where(nan, 0, actual), np.where(nan, 0, wanted), allowed.gradient_rtol, atol)
        untouched = (np.where(nan, 1, wanted) == 0).all(-1)
        assert (actual[untouched] == 0).all()
