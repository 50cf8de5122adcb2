"""Times the best path of a lattice and, beside it, only its cost: `python benchmarks/best_path.py`."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from cases import sizes
from clock import compiled, interleaved

import jax_rnnt
from jax_rnnt.losses.monotonic import MONOTONIC_MOVES
from jax_rnnt.ops.labels import RNNT_MOVES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--shapes", default="8x200x50,4x800x200,32x150x40,1x300x60,1x1500x300", help="B x T x U, ...")
    arguments = parser.parse_args()
    print("| (B, T, U+1) | moves | cost, ms | best path, ms | ratio |\n|---|---|--:|--:|--:|")
    for b, t, u in map(sizes, arguments.shapes.split(",")):
        for name, moves in (("RNN-T", RNNT_MOVES), ("monotonic", MONOTONIC_MOVES)):
            arcs = np.random.default_rng(0).normal(size=(b, t, u + 1, 2)).astype(np.float32) - 2
            lattice = jnp.asarray(arcs), jnp.full(b, t), jnp.full(b, u)
            calls = {}
            for side in (jax_rnnt.lattice_cost, jax_rnnt.alignment.lattice_best_path):
                calls[side.__name__], *_ = compiled(lambda *x, of=side, m=moves: of(*x, m), *lattice)
            # These calls are short compared with the other work of a busy machine, so the least time counts.
            cost, path = (1e3 * min(times) for times in interleaved(calls, arguments.rounds).values())
            print(f"| ({b}, {t}, {u + 1}) | {name} | {cost:.2f} | {path:.2f} | {path / cost:.2f} |", flush=True)
    print(f"\njax {jax.__version__}, the least of {arguments.rounds} rounds")


if __name__ == "__main__":
    main()
