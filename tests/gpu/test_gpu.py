"""Tests of the CUDA kernels on a real GPU: values, gradients, corner cases, memory. Without a GPU they are skipped.

    python -m pytest --noconftest tests/gpu

The expected values come from the lax form in float64 on the CPU of the same machine. The tests need jax with CUDA, and
jax_rnnt built with CUDA. scripts/gpu_check.sh builds jax_rnnt and runs the tests.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_rnnt
from jax_rnnt import rnnt_loss


def _gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        return None


GPU = _gpu()
pytestmark = [
    pytest.mark.skipif(GPU is None, reason="jax finds no GPU here"),
    pytest.mark.skipif(
        jax_rnnt.build_info()["implementations"]["cuda"] != "native", reason="this build has no CUDA kernels"
    ),
]

jax.config.update("jax_enable_x64", True)

# Tolerances of costs, and of the gradient before it is rounded. For the 16-bit types both are computed in float32.
COMPUTED = {"float64": 1e-10, "float32": 2e-5, "float16": 2e-5, "bfloat16": 2e-5}
SHAPES = [
    (1, 1, 0, 2),
    (3, 1, 5, 7),
    (4, 9, 0, 33),
    (8, 30, 20, 28),
    (2, 25, 40, 500),
    (2, 20, 70, 523),
    (2, 12, 9, 8192),
]


def example(b, t, u, v, dtype="float32", seed=0):
    random = np.random.default_rng(seed)
    logits = jnp.asarray(random.normal(0, 2, (b, t, u + 1, v)), dtype)
    targets = random.integers(1, v, (b, u)).astype(np.int32)
    frames = np.array([t] + [int(random.integers(1, t + 1)) for _ in range(b - 1)], np.int32)
    labels = np.array([u] + [int(random.integers(0, u + 1)) for _ in range(b - 1)], np.int32)
    return logits, targets, frames, labels


def value_and_grad(device, implementation, logits, *rest, **options):
    logits, *rest = jax.device_put((logits, *rest), device)

    def total(x):
        costs = rnnt_loss(x, *rest, blank=0, reduction="none", implementation=implementation, **options)
        return costs.sum(), costs

    (_, costs), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
    return np.asarray(costs, np.float64), np.asarray(gradient.astype(jnp.float64))


def check(logits, *rest, **options):
    reference = logits.astype(jnp.float64)
    costs, gradient = value_and_grad(GPU, "native", logits, *rest, **options)
    wanted_costs, wanted = value_and_grad(jax.devices("cpu")[0], "lax", reference, *rest, **options)
    computed = COMPUTED[logits.dtype.name]
    np.testing.assert_allclose(costs, wanted_costs, rtol=min(computed, 1e-5), atol=computed)
    assert_rounded_to_nearest(gradient, wanted, logits.dtype, computed)


def assert_rounded_to_nearest(got, wanted, dtype, computed):
    """The error is at most half a unit in the last place of `dtype`, plus the error before rounding.

    Rounding toward zero would have an error of a whole unit.
    """
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    kind = jnp.finfo(dtype)
    exponents = np.maximum(np.frexp(wanted)[1] - 1, kind.minexp)
    allowed = np.ldexp(0.5, exponents - kind.nmant) + computed * (1 + np.abs(wanted))
    assert (np.isfinite(got) & (np.abs(got - wanted) <= allowed)).all(), np.abs(got - wanted).max()


@pytest.mark.parametrize("dtype", COMPUTED)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, dtype):
    check(*example(*shape, dtype))


def test_a_lattice_wider_than_a_block():
    check(*example(2, 40, 700, 16))


def test_a_lattice_whose_past_needs_a_workspace():
    check(*example(1, 20, 2500, 8))


def test_clamp():
    check(*example(3, 20, 10, 64), clamp=0.05)


def test_log_probabilities():
    logits, *rest = example(3, 20, 10, 64, "float64")
    check(jax.nn.log_softmax(logits), *rest, fused_log_softmax=False)


def test_long_utterances():
    check(*example(2, 1500, 100, 32))


@pytest.mark.parametrize(
    "moves",
    [
        ((1, 0), (1, 1)),
        ((1, 0), (2, 0), (4, 0), (0, 1)),
        ((1, 0), (2, 0), (0, 1), (1, 1), (2, 1)),
        ((1, 0), (2, 0), (3, 0), (4, 0), (0, 1), (1, 1), (2, 1), (3, 1), (4, 1)),
        ((1, 0), (8, 0), (0, 1), (8, 1)),
        ((1, 0), (0, 1), (1, 2)),
    ],
)
def test_other_topologies(moves):
    random = np.random.default_rng(3)
    log_probs = random.normal(-1, 1, (3, 40, 21, len(moves)))
    lengths = np.array([40, 33, 7], np.int32), np.array([20, 11, 3], np.int32)

    def run(device, implementation):
        operands = jax.device_put((log_probs.astype(np.float32), *lengths), device)
        return jax_rnnt.lattice_posteriors(*operands, moves, implementation=implementation)

    for got, wanted in zip(run(GPU, "native"), run(jax.devices("cpu")[0], "lax"), strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=1e-4, atol=1e-5)


def test_hostile_lengths_and_labels_and_padding():
    logits, targets, frames, labels = example(6, 12, 6, 20)
    frames[:4], labels[:4] = [99, -1, 0, 0], [6, 6, 0, 3]
    targets[4, 0] = 1000
    frames[4:], labels[4:] = 8, 4
    logits = logits.at[5, 8:].set(jnp.nan).at[5, :, 5:].set(jnp.inf)
    costs, gradient = value_and_grad(GPU, "native", logits, targets, frames, labels)
    assert np.isnan(costs[[0, 1, 4]]).all() and costs[2] == 0 and costs[3] == np.inf and np.isfinite(costs[5])
    assert np.isnan(gradient[[0, 1]]).all() and (gradient[[2, 3]] == 0).all()
    assert np.isfinite(gradient[5]).all() and (gradient[5, 8:] == 0).all() and (gradient[5, :, 5:] == 0).all()


def test_the_same_bits_again():
    arguments = example(4, 100, 40, 257)
    first, second = (value_and_grad(GPU, "native", *arguments) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_more_than_two_to_the_31_logits():
    """The last of equal utterances has the same gradient as the utterance alone."""
    b, t, u, v = 6, 700, 127, 4096
    assert b * t * (u + 1) * v > 2**31
    one = jax.random.normal(jax.random.key(0), (1, t, u + 1, v), jnp.bfloat16)
    targets = np.random.default_rng(0).integers(1, v, (1, u)).astype(np.int32)
    lengths = np.array([t], np.int32), np.array([u], np.int32)

    def gradient(copies):
        rest = [jnp.tile(x, (copies,) + (1,) * (x.ndim - 1)) for x in (targets, *lengths)]
        loss = lambda x: rnnt_loss(x, *rest, blank=0, reduction="sum", implementation="native")  # noqa: E731
        return jax.jit(lambda x: jax.grad(loss)(jnp.tile(x, (copies, 1, 1, 1)))[-1])(jax.device_put(one, GPU))

    assert (gradient(1) == gradient(b)).all()


def test_memory_of_a_step():
    logits, *rest = example(8, 128, 31, 1024)
    loss = lambda x: rnnt_loss(x * 2, *rest, blank=0, implementation="native")  # noqa: E731
    compiled = jax.jit(jax.grad(loss)).lower(jax.device_put(logits, GPU)).compile()
    # x * 2 is an array of the logits' size. The gradient is written in its place.
    assert compiled.memory_analysis().temp_size_in_bytes < 1.2 * logits.nbytes
