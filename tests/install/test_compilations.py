"""Calls outside of jit: from the second one on they compile nothing and keep no memory."""

import functools
import gc
import os
from collections.abc import Callable

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import jax_rnnt
from jax_rnnt import alignment

pytestmark = pytest.mark.once

B, T, U, V, D = 2, 5, 3, 8, 4
WIDTH = V + 2  # TDT's rows have two durations
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(1, 5, (B, U)).astype(np.int32)
LENGTHS = np.array([5, 3], np.int32), np.array([3, 2], np.int32)
LOSSES = {"rnnt": jax_rnnt.RNNTLoss(), "tdt": jax_rnnt.TDTLoss(durations=(0, 1))}


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def _joint(kernel, e, p):
    return jnp.tanh(e + p) @ kernel


ENCODED, PREDICTED, KERNEL = _normal(B, T, D), _normal(B, U + 1, D), _normal(D, WIDTH)
POSTERIORS = jnp.abs(_normal(B, T, U + 1, 2))
RANGES = np.zeros((B, T), np.int32)
NODES = jax_rnnt.node_labels(TARGETS, *LENGTHS, (B, T, U + 1, WIDTH), (0,))
# Each source, and the arrays that have a gradient.
SOURCES: dict[str, tuple[Callable, tuple[jax.Array, ...]]] = {
    "dense": (lambda x: x, (_normal(B, T, U + 1, WIDTH),)),
    "packed": (
        lambda x: jax_rnnt.PackedLogits(x, *LENGTHS, num_frames=T, num_labels=U),
        (_normal(B * T * (U + 1), WIDTH),),
    ),
    "joint": (functools.partial(jax_rnnt.JointLogits, _joint), (KERNEL, ENCODED, PREDICTED)),
}


def _gradient(loss: Callable, source: str) -> Callable[[], object]:
    make, arrays = SOURCES[source]
    step = jax.value_and_grad(lambda arrays: loss(make(*arrays), TARGETS, *LENGTHS), allow_int=True)
    return lambda: step(arrays)


def _lattice(tool: Callable, source: str) -> Callable[[], object]:
    make, arrays = SOURCES[source]
    return lambda: tool(LOSSES["rnnt"], make(*arrays), TARGETS, *LENGTHS)


def _sum_of_costs(arcs: jax.Array) -> jax.Array:
    return jnp.sum(jax_rnnt.lattice_cost(arcs, *LENGTHS))


def _times() -> np.ndarray:
    return np.ones((B, U), np.float32)


CALLS: dict[str, Callable[[], object]] = {
    "rnnt of dense logits": _gradient(LOSSES["rnnt"], "dense"),
    "tdt of dense logits": _gradient(LOSSES["tdt"], "dense"),
    "rnnt of joint logits": _gradient(LOSSES["rnnt"], "joint"),
    "clamped packed logits": _gradient(jax_rnnt.RNNTLoss(clamp=0.1), "packed"),
    "rnnt_loss": _gradient(functools.partial(jax_rnnt.rnnt_loss, fastemit_lambda=0.1), "dense"),
    "PackedLogits.pack": lambda: jax_rnnt.PackedLogits.pack(ENCODED, PREDICTED, *LENGTHS, num_rows=30),
    "PackedLogits.offsets": lambda: jax_rnnt.PackedLogits.offsets(*LENGTHS, T, U),
    "PrunedLogits.prune": lambda: jax_rnnt.PrunedLogits.prune(ENCODED, PREDICTED, RANGES, 2),
    "PrunedLogits.best_ranges": lambda: jax_rnnt.PrunedLogits.best_ranges(POSTERIORS, *LENGTHS, 2),
    "node_labels": lambda: jax_rnnt.node_labels(TARGETS, *LENGTHS, (B, T, U + 1, WIDTH), (0,)),
    "arc_log_probs": lambda: jax_rnnt.arc_log_probs(SOURCES["dense"][1][0], NODES.labels, (0,)),
    "lattice_cost": lambda: jax.grad(_sum_of_costs)(-POSTERIORS),
    "lattice_posteriors": lambda: jax_rnnt.lattice_posteriors(-POSTERIORS, *LENGTHS),
    "lattice_best_path": lambda: alignment.lattice_best_path(-POSTERIORS, *LENGTHS),
    "loss_lattice of joint logits": _lattice(alignment.loss_lattice, "joint"),
    "best_alignment": _lattice(alignment.best_alignment, "dense"),
    "emission_times": lambda: alignment.emission_times(POSTERIORS),
    "alignment_entropy": lambda: alignment.alignment_entropy(POSTERIORS),
    "expected_delay": lambda: alignment.expected_delay(_times(), _times()),
    "check_inputs": lambda: jax_rnnt.check_inputs(LOSSES["rnnt"], SOURCES["dense"][1][0], TARGETS, *LENGTHS),
}


@pytest.fixture(scope="module")
def compilations():
    """A list that gets an entry for each compilation."""
    names = []

    def listen(name: str, *_, **__) -> None:
        if name.endswith("backend_compile_duration"):
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    gc.collect()
    gc.freeze()  # so that a collection looks only at what the tests below make
    yield names
    gc.unfreeze()


def _resident() -> int:
    """The bytes of this process that are in memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@pytest.mark.parametrize("name", CALLS)
def test_further_calls_cost_nothing_more(name: str, compilations: list[str]) -> None:
    """They compile nothing and keep nothing.

    A program that is compiled in every call keeps 4 MB of it. The count of Python objects is exact, so it shows what
    grows more slowly.
    """
    call = CALLS[name]
    jax.block_until_ready(call())
    programs = len(compilations)
    jax.block_until_ready(call())
    assert len(compilations) == programs
    gc.collect()
    objects, resident, calls = len(gc.get_objects()), _resident(), 6
    for _ in range(calls):
        jax.block_until_ready(call())
    gc.collect()
    assert (len(gc.get_objects()) - objects) / calls < 3
    assert _resident() - resident < 8 << 20
