"""The lattice of every loss, and the best alignment in it, from dense logits and from other sources."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import reference_losses
from losses import LossUnderTest
from meshes import P

import jax_rnnt
from jax_rnnt.losses.monotonic import MONOTONIC_MOVES

pytestmark = pytest.mark.once
ROWS = (*losses.LOSSES, *losses.VARIANTS)
WITHOUT_JUMPS = tuple(loss for loss in ROWS if loss.on.wildcard is None)


def _each(rows):
    return pytest.mark.parametrize("loss", rows, ids=lambda loss: loss.name)


def best_by_definition(loss: LossUnderTest, logits, targets, frames: int, labels: int):
    """The score and the edges of the best of all paths of one example, by the definition of the loss."""
    found = []

    def keep(edges, frames, labels, shape):
        paths = reference_losses.paths_along(edges, (0, 0), (frames, labels))
        scored = [(sum(score for _, _, score, _ in path), path) for path in paths]
        found.extend(entry for entry in scored if entry[0] > -np.inf)
        return 0.0, np.zeros(shape)

    reference_losses.example(loss.oracle, logits, targets, frames, labels, loss.on, total=keep)
    return max(found, key=lambda entry: entry[0], default=(-np.inf, []))


@_each(WITHOUT_JUMPS)
def test_best_alignment_of_every_loss(loss: LossUnderTest) -> None:
    """Compares it with all paths of the definition. The batch has corner cases and bad rows."""
    batch = losses.batch(loss)
    best = losses.jit(functools.partial(jax_rnnt.alignment.best_alignment, loss.made()))(*batch.arrays)
    costs, _ = loss.expected(*batch.arrays)
    for b, name in enumerate(batch.names):
        frames, durations = np.full(losses.U, -1), np.full(losses.U, -1)
        cost = np.nan
        if not np.isnan(costs[b]):
            score, path = best_by_definition(loss, *(a[b] for a in batch.arrays))
            cost = 0.0 - score
            for (t, u), (to_t, to_u), *_ in path:
                if to_u > u:
                    frames[u], durations[u] = t, to_t - t
        np.testing.assert_allclose(best.cost[b], cost, rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(best.frames[b], frames, err_msg=name)
        np.testing.assert_array_equal(best.durations[b], durations, err_msg=name)


@_each(ROWS)
def test_lattice_of_every_loss(loss: LossUnderTest) -> None:
    """The sum over the lattice is the loss, and both have the same gradient.

    Clamp and FastEmit do not change the lattice.
    """
    batch = losses.batch(loss)
    made = loss.made(clamp=0.1)

    def cost(x):
        lattice = jax_rnnt.alignment.loss_lattice(made, x, *batch.arrays[1:])
        return jax_rnnt.lattice_cost(*lattice, implementation=losses.QUICK)

    @losses.jit
    def run(x):
        value, pull = jax.vjp(cost, x)
        return value, pull(jnp.ones_like(value))[0]

    plain = dataclasses.replace(loss, on=dataclasses.replace(loss.on, fastemit_lambda=0.0))
    losses.assert_matches(plain, *map(np.asarray, run(batch.logits)))


TARGETS, T_B, U_B = np.array([[1, 2, 1], [2, 1, 2]], np.int32), np.array([5, 4], np.int32), np.array([3, 2], np.int32)
LOGITS = np.random.default_rng(3).normal(size=(2, 5, 4, 8))
BATCH = LOGITS, TARGETS, T_B, U_B


REFUSED = [jnp.zeros(3), jax_rnnt.rnnt_loss, jax_rnnt.RNNTLoss, None]


@pytest.mark.parametrize("loss", REFUSED)
def test_what_is_not_a_loss_is_refused(loss) -> None:
    for call in (jax_rnnt.alignment.best_alignment, jax_rnnt.alignment.loss_lattice, jax_rnnt.check_inputs):
        with pytest.raises(TypeError, match=r"`loss` must be a loss .*such as RNNTLoss\(blank=0\), got"):
            call(loss, *BATCH)


def test_a_lattice_is_a_pytree() -> None:
    """Its moves are static. So it passes through compiled functions and still unpacks."""
    lattice = jax.jit(jax_rnnt.alignment.loss_lattice)(jax_rnnt.MonotonicRNNTLoss(), *BATCH)
    assert lattice.moves == MONOTONIC_MOVES
    cost = jax.jit(lambda lattice: jax_rnnt.lattice_cost(*lattice))(lattice)
    expected = jax_rnnt.monotonic_rnnt_loss(*BATCH, reduction="none")
    np.testing.assert_allclose(cost, expected, rtol=1e-12)
    assert len(jax.tree.leaves(lattice)) == 3


def _joint(params, e, p):
    return jnp.tanh(e + p) @ params


def _joint_batch() -> tuple[tuple, jax_rnnt.JointLogits]:
    rng = np.random.default_rng(4)
    params, e, p = (jnp.asarray(rng.normal(size=s)) for s in ((6, 8), (2, 5, 6), (2, 4, 6)))
    dense = _joint(params, e[:, :, None], p[:, None])
    return (dense, *BATCH[1:]), jax_rnnt.JointLogits(_joint, params, e, p)


@pytest.mark.parametrize("source", ["joint", "divided", "divided_inside"])
def test_other_sources(source: str) -> None:
    """Logits that are not in one array give the alignment of dense logits, and the same gradient through their arcs."""
    dense, joint = _joint_batch()
    weight = np.random.default_rng(5).normal(size=(2, 5, 4, 7))

    def weighted(logits, *rest, **more):
        loss = jax_rnnt.TDTLoss(durations=(0, 1, 2, 3), implementation=losses.QUICK, **more)
        arcs = jax_rnnt.alignment.loss_lattice(loss, logits, *rest).arcs
        return jnp.sum(jnp.where(jnp.isfinite(arcs), arcs * weight, 0))

    def both(logits, *rest, **more):
        loss = jax_rnnt.TDTLoss(durations=(0, 1, 2, 3), implementation=losses.QUICK, **more)
        best = jax_rnnt.alignment.best_alignment(loss, logits, *rest)
        return best, jax.grad(weighted, allow_int=True)(logits, *rest, **more)

    expected, slope = losses.jit(both)(*dense)
    if source == "joint":
        actual, gradient = losses.jit(both)(joint, *dense[1:])
        _, pull = jax.vjp(lambda w, e, p: _joint(w, e[:, :, None], p[:, None]), *jax.tree.leaves(joint))
        for ours, theirs in zip(jax.tree.leaves(gradient), pull(slope), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    else:
        mesh = meshes.make_mesh(model=2)
        spec = P(None, None, None, "model")
        run = functools.partial(both, vocab_axis_name="model")
        if source == "divided_inside":
            run = jax.shard_map(run, mesh=mesh, in_specs=(spec, P(), P(), P()), out_specs=(P(), spec))
        with jax.set_mesh(mesh):
            arrays = meshes.put(mesh, dense[0], *spec), *(meshes.put(mesh, a) for a in dense[1:])
            actual, gradient = losses.jit(run)(*arrays)
        np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert (np.asarray(expected.frames) >= 0).sum() == U_B.sum()
