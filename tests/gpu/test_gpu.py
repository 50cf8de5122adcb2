"""What only a GPU shows: memory, more than 2^31 logits, calls of several threads, the same bits again.

    python -m pytest --platform cuda

runs these tests and the rest of the suite with a GPU as the default device.
"""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_rnnt


@pytest.fixture(autouse=True)
def _on_a_gpu(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--platform") != "cuda":
        pytest.skip("the tests of tests/gpu run with --platform cuda")


def example(b, t, u, v, dtype="float32", seed=0):
    random = np.random.default_rng(seed)
    logits = jnp.asarray(random.normal(0, 2, (b, t, u + 1, v)), dtype)
    targets = random.integers(1, v, (b, u)).astype(np.int32)
    frames = np.array([t] + [int(random.integers(1, t + 1)) for _ in range(b - 1)], np.int32)
    labels = np.array([u] + [int(random.integers(0, u + 1)) for _ in range(b - 1)], np.int32)
    return logits, targets, frames, labels


def dense(logits, *rest):
    return jax_rnnt.rnnt_loss(logits, *rest, blank=0, implementation="native")


def joint(encoded, *rest):
    d = encoded.shape[-1]
    params = {"kernel": jnp.ones((d, 40), encoded.dtype) / d, "bias": jnp.arange(40, dtype=encoded.dtype)}
    predicted = jnp.cos(jnp.arange(encoded.shape[0] * 41 * d, dtype=encoded.dtype)).reshape(-1, 41, d)
    network, key = jax_rnnt.additive_joint("tanh", dropout_rate=0.1), jax.random.key(0)
    logits = jax_rnnt.JointLogits(network, params, encoded, predicted, dropout_key=key, tile_rows=1000)
    return jax_rnnt.rnnt_loss(logits, *rest, blank=0)


@pytest.mark.parametrize("loss", [dense, joint])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_bits_again(loss, dtype):
    logits, targets, *lengths = example(4, 100, 40, 256, dtype)
    x = logits if loss is dense else logits[:, :, 0]
    step = jax.jit(jax.value_and_grad(loss))
    first, second = (step(x, targets % 39 + 1, *lengths) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_calls_of_several_threads():
    """Each thread has the results of its own batch: kernels run on the stream of their call."""
    batches = [example(4, 60, 20, 300, seed=seed) for seed in range(4)]
    step = jax.jit(jax.value_and_grad(dense))
    alone = [jax.device_get(step(*batch)) for batch in batches]
    with concurrent.futures.ThreadPoolExecutor(len(batches)) as pool:
        for _ in range(5):
            together = list(pool.map(lambda batch: jax.device_get(step(*batch)), batches))
            jax.tree.map(np.testing.assert_array_equal, together, alone)


@pytest.mark.slow
def test_more_than_two_to_the_31_logits():
    """The last of equal utterances has the same gradient as the utterance alone."""
    b, t, u, v = 6, 700, 127, 4096
    assert b * t * (u + 1) * v > 2**31
    one = jax.random.normal(jax.random.key(0), (1, t, u + 1, v), jnp.bfloat16)
    targets = np.random.default_rng(0).integers(1, v, (1, u)).astype(np.int32)
    lengths = np.array([t], np.int32), np.array([u], np.int32)

    def gradient(copies):
        rest = [jnp.tile(x, (copies,) + (1,) * (x.ndim - 1)) for x in (targets, *lengths)]
        loss = functools.partial(jax_rnnt.rnnt_loss, blank=0, reduction="sum", implementation="native")
        return jax.jit(lambda x: jax.grad(loss)(jnp.tile(x, (copies, 1, 1, 1)), *rest)[-1])(one)

    assert (gradient(1) == gradient(b)).all()


def test_memory_of_a_step():
    logits, *rest = example(8, 128, 31, 1024)
    compiled = jax.jit(jax.grad(lambda x: dense(x * 2, *rest))).lower(logits).compile()
    # x * 2 is an array of the logits' size. The gradient is written in its place.
    assert compiled.memory_analysis().temp_size_in_bytes < 1.2 * logits.nbytes
