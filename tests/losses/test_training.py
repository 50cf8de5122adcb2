"""A transducer that learns: the loss is exact enough for training, and its gradient points downhill.

The task is to copy: each label is shown for a few noisy frames, and the transcript is the labels. Encoder and predictor
meet only in the joint, so the loss has to find the alignment. The decoder does not see the transcript.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_rnnt

pytestmark = pytest.mark.once

nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

LABELS, BLANK, MOST, FRAMES, HIDDEN = 5, 0, 4, 16, 32


def utterances(seed: int, batch: int) -> tuple[np.ndarray, ...]:
    """Frames [B, T, LABELS + 1], targets and ragged lengths. The last row is a filler of a partial batch."""
    rng = np.random.default_rng(seed)
    frames = 0.1 * rng.normal(size=(batch, FRAMES, LABELS + 1)).astype(np.float32)
    targets = np.zeros((batch, MOST), np.int32)
    t_b, u_b = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
    for b in range(batch - 1):
        u_b[b] = rng.integers(1, MOST + 1)
        previous = 0
        for u in range(u_b[b]):
            label = rng.choice([x for x in range(1, LABELS + 1) if x != previous])
            targets[b, u] = previous = label
            length = rng.integers(2, 5)
            frames[b, t_b[b] : t_b[b] + length, label] += 1.0
            t_b[b] += length
    return frames, targets, t_b, u_b


class Transducer(nnx.Module):
    """It sees the frames within two of t and the last label. Its joint has one hidden layer."""

    def __init__(self, rngs: nnx.Rngs):
        self.encoder = nnx.Conv(LABELS + 1, HIDDEN, kernel_size=(5,), rngs=rngs)
        self.predictor = nnx.Embed(LABELS + 1, HIDDEN, rngs=rngs)
        self.joint = nnx.Linear(HIDDEN, LABELS + 1, rngs=rngs)

    def __call__(self, frames, labels):
        started = jnp.pad(labels, ((0, 0), (1, 0)))  # label 0 is the start symbol here, and blank in the output
        encoded, predicted = self.encoder(frames), self.predictor(started)
        return self.joint(jnp.tanh(encoded[:, :, None] + predicted[:, None]))


def decode(model: Transducer, frames: np.ndarray, t_b: int) -> list[int]:
    """Decodes greedily: takes the best symbol of (t, last label) until this is blank, then goes to the next frame."""
    transcript: list[int] = []
    table = np.stack([np.asarray(model(frames[None], jnp.full((1, 1), k))[0, :, 1]) for k in range(LABELS + 1)], axis=1)
    for t in range(t_b):
        for _ in range(MOST):
            best = int(table[t, transcript[-1] if transcript else 0].argmax())
            if best == BLANK:
                break
            transcript.append(best)
    return transcript


@pytest.mark.full(implementation="lax")
def test_learns_to_copy(implementation: str) -> None:
    # Code of users has JAX's default promotion. The strict settings of this suite are for the library.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model = Transducer(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.adam(2e-2), wrt=nnx.Param)
        loss = jax_rnnt.RNNTLoss(BLANK, implementation=implementation)

        @nnx.jit
        def step(model, optimizer, frames, targets, t_b, u_b):
            value, grads = nnx.value_and_grad(lambda m: loss(m(frames, targets), targets, t_b, u_b))(model)
            optimizer.update(model, grads)
            return value

        values = [float(step(model, optimizer, *utterances(seed, 32))) for seed in range(150)]
        assert np.isfinite(values).all()
        assert values[-1] < 0.2 < values[0], f"from {values[0]} to {values[-1]}"
        frames, targets, t_b, u_b = utterances(10_000, 17)
        for b in range(16):
            assert decode(model, frames[b], t_b[b]) == targets[b, : u_b[b]].tolist()
