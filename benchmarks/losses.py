"""Times every loss of the library beside `rnnt_loss`, and every lattice beside RNN-T's, interleaved in one run.

python benchmarks/losses.py
python benchmarks/losses.py --rounds 15 --shape 4x300x60x1024 --lattice 8x400x100
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import jax_rnnt
from jax_rnnt.losses.monotonic import MONOTONIC_MOVES
from jax_rnnt.ops.labels import RNNT_MOVES

DURATIONS = (0, 1, 2, 3, 4)
BIG = {"big_blanks": (-2, -3, -4), "durations": (2, 4, 8)}
LOSSES = {
    "rnnt": (jax_rnnt.rnnt_loss, {}),
    "rnnt fastemit, delay": (jax_rnnt.rnnt_loss, {"fastemit_lambda": 0.01, "delay_penalty": 0.01}),
    "monotonic": (jax_rnnt.monotonic_rnnt_loss, {}),
    "multiblank": (jax_rnnt.multiblank_rnnt_loss, BIG),
    "tdt": (jax_rnnt.tdt_loss, {"durations": DURATIONS}),
    "hat": (jax_rnnt.hat_loss, {}),
}
MOVES = {
    "rnnt": RNNT_MOVES,
    "monotonic": MONOTONIC_MOVES,
    "multiblank (5 arcs)": ((1, 0), (2, 0), (4, 0), (8, 0), (0, 1)),
    "tdt (9 arcs)": (*((d, 0) for d in DURATIONS if d), *((d, 1) for d in DURATIONS)),
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", default="4x300x60x1024", help="B x T x U x W of the logits")
    parser.add_argument("--lattice", default="8x400x100", help="B x T x U of the lattices")
    return parser.parse_args()


def interleaved(calls: dict, rounds: int) -> dict[str, float]:
    """The median seconds of each call. Its first two runs do not count."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if i >= 2:
                samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in samples.items()}


def bound(function, *arguments):
    compiled = jax.jit(function).lower(*arguments).compile()
    return lambda: compiled(*arguments), compiled.memory_analysis().temp_size_in_bytes


def losses(shape: str, rounds: int) -> None:
    b, t, u, w = map(int, shape.split("x"))
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(b, t, u + 1, w)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, w - 10, (b, u)))
    lengths = jnp.full(b, t), jnp.full(b, u)
    calls, temporaries = {}, {}
    for name, (function, options) in LOSSES.items():

        def total(x, function=function, options=options):
            return function(x, targets, *lengths, reduction="sum", **options)

        calls[name, "loss"], _ = bound(total, logits)
        calls[name, "gradient"], temporaries[name] = bound(jax.value_and_grad(total), logits)
    seconds = interleaved(calls, rounds)
    print(f"\n(B, T, U+1, W) = ({b}, {t}, {u + 1}, {w}), float32\n")
    print("| loss | ms | of rnnt | loss and gradient, ms | of rnnt | bytes a node |\n|---|--:|--:|--:|--:|--:|")
    for name in LOSSES:
        forward, both = seconds[name, "loss"], seconds[name, "gradient"]
        ratios = forward / seconds["rnnt", "loss"], both / seconds["rnnt", "gradient"]
        a_node = temporaries[name] / (b * t * (u + 1))
        print(f"| {name} | {1e3 * forward:.1f} | {ratios[0]:.2f} | {1e3 * both:.1f} | {ratios[1]:.2f} | {a_node:.0f} |")


def lattices(shape: str, rounds: int) -> None:
    b, t, u = map(int, shape.split("x"))
    lengths = jnp.full(b, t), jnp.full(b, u)
    calls = {}
    for name, moves in MOVES.items():
        arcs = jnp.asarray(np.random.default_rng(0).normal(size=(b, t, u + 1, len(moves))) - 1.5, jnp.float32)

        def cost(x, moves=moves):
            return jax_rnnt.lattice_cost(x, *lengths, moves).sum()

        calls[name, "cost"], _ = bound(cost, arcs)
        calls[name, "gradient"], _ = bound(jax.value_and_grad(cost), arcs)
    seconds = interleaved(calls, rounds)
    print(f"\n(B, T, U+1) = ({b}, {t}, {u + 1}), float32, ns an arc\n")
    print("| lattice | cost | cost and gradient |\n|---|--:|--:|")
    for name, moves in MOVES.items():
        arcs_all = b * t * (u + 1) * len(moves)
        cost, gradient = (1e9 * seconds[name, what] / arcs_all for what in ("cost", "gradient"))
        print(f"| {name} | {cost:.2f} | {gradient:.2f} |")


def main() -> None:
    arguments = parsed()
    print(f"jax {jax.__version__}, {jax_rnnt.build_info()['simd']}, medians of {arguments.rounds} rounds")
    losses(arguments.shape, arguments.rounds)
    lattices(arguments.lattice, arguments.rounds)


if __name__ == "__main__":
    main()
