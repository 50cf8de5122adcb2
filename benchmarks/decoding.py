"""Times beam_decode and greedy_decode, and torchaudio's beam search on the same weights if its Python is given:
`python benchmarks/decoding.py --torchaudio PYTHON`.

The weights are made by hand, so that the model is as certain as a trained one: one frame in four shows a label, and the
others show blank, all with noise. Every round runs each side once. Both libraries do the same search, so the best
hypotheses are compared. torchaudio decodes one utterance after another, with one thread and with all threads. The side
"joint alone" runs the joint network on all hypotheses, once for each frame. Every search that goes through all
utterances frame by frame computes at least this.
"""

import argparse
import functools
import os
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from cases import sizes
from clock import Process, interleaved

import jax_rnnt

MOST = 5  # the largest number of labels in a frame
CASES = {"characters": (8, 150, 32, 128, 4), "word pieces": (8, 150, 512, 256, 10)}  # B, T, V, D, beam


def model(b: int, t: int, v: int, d: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The weights, and encoded frames [B, T, D]."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(v, d)).astype(np.float32)
    weights = {
        "embedding": np.where(np.arange(v)[:, None] == v - 1, 0, vectors),
        "hidden": rng.normal(size=(2 * d, d)) / d,
        "predictor": rng.normal(size=(d, d)) / d,
        "output": 20 / d * vectors.T,
        "bias": np.where(np.arange(v) == v - 1, 9, 0),
    }
    shown = np.where(rng.random((b, t)) < 0.25, rng.integers(0, v - 1, (b, t)), v - 1)
    encoded = 2 * vectors[shown] + rng.normal(size=(b, t, d))
    return {name: x.astype(np.float32) for name, x in weights.items()}, encoded.astype(np.float32)


def predictor(w, before, label):
    old, new = w["embedding"][before], w["embedding"][label]
    predicted = jax.nn.relu(jnp.concatenate([old, new], axis=1) @ w["hidden"]) @ w["predictor"] - 2 * new
    return label, predicted


def joint(w, encoded, predicted):
    return jnp.tanh(encoded + predicted) @ w["output"] + w["bias"]


def joint_alone(beam: int, w, encoded):
    """Runs the joint network on B * `beam` rows, once for each frame."""

    def frame(predicted, row):
        logits = joint(w, jnp.repeat(row, beam, axis=0), predicted)
        # Each call depends on the whole result of the one before, as in a search.
        return predicted + 1e-9 * jnp.max(logits, axis=1, keepdims=True), None

    start = jnp.zeros((len(encoded) * beam, encoded.shape[2]))
    return jax.lax.scan(frame, start, jnp.moveaxis(encoded, 1, 0))[0]


def measure(name: str, b: int, t: int, v: int, d: int, beam: int, rounds: int, torch: Process | None) -> None:
    weights, encoded = model(b, t, v, d)
    inputs = weights, jnp.full(b, v - 1), jnp.asarray(encoded), jnp.full(b, t)
    how = jax_rnnt.RNNTLoss(blank=v - 1), predictor, joint
    jitted = {
        "greedy": jax.jit(lambda *x: jax_rnnt.decoding.greedy_decode(*how, *x, labels_per_frame=MOST)),
        "beam": jax.jit(lambda *x: jax_rnnt.decoding.beam_decode(*how, *x, beam=beam, labels_per_frame=MOST)),
        "joint alone": jax.jit(lambda w, _, encoded, __: joint_alone(beam, w, encoded)),
    }
    sides = {side: functools.partial(run, *inputs) for side, run in jitted.items()}
    others = torch.calls({"encoded": encoded, **weights}, of="decoding", beam=beam, most=MOST) if torch else {}
    times = interleaved(sides | others, rounds)
    beams = sides["beam"]()
    labels = [row[:n].tolist() for row, n in zip(beams.labels[:, 0], beams.lengths[:, 0], strict=True)]
    print(f"{name}: B = {b}, T = {t}, V = {v}, D = {d}, beam {beam}, {sum(map(len, labels)) / b:.0f} labels per row")
    print(f"  {'':22}{'median':>10}{'least':>10}")
    for side, x in times.items():
        print(f"  {side:22}{1000 * x.median:7.1f} ms{1000 * min(x):7.1f} ms")
    if others:
        scores, *best = next(iter(others.values()))()
        same = sum(x == y.tolist() for x, y in zip(labels, best, strict=True))
        apart = np.abs(np.asarray(beams.scores[:, 0]) - scores).max()
        for how_much in (statistics.median, min):
            theirs = min(how_much(times[side]) for side in others)
            print(f"  torchaudio / beam, {how_much.__name__}: {theirs / how_much(times['beam']):.1f}")
        print(f"  {same} of {b} best hypotheses are the same; their scores differ by at most {apart:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchaudio", metavar="PYTHON", help="a Python that imports torch and torchaudio")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", type=sizes, help="B x T x V x D x beam, in place of the two models")
    arguments = parser.parse_args()
    torch = Process(arguments.torchaudio, "torch_sides", len(os.sched_getaffinity(0))) if arguments.torchaudio else None
    for name, shape in {"given": arguments.shape}.items() if arguments.shape else CASES.items():
        measure(name, *shape, arguments.rounds, torch)
    if torch:
        torch.close()


if __name__ == "__main__":
    main()
