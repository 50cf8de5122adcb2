"""For someone with a TPU: are the losses right there, and how long do the lax form and the Pallas kernels take?

    python scripts/tpu_check.py

It compares losses and gradients of both forms with float64 on the CPU, and then times them. Please paste what it prints
last into an issue. Without a TPU the kernels run in Pallas's interpreter, for RNN-T alone because that takes long, and
nothing is timed.
"""

import dataclasses
import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt
from jax_rnnt.xla import pallas

FORMS = ("lax", "pallas")
COST_ERROR, GRADIENT_ERROR = 1e-4, 1e-3  # relative and absolute; float32 has errors of a hundredth of that
BATCH, FRAMES, LABELS, WIDTH = 3, 12, 5, 16
LOSSES = {
    "RNN-T": jax_rnnt.RNNTLoss(blank=0, reduction="none"),
    "monotonic": jax_rnnt.MonotonicRNNTLoss(blank=0, reduction="none"),
    "multi-blank": jax_rnnt.MultiblankRNNTLoss(
        blank=0, big_blanks=(WIDTH - 1, WIDTH - 2), durations=(2, 4), reduction="none"
    ),
    "TDT": jax_rnnt.TDTLoss(blank=0, durations=(0, 1, 2, 3), reduction="none"),
    "HAT": jax_rnnt.HATLoss(blank=0, reduction="none"),
}
TIMED = [(8, 200, 50), (32, 400, 100), (4, 800, 200)]  # B, T, U
VOCABULARY = 1024
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


@functools.cache
def compiled(function, form):
    def costs_and_gradient(x, *arrays):
        cost, pull = jax.vjp(lambda x: function(form)(x, *arrays), x)
        return cost, pull(jnp.ones_like(cost))[0]

    return jax.jit(costs_and_gradient)


def with_form(loss, form):
    return dataclasses.replace(loss, implementation=form)


def lattice_cost(form):
    return functools.partial(jax_rnnt.lattice_cost, implementation=form)


def cases():
    """The name, the function of an implementation, and its arrays, of which the first one has a gradient."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(BATCH, FRAMES, LABELS + 1, WIDTH)).astype(np.float32)
    targets = random.integers(1, WIDTH - 4, (BATCH, LABELS)).astype(np.int32)
    lengths = np.array([FRAMES, FRAMES - 1, FRAMES - 3], np.int32), np.array([LABELS, LABELS - 2, 0], np.int32)
    for name, loss in LOSSES.items():
        yield name, functools.partial(with_form, loss), (logits, targets, *lengths)
    arcs = random.normal(size=(BATCH, FRAMES, LABELS + 1, 2)).astype(np.float32)
    bad = arcs.copy()
    bad[0, 3:5, 2:] = -np.inf
    bad[1, 1, 0, 0] = np.nan
    yield "-inf, NaN, a length out of range", lattice_cost, (bad, lengths[0], np.array([LABELS, LABELS, -1], np.int32))
    masked = arcs.copy()
    masked[0, 3:5, 2:] = -1e9
    yield "masks of -1e9", lattice_cost, (masked, *lengths)


def errors(actual, expected):
    """The relative error of the costs and the absolute one of the gradients; inf where one is NaN and one is not."""
    worst = []
    for x, y, size in zip(actual, expected, (np.abs(expected[0]), 1.0), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore"):
            error = np.where(same, 0, np.abs(x - y) / np.maximum(size, 1))
        worst.append(float(np.max(np.where(np.isfinite(error), error, np.inf))))
    return worst


def compare() -> tuple[list[str], bool]:
    lines, right = [], True
    for name, function, arrays in cases():
        with enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            first = jnp.asarray(arrays[0], jnp.float64)
            expected = [np.asarray(x) for x in compiled(function, "lax")(first, *arrays[1:])]
        for form in FORMS if jax.default_backend() == "tpu" or name not in list(LOSSES)[1:] else FORMS[:1]:
            actual = compiled(function, form)(*arrays)
            cost, gradient = errors(actual, expected)
            verdict = "right" if cost < COST_ERROR and gradient < GRADIENT_ERROR else "WRONG"
            right = right and verdict == "right"
            lines.append(f"{name:34} {form:7} {verdict}  cost {cost:.0e}  gradient {gradient:.0e}")
            print(lines[-1], flush=True)
    return lines, right


def milliseconds(function, *arrays) -> float:
    """The least of five means of ten calls."""
    jax.block_until_ready(function(*arrays))  # compiles
    means = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready([function(*arrays) for _ in range(10)])
        means.append((time.perf_counter() - start) * 100)
    return min(means)


def times():
    yield f"{'B, T, U':14} {'':8} {'lattice':>10} {'RNN-T loss and gradient, V = 1024, bf16':>42}   (ms)"
    for batch, frames, labels in TIMED:
        key = jax.random.key(0)
        arcs = jax.nn.log_softmax(jax.random.normal(key, (batch, frames, labels + 1, 2)))
        logits = jax.random.normal(key, (batch, frames, labels + 1, VOCABULARY), jnp.bfloat16)
        targets = jax.random.randint(key, (batch, labels), 1, VOCABULARY)
        lengths = jnp.full((batch,), frames), jnp.full((batch,), labels)
        for form in FORMS:
            posteriors = jax.jit(functools.partial(jax_rnnt.lattice_posteriors, implementation=form))
            loss = functools.partial(jax_rnnt.rnnt_loss, blank=0, implementation=form)
            lattice = milliseconds(posteriors, arcs, *lengths)
            both = milliseconds(jax.jit(jax.value_and_grad(loss)), logits, targets, *lengths)
            yield f"{f'{batch}, {frames}, {labels}':14} {form:8} {lattice:10.3f} {both:42.3f}"


def main() -> None:
    on_tpu = jax.default_backend() == "tpu"
    if not on_tpu:
        pallas.interpreted = True
    lines, right = compare()
    timed = list(times()) if on_tpu else ["no TPU, so nothing is timed"]
    device = jax.devices()[0]
    print(f"\njax {jax.__version__}, jax_rnnt {jax_rnnt.build_info()['version']}, {device.device_kind}")
    print("\n".join([*lines, *timed]))
    if not right:
        sys.exit("Something is WRONG above.")


if __name__ == "__main__":
    main()
