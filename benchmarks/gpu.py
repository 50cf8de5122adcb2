"""Times the loss with its gradient on a GPU: the CUDA kernels, the lax form, a copy on the device, and torchaudio.
Then it times the lattice kernels alone.

    python benchmarks/gpu.py [--rounds 20]

Every round runs each side once, and the script prints medians over the rounds. torchaudio takes part if Python can
import it and a CUDA build of torch.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
from cases import make_inputs, parse
from clock import interleaved

import jax_rnnt

CALLS = 50
LATTICES = ((1, 300, 60), (1, 400, 120), (1, 800, 200), (64, 400, 120))
MOVES = {
    "RNN-T": ((1, 0), (0, 1)),
    "monotonic RNN-T": ((1, 0), (1, 1)),
    "multi-blank": ((1, 0), (2, 0), (4, 0), (0, 1)),
    "TDT": (*((d, 0) for d in range(1, 5)), *((d, 1) for d in range(5))),
}
SHAPES = tuple(map(parse, ["8x200x50x500", "4x300x60x1024", "32x300x60x1024-bfloat16", "8x150x40x28"]))


def loss_side(implementation, *batch):
    step = jax.jit(jax.value_and_grad(jax_rnnt.RNNTLoss(implementation=implementation)))
    return lambda: step(*batch)


def in_place_side(logits, *rest):
    """The logits are donated: the gradient takes their memory, as in a training step. The next call reads it."""
    step = jax.jit(jax.value_and_grad(jax_rnnt.RNNTLoss(implementation="native")), donate_argnums=0)
    memory = [jnp.copy(logits)]

    def run():
        value, memory[0] = step(memory[0], *rest)
        return value, memory[0]

    return run


def copy_side(logits):
    """Reads the logits twice and writes them once. The loss and its gradient must move as many bytes."""
    step = jax.jit(lambda x: (jnp.max(x), x + jnp.ones((), x.dtype)))
    return lambda: step(logits)


def torchaudio_side(logits, *rest):
    import torch
    import torchaudio

    if logits.dtype == jnp.bfloat16:
        raise ImportError("torchaudio takes no bfloat16")
    x = torch.tensor(np.asarray(logits), device="cuda", requires_grad=True)
    tensors = [torch.tensor(np.asarray(a), device="cuda") for a in rest]

    def run():
        x.grad = None
        torchaudio.functional.rnnt_loss(x, *tensors).backward()
        torch.cuda.synchronize()

    return run


def lattice_side(operation, arcs, lengths, moves):
    """CALLS calls in one program, one after another, so that the time is that of the kernels."""

    def call(_, x):
        cost = operation(x, *lengths, moves, implementation="native")
        cost = cost[0] if isinstance(cost, tuple) else cost
        return x.at[0, 0, 0, 0].add(0 * cost[0])

    calls = jax.jit(lambda x: jax.lax.fori_loop(0, CALLS, call, x))
    return lambda: calls(arcs)


def losses(rounds: int) -> None:
    for case in SHAPES:
        batch = [jnp.asarray(x) for x in make_inputs(case).values()]
        sides = {"copy": copy_side(batch[0]), "native": loss_side("native", *batch)}
        sides |= {"native, in place": in_place_side(*batch), "lax": loss_side("lax", *batch)}
        try:
            sides["torchaudio"] = torchaudio_side(*batch)
        except ImportError as error:
            print(f"torchaudio is not timed: {error}")
        times = interleaved(sides, rounds)
        copy = times["copy"].median
        columns = ", ".join(f"{name} {1e3 * x.median:.3f} ms ({x.median / copy:.2f})" for name, x in times.items())
        print(f"{case.key}: {columns}")


def lattices(rounds: int) -> None:
    """Operation 2 alone."""
    for name, moves in MOVES.items():
        for b, t, u in LATTICES:
            arcs = jnp.asarray(np.random.default_rng(0).normal(-1, 1, (b, t, u + 1, len(moves))), jnp.float32)
            lengths = jnp.full(b, t, jnp.int32), jnp.full(b, u, jnp.int32)
            operations = {"cost": jax_rnnt.lattice_cost, "posteriors": jax_rnnt.lattice_posteriors}
            sides = {what: lattice_side(f, arcs, lengths, moves) for what, f in operations.items()}
            times = interleaved(sides, rounds)
            columns = ", ".join(f"{what} {1e6 * x.median / CALLS:.1f} us" for what, x in times.items())
            print(f"{name} {(b, t, u)}: {columns}; {t + u} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    if jax_rnnt.build_info()["implementations"]["cuda"] != "native" or jax.default_backend() != "gpu":
        sys.exit("benchmarks/gpu.py needs a GPU that jax finds, and jax_rnnt built with CUDA")
    print(jax.devices()[0].device_kind, "jax", jax.__version__)
    losses(rounds)
    lattices(rounds)


if __name__ == "__main__":
    main()
