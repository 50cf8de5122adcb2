"""Times every loss of the library beside RNN-T's, interleaved in one run.

python benchmarks/losses.py
python benchmarks/losses.py --rounds 15 --shape 4x300x60x1024
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from cases import sizes
from clock import compiled, interleaved

import jax_rnnt

LOSSES = {
    "rnnt": jax_rnnt.RNNTLoss(reduction="sum"),
    "rnnt fastemit, delay": jax_rnnt.RNNTLoss(reduction="sum", fastemit_lambda=0.01, delay_penalty=0.01),
    "monotonic": jax_rnnt.MonotonicRNNTLoss(reduction="sum"),
    "multiblank": jax_rnnt.MultiblankRNNTLoss(reduction="sum", big_blanks=(-2, -3, -4), durations=(2, 4, 8)),
    "tdt": jax_rnnt.TDTLoss(reduction="sum", durations=(0, 1, 2, 3, 4)),
    "hat": jax_rnnt.HATLoss(reduction="sum"),
}


def losses(b: int, t: int, u: int, w: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(b, t, u + 1, w)), jnp.float32)
    batch = jnp.asarray(rng.integers(0, w - 10, (b, u))), jnp.full(b, t), jnp.full(b, u)
    calls, temporaries = {}, {}
    for name, loss in LOSSES.items():
        calls[name, "loss"], *_ = compiled(loss, logits, *batch)
        calls[name, "gradient"], temporaries[name], _ = compiled(jax.value_and_grad(loss), logits, *batch)
    times = interleaved(calls, rounds)
    print(f"\n(B, T, U+1, W) = ({b}, {t}, {u + 1}, {w}), float32\n")
    print("| loss | ms | of rnnt | loss and gradient, ms | of rnnt | bytes per node |\n|---|--:|--:|--:|--:|--:|")
    for name in LOSSES:
        columns = ""
        for what in ("loss", "gradient"):
            ms, of = (1e3 * times[side, what].median for side in (name, "rnnt"))
            columns += f" {ms:.1f} | {ms / of:.2f} |"
        print(f"| {name} |{columns} {temporaries[name] / (b * t * (u + 1)):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", type=sizes, default="4x300x60x1024", help="B x T x U x W of the logits")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax_rnnt.build_info()['simd']}, medians of {arguments.rounds} rounds")
    losses(*arguments.shape, arguments.rounds)


if __name__ == "__main__":
    main()
