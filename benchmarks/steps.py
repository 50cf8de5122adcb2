"""Times steps that JAX compiles, all of them once a round: what else the machine does, it does to all of them."""

import random
import statistics
import time
from collections.abc import Callable

import jax


def compiled(function: Callable, *arguments) -> tuple[Callable, int, int]:
    """A call of ``function(*arguments)``, and the bytes of its temporaries and of its results as XLA plans them."""
    step = jax.jit(function).lower(*arguments).compile()
    plan = step.memory_analysis()
    return lambda: step(*arguments), plan.temp_size_in_bytes, plan.output_size_in_bytes


def interleaved(calls: dict[str, Callable], rounds: int, summary: Callable = statistics.median) -> dict[str, float]:
    """Seconds of each call, after one that is not counted; each round has an order of its own.

    Of calls that are short against what else a busy machine does, the least (`min`) says more than the median.
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
