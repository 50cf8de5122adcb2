"""Times steps that JAX compiles.

A round runs all of them once, so other work of the machine slows all of them alike.
"""

import random
import statistics
import time
from collections.abc import Callable

import jax


def compiled(function: Callable, *arguments) -> tuple[Callable, int, int]:
    """Compiles ``function(*arguments)``.

    Returns a call of it, and the bytes of its temporaries and results, by XLA's plan.
    """
    step = jax.jit(function).lower(*arguments).compile()
    plan = step.memory_analysis()
    return lambda: step(*arguments), plan.temp_size_in_bytes, plan.output_size_in_bytes


def interleaved(calls: dict[str, Callable], rounds: int, summary: Callable = statistics.median) -> dict[str, float]:
    """The seconds of each call. The first run of a call does not count, and each round has an order of its own.

    For calls that are short compared with the other work of a busy machine, the minimum (`min`) says more than the
    median.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for i in range(rounds + 1):
        for name in order.sample(list(calls), len(calls)):
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            if i:
                samples[name].append(time.perf_counter() - start)
    return {name: summary(times) for name, times in samples.items()}
