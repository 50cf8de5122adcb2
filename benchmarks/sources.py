"""Times each source of logits with its joint network beside dense logits with theirs, interleaved in one run.

python benchmarks/sources.py
python benchmarks/sources.py --rounds 9 --shapes 8x200x50x500 --torch PYTHON  # torchaudio and fast_rnnt beside them

A side computes the loss and its gradient with respect to the encoder's output, the predictor's output and the side's
parameters. The joint network is tanh(e + p), then a linear layer from 256 entries to V. Additive logits have a linear
layer of e and one of p instead.
"""

import argparse
import functools
import json
import subprocess
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from steps import compiled, interleaved

import jax_rnnt

WIDTH, KEPT = 256, 5
LENGTHS = ("t_b", "u_b")


def joint(params, e, p):
    return jnp.tanh(e + p) @ params["joint"]


def simple_logits(params, e, p):
    return jax_rnnt.AdditiveLogits(e @ params["am"], p @ params["lm"])


def dense(params, e, p, targets, t_b, u_b):
    logits = joint(params, e[:, :, None], p[:, None])
    return jax_rnnt.rnnt_loss(logits, targets, t_b, u_b, blank=0)


def packed(params, e, p, targets, t_b, u_b, rows: int):
    logits = joint(params, *jax_rnnt.pack(e, p, t_b, u_b, rows))
    source = jax_rnnt.PackedLogits(logits, t_b, u_b, frames=e.shape[1], labels=targets.shape[1])
    return jax_rnnt.rnnt_loss(source, targets, t_b, u_b, blank=0)


def additive(params, e, p, targets, t_b, u_b):
    return jax_rnnt.rnnt_loss(simple_logits(params, e, p), targets, t_b, u_b, blank=0)


def pruned(params, e, p, targets, t_b, u_b):
    """The simple loss plus the pruned loss. The posteriors of the simple loss choose the positions that are kept."""
    simple = simple_logits(params, e, p)
    costs, posteriors = jax_rnnt.lattice_posteriors(
        *jax_rnnt.alignment.loss_lattice(jax_rnnt.RNNTLoss(blank=0), simple, targets, t_b, u_b)
    )
    ranges = jax_rnnt.prune_ranges(posteriors, t_b, u_b, KEPT)
    logits = joint(params, *jax_rnnt.prune(e, p, ranges, KEPT))
    source = jax_rnnt.PrunedLogits(logits, ranges, labels=targets.shape[1])
    return 0.5 * jnp.mean(costs) + jax_rnnt.rnnt_loss(source, targets, t_b, u_b, blank=0)


def inputs(b: int, t: int, u: int, v: int) -> tuple:
    rng = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0):
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    params = {name: normal(WIDTH, v, scale=WIDTH**-0.5) for name in ("joint", "am", "lm")}
    batch = normal(b, t, WIDTH), normal(b, u + 1, WIDTH), jnp.asarray(rng.integers(1, v, (b, u)), jnp.int32)
    full = jnp.full(b, t, jnp.int32), jnp.full(b, u, jnp.int32)
    ragged = rng.integers(t // 2, t + 1, b), rng.integers(int(0.4 * u), u + 1, b)
    return params, batch, full, tuple(jnp.asarray(x, jnp.int32) for x in ragged)


class Torch:
    """torchaudio and fast_rnnt, if another Python has them. Without that Python there are no such sides."""

    def __init__(self, python: str | None, params, batch, full, ragged):
        self.names: list[str] = []
        if python is None:
            return
        e, p, targets = batch
        lengths = {
            f"{name} {x}": n
            for name, of in (("full", full), ("ragged", ragged))
            for x, n in zip(LENGTHS, of, strict=True)
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "arrays.npz"
            np.savez(file, e=e, p=p, targets=targets, kept=KEPT, **params, **lengths)
            command = [python, str(Path(__file__).with_name("sources_torch.py")), str(file)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.names = self._answer()

    def _answer(self):
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def loss(self, name: str, lengths: str = "full") -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, lengths]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        if self.names:
            self._process.communicate()


def measure(shape: tuple[int, int, int, int], rounds: int, python: str | None) -> None:
    b, t, u, v = shape
    params, batch, full, ragged = inputs(b, t, u, v)
    nodes = {"full": b * t * (u + 1), "ragged": int((ragged[0] * (ragged[1] + 1)).sum())}
    sides = {
        "dense": (dense, ["joint"], full),
        "additive": (additive, ["am", "lm"], full),
        f"simple and pruned, S = {KEPT}": (pruned, ["am", "lm", "joint"], full),
        "packed": (functools.partial(packed, rows=nodes["full"]), ["joint"], full),
        "dense, ragged": (dense, ["joint"], ragged),
        "packed, ragged": (functools.partial(packed, rows=nodes["ragged"]), ["joint"], ragged),
    }
    calls, sizes = {}, {}
    for name, (loss, needed, lengths) in sides.items():
        of_side = {key: params[key] for key in needed}
        calls[name], *memory = compiled(jax.value_and_grad(loss, (0, 1, 2)), of_side, *batch, *lengths)
        sizes[name] = sum(memory)
    others = Torch(python, params, batch, full, ragged)
    for name in others.names:
        calls[name] = functools.partial(others.loss, name)
    seconds = interleaved(calls, rounds)
    print(f"\n(B, T, U+1, V) = ({b}, {t}, {u + 1}, {v}); ragged: {nodes['ragged'] / nodes['full']:.3f} of the nodes\n")
    print("| | ms | of dense | MB | of dense | loss |\n|---|--:|--:|--:|--:|--:|")
    for name in calls:
        value = calls[name]()
        memory = f"{sizes[name] / 1e6:.1f} | {sizes[name] / sizes['dense']:.4f}" if name in sizes else " | "
        loss = value[0] if name in sizes else value
        print(
            f"| {name} | {1e3 * seconds[name]:.0f} | {seconds[name] / seconds['dense']:.3f} | {memory} | {loss:.3f} |"
        )
    others.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default="8x200x50x500,4x300x60x1024", help="B x T x U x V, ...")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that imports torchaudio, or fast_rnnt, or both")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, float32, {args.rounds} rounds; bytes are results and temporaries as XLA plans them")
    for shape in args.shapes.split(","):
        b, t, u, v = map(int, shape.split("x"))
        measure((b, t, u, v), args.rounds, args.torch)


if __name__ == "__main__":
    main()
