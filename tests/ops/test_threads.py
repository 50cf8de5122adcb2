"""What the kernels do to the threads of the process, with which they share work."""

import contextlib
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import pytest

import jax_rnnt
from jax_rnnt.xla import native

pytestmark = [pytest.mark.once, pytest.mark.host]
TASKS = pathlib.Path("/proc/self/task")


def allowed_processors() -> dict[str, frozenset[int]]:
    found = {}
    for task in TASKS.iterdir():
        with contextlib.suppress(ProcessLookupError):  # the thread has ended since
            found[task.name] = frozenset(os.sched_getaffinity(int(task.name)))
    return found


@pytest.mark.skipif(not TASKS.is_dir(), reason="needs /proc")
def test_threads_may_run_where_they_might_before():
    """A thread that the kernels moved (cpp/processor.h) may use every processor again. No other thread changes."""
    if not native.native_available():
        pytest.skip("the compiled module is not usable")
    b, t, u, v = 4, 100, 20, 512  # 17 MB: many chunks for every thread
    logits = jnp.zeros((b, t, u + 1, v), jnp.float32)
    targets, lengths = jnp.ones((b, u), jnp.int32), (jnp.full(b, t), jnp.full(b, u))
    step = jax.jit(jax.grad(lambda x: jax_rnnt.rnnt_loss(x, targets, *lengths, implementation="native")))
    for _ in range(20):
        jax.block_until_ready(step(logits))
    everywhere = frozenset(os.sched_getaffinity(0))
    for _ in range(50):  # a thread that wakes after the work may still be moving
        confined = {name: where for name, where in allowed_processors().items() if where != everywhere}
        if not confined:
            break
        time.sleep(0.1)
    assert not confined
