"""What is measured: shapes by name, and the arrays of each shape, made from a seed."""

import dataclasses

import numpy as np

FORWARD, GRADIENT = OPERATIONS = "forward", "gradient"  # the cost alone; the cost and its gradient
TOUCHED = 3  # times the logits' size is touched and freed before each call
IN_CACHE_BYTES = 16 << 20  # logits below this size are measured in the caches, by calls in a row
SAMPLE_SECONDS = 0.004  # about what those calls of one sample take


def sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


@dataclasses.dataclass(frozen=True)
class Case:
    """T frames and U labels in each of B utterances. A `lattice` starts from arc log-probabilities [B, T, U+1, 2]."""

    b: int
    t: int
    u: int
    v: int
    dtype: str = "float32"
    kind: str = "loss"  # or "lattice"

    @property
    def key(self) -> str:
        """The name on the command line and in the JSON: 4x300x60x1024, 4x300x60x1024-bfloat16, lattice-4x800x200."""
        if self.kind == "lattice":
            return f"lattice-{self.b}x{self.t}x{self.u}"
        suffix = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.b}x{self.t}x{self.u}x{self.v}{suffix}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.b, self.t, self.u + 1, self.v

    @property
    def nodes(self) -> int:
        return self.b * self.t * (self.u + 1)

    @property
    def bytes(self) -> int:
        return self.nodes * self.v * (4 if self.dtype == "float32" else 2)

    def clock(self) -> dict:
        """How clock.interleaved measures calls of this case."""
        if self.bytes < IN_CACHE_BYTES:
            return {"sample_seconds": SAMPLE_SECONDS}
        return {"touch": TOUCHED * self.bytes, "stride": 4}


def lattice(b: int, t: int, u: int) -> Case:
    return Case(b, t, u, 2, kind="lattice")


def parse(key: str) -> Case:
    """The inverse of `Case.key`."""
    if key.startswith("lattice-"):
        return lattice(*sizes(key.removeprefix("lattice-")))
    shape, _, dtype = key.partition("-")
    return Case(*sizes(shape), dtype or "float32")


_LARGE = "4x300x60x1024"
TABLE = tuple(
    map(
        parse,
        f"2x20x8x32 8x150x40x28 16x100x20x1024 8x200x50x500 4x800x200x64 2x200x40x4096 {_LARGE} 1x800x200x1024 "
        f"{_LARGE}-bfloat16 {_LARGE}-float16 lattice-4x800x200".split(),
    )
)
QUICK_TABLE = tuple(map(parse, ["2x20x8x32", "8x150x40x28", "lattice-4x200x50"]))
THREADS = tuple(map(parse, f"8x150x40x28 8x200x50x500 4x800x200x64 {_LARGE} 1x800x200x1024 lattice-4x800x200".split()))
QUICK_THREADS = (parse("4x100x20x128"),)

# One size varies at a time. Even the smallest logits have 40 MB, more than the caches of most machines. Where logits
# begin to exceed the caches, the time of a byte changes, and an exponent would mean nothing.
_BASE, _QUICK_BASE = Case(4, 200, 50, 256), Case(2, 100, 20, 128)
GROWTH = {
    size: [dataclasses.replace(_BASE, **{size: getattr(_BASE, size) * n}) for n in (1, 2, 4, 8)] for size in "btuv"
}
QUICK_GROWTH = {"t": [dataclasses.replace(_QUICK_BASE, t=t) for t in (100, 200)]}


def numpy_dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes  # comes with jax

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def make_inputs(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """Logits (for a lattice, its arc log-probabilities), targets, logit_lengths, target_lengths.

    All lengths are full: torchaudio needs one utterance as long as the batch, and the floor counts every byte.
    """
    rng = np.random.default_rng([seed, *case.shape])
    logits = rng.standard_normal(case.shape, np.float32)
    if case.kind == "lattice":
        np.negative(np.abs(logits, out=logits), out=logits)
        logits -= 0.5
    return {
        "logits": logits.astype(numpy_dtype(case.dtype), copy=False),
        # The last entry of the vocabulary is blank. A lattice has no targets.
        "targets": rng.integers(0, max(case.v - 1, 1), (case.b, case.u), np.int32),
        "logit_lengths": np.full(case.b, case.t, np.int32),
        "target_lengths": np.full(case.b, case.u, np.int32),
    }


def ragged(rng: np.random.Generator, b: int, t: int, u: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of frames in [T/2, T] and of labels in [0.4 U, U]."""
    return rng.integers(t // 2, t + 1, b).astype(np.int32), rng.integers(int(0.4 * u), u + 1, b).astype(np.int32)
