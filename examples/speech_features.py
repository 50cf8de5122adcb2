"""Log-mel features in jnp: 25 ms windows every 10 ms, normalised per utterance."""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

SAMPLE_RATE = 16_000
WINDOW = 400  # samples in a window, 25 ms
HOP = 160  # samples between windows, 10 ms
FFT = 512
MELS = 64


Lengths = TypeVar("Lengths", int, np.ndarray, jax.Array)


def num_frames(samples: Lengths) -> Lengths:
    """Windows that fit wholly into so many samples."""
    return (samples >= WINDOW) * ((samples - WINDOW) // HOP + 1)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def mel_filters(low: float = 20.0, high: float = SAMPLE_RATE / 2) -> np.ndarray:
    """Triangular filters, equally spaced on the mel scale, float32 [FFT // 2 + 1, MELS]."""
    mels = np.linspace(_mel(low), _mel(high), MELS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bins = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(audio: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features of a padded batch.

    Args:
        audio: float32 [B, N], whatever stands behind `samples[b]` is not used.
        samples: int32 [B], the length of each row; 0 in a filler row.

    Returns:
        features float32 [B, F, MELS] with F = num_frames(N), zero from frames[b] on, each band of each utterance with
        mean 0 and deviation 1; and frames int32 [B] = num_frames(samples).
    """
    frames = num_frames(samples)
    starts = np.arange(num_frames(audio.shape[1])) * HOP
    windows = audio[:, starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW).astype(np.float32)
    spectrum = jnp.fft.rfft(windows, FFT)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # The floor is about the rounding noise of 16-bit audio: digital silence becomes a finite, quiet spectrum.
    bands = jnp.log(jnp.maximum(power @ mel_filters(), 1e-6))

    valid = (jnp.arange(bands.shape[1])[None, :] < frames[:, None])[..., None]
    count = jnp.maximum(frames, 1)[:, None, None]
    mean = jnp.sum(bands, axis=1, keepdims=True, where=valid) / count
    centred = jnp.where(valid, bands - mean, 0)
    variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / count
    return centred * jax.lax.rsqrt(variance + 1e-3), frames
