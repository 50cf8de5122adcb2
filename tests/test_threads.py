"""What the kernels do to the threads of the process that they share work with."""

import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

import jax_rnnt

pytestmark = pytest.mark.once
TASKS = pathlib.Path("/proc/self/task")


def allowed_processors() -> dict[str, frozenset[int]]:
    return {task.name: frozenset(os.sched_getaffinity(int(task.name))) for task in TASKS.iterdir()}


@pytest.mark.skipif(not TASKS.is_dir(), reason="needs /proc")
def test_threads_may_run_where_they_might_before():
    """A thread that was moved to another processor (cpp/processor.h) may come back, and nothing else was touched."""
    if not jax_rnnt.native_available():
        pytest.skip("the compiled module is not usable")
    b, t, u, v = 4, 100, 20, 512  # 17 MB: many chunks for every thread
    logits = jnp.zeros((b, t, u + 1, v), jnp.float32)
    targets, lengths = jnp.ones((b, u), jnp.int32), (jnp.full(b, t), jnp.full(b, u))
    step = jax.jit(jax.grad(lambda x: jax_rnnt.rnnt_loss(x, targets, *lengths, implementation="native")))
    jax.block_until_ready(step(logits))
    before = allowed_processors()
    for _ in range(20):
        jax.block_until_ready(step(logits))
    after = allowed_processors()
    assert {name: after[name] for name in before.keys() & after.keys()} == {
        name: before[name] for name in before.keys() & after.keys()
    }
    assert before[str(os.getpid())] == frozenset(os.sched_getaffinity(0))
