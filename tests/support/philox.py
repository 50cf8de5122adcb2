"""Philox4x32-10 as its authors define it (Salmon et al., SC 2011), in 64-bit integers of NumPy."""

import numpy as np


def philox(seed: np.ndarray, *counter: np.ndarray) -> list[np.ndarray]:
    """The four words, int64, of a ``seed [2]`` and of counters of four words, which broadcast."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    low, half = np.uint64(2**32 - 1), np.uint64(32)
    for turn in range(10):
        key = [(int(k) + turn * step) % 2**32 for k, step in zip(seed, (0x9E3779B9, 0xBB67AE85), strict=True)]
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (second >> half) ^ c1 ^ np.uint64(key[0]),
            second & low,
            (first >> half) ^ c3 ^ np.uint64(key[1]),
            first & low,
        )
    return [c.astype(np.int64) for c in (c0, c1, c2, c3)]


def bits_of_nodes(seed: np.ndarray, b: np.ndarray, t: np.ndarray, u: np.ndarray, width: int) -> np.ndarray:
    """The 16 bits ``[N, width]`` that decide about dropout in the rows of the nodes ``[N]``."""
    columns = np.arange(width)[None]
    words = np.stack(philox(seed, columns // 8, u[:, None], t[:, None], b[:, None]))
    own = np.take_along_axis(words, np.broadcast_to(columns % 8 // 2, words[:1].shape), axis=0)[0]
    return own >> 16 * (columns % 2) & 0xFFFF
