"""What is measured: the shapes by name, and the arrays of each shape, made from a seed. It needs only numpy."""

import dataclasses
import functools
import pathlib

import numpy as np

FORWARD, GRADIENT = "forward", "gradient"  # the cost alone; the cost and its gradient
OPERATIONS = (FORWARD, GRADIENT)


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
        return (self.b, self.t, self.u + 1, self.v)

    @property
    def nodes(self) -> int:
        return self.b * self.t * (self.u + 1)

    @property
    def bytes(self) -> int:
        return self.nodes * self.v * (4 if self.dtype == "float32" else 2)


def lattice(b: int, t: int, u: int) -> Case:
    return Case(b, t, u, 2, kind="lattice")


def parse(key: str) -> Case:
    """The inverse of `Case.key`."""
    if key.startswith("lattice-"):
        return lattice(*map(int, key.removeprefix("lattice-").split("x")))
    sizes, _, dtype = key.partition("-")
    b, t, u, v = map(int, sizes.split("x"))
    return Case(b, t, u, v, dtype or "float32")


TINY = Case(2, 20, 8, 32)
IN_CACHE = Case(8, 150, 40, 28)
LONG = Case(4, 800, 200, 64)
LARGE = Case(4, 300, 60, 1024)
ONE_UTTERANCE = Case(1, 800, 200, 1024)
LATTICE = lattice(4, 800, 200)
TABLE = (
    TINY,
    IN_CACHE,
    Case(16, 100, 20, 1024),
    Case(8, 200, 50, 500),
    LONG,
    Case(2, 200, 40, 4096),
    LARGE,
    ONE_UTTERANCE,
    dataclasses.replace(LARGE, dtype="bfloat16"),
    dataclasses.replace(LARGE, dtype="float16"),
    LATTICE,
)
QUICK_TABLE = (TINY, IN_CACHE, Case(4, 100, 50, 500), lattice(4, 200, 50))

THREADS = (IN_CACHE, Case(8, 200, 50, 500), LONG, LARGE, ONE_UTTERANCE, LATTICE)
QUICK_THREADS = (Case(4, 100, 40, 1024, "bfloat16"),)

# One size varies at a time. Even the smallest logits have 40 MB, more than the caches of most machines. Where logits
# begin to exceed the caches, the time of a byte changes, and an exponent would mean nothing.
_BASE = Case(4, 200, 50, 256)
GROWTH = {
    "b": tuple(dataclasses.replace(_BASE, b=b) for b in (4, 8, 16, 32)),
    "t": tuple(dataclasses.replace(_BASE, t=t) for t in (200, 400, 800, 1600)),
    "u": tuple(dataclasses.replace(_BASE, u=u) for u in (50, 100, 200, 400)),
    "v": tuple(dataclasses.replace(_BASE, v=v) for v in (256, 512, 1024, 2048)),
}
_QUICK_BASE = Case(2, 100, 50, 512)
QUICK_GROWTH = {
    "t": tuple(dataclasses.replace(_QUICK_BASE, t=t) for t in (100, 200, 400)),
    "v": tuple(dataclasses.replace(_QUICK_BASE, v=v) for v in (512, 1024, 2048)),
}


def _bfloat16():
    import ml_dtypes  # comes with jax; the process of torchaudio does not have it or need it

    return np.dtype(ml_dtypes.bfloat16)


def numpy_dtype(name: str) -> np.dtype:
    return _bfloat16() if name == "bfloat16" else np.dtype(name)


class Inputs(dict):
    """Arrays by name: logits (for a lattice, its arc log-probabilities), targets, logit_lengths, target_lengths."""

    def save(self, folder: pathlib.Path) -> None:
        for name, array in self.items():
            plain = array.view(np.uint16) if array.dtype.itemsize == 2 else array  # .npy does not know bfloat16
            np.save(folder / f"{name}.npy", plain)

    @classmethod
    def load(cls, folder: pathlib.Path, case: Case) -> "Inputs":
        inputs = cls((path.stem, np.load(path)) for path in sorted(folder.glob("*.npy")))
        inputs["logits"] = inputs["logits"].view(numpy_dtype(case.dtype))
        return inputs


@functools.lru_cache(maxsize=1)  # the operations of a case run one after another
def make_inputs(case: Case, seed: int) -> Inputs:
    # All lengths are full. torchaudio needs one utterance as long as the batch, and the floor counts every byte.
    rng = np.random.default_rng([seed, *case.shape])
    logits = rng.standard_normal(case.shape, np.float32)
    if case.kind == "lattice":
        np.negative(np.abs(logits, out=logits), out=logits)
        logits -= 0.5
    return Inputs(
        logits=logits.astype(numpy_dtype(case.dtype), copy=False),
        # The last entry of the vocabulary is blank. A lattice has no targets.
        targets=rng.integers(0, max(case.v - 1, 1), (case.b, case.u), np.int32),
        logit_lengths=np.full(case.b, case.t, np.int32),
        target_lengths=np.full(case.b, case.u, np.int32),
    )
