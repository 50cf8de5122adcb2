"""Times each source of logits, its joint network included, beside dense logits with theirs, interleaved in one run.

python benchmarks/sources.py
python benchmarks/sources.py --rounds 9 --shapes 8x200x50x500

Loss and gradient with respect to the encoder's output, the predictor's and the parameters. The joint network is
tanh(e + p), then a linear layer from 256 entries to V; that of additive logits is a linear layer of each.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from steps import compiled, interleaved

import jax_rnnt

WIDTH, KEPT = 256, 5


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
    """The simple loss, and the pruned one where the simple one's posteriors are."""
    simple = simple_logits(params, e, p)
    costs, posteriors = jax_rnnt.lattice_posteriors(*jax_rnnt.loss_lattice(simple, targets, t_b, u_b, blank=0))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default="8x200x50x500,4x300x60x1024", help="B x T x U x V, ...")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, float32, {args.rounds} rounds; bytes are results and temporaries as XLA plans them")
    for shape in args.shapes.split(","):
        b, t, u, v = map(int, shape.split("x"))
        params, batch, full, ragged = inputs(b, t, u, v)
        nodes = {"full": b * t * (u + 1), "ragged": int((ragged[0] * (ragged[1] + 1)).sum())}
        sides = {
            "dense": (dense, full),
            "additive": (additive, full),
            f"pruned, S = {KEPT}": (pruned, full),
            "packed": (functools.partial(packed, rows=nodes["full"]), full),
            "dense, ragged": (dense, ragged),
            "packed, ragged": (functools.partial(packed, rows=nodes["ragged"]), ragged),
        }
        calls, sizes = {}, {}
        for name, (loss, lengths) in sides.items():
            calls[name], sizes[name] = compiled(loss, params, *batch, *lengths)
        seconds = interleaved(calls, args.rounds)
        print(
            f"\n(B, T, U+1, V) = ({b}, {t}, {u + 1}, {v}); ragged: {nodes['ragged'] / nodes['full']:.3f} of the nodes\n"
        )
        print("| | ms | of dense | MB | of dense |\n|---|--:|--:|--:|--:|")
        for name in sides:
            times, bytes_ = seconds[name] / seconds["dense"], sizes[name] / sizes["dense"]
            print(f"| {name} | {1e3 * seconds[name]:.0f} | {times:.3f} | {sizes[name] / 1e6:.1f} | {bytes_:.3f} |")


if __name__ == "__main__":
    main()
