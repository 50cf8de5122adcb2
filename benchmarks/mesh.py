"""Times loss and gradient of a batch that is divided over host devices, and of its share of the batch on one device.

    python benchmarks/mesh.py [--devices 8] [--shape 32x150x40x128] [--dtype float32] [--rounds 15]

Bytes are those of one device, as XLA plans them. Host devices share the processors. So compare the time of the mesh
with that of the whole batch on one device.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np


def batch(b: int, t: int, u: int, v: int, dtype: str) -> tuple:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(b, t, u + 1, v)).astype(jnp.dtype(dtype))
    targets = rng.integers(1, v, size=(b, u)).astype(np.int32)
    return logits, targets, np.full(b, t, np.int32), np.full(b, u, np.int32)


def milliseconds(runs: dict, rounds: int) -> dict[str, float]:
    """Medians. Each round calls every one of `runs` once, because a shared machine changes its speed."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            if round_number >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--shape", default="32x150x40x128", help="B x T x U x V")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    import jax_rnnt

    b, t, u, v = map(int, args.shape.split("x"))
    arrays = batch(b, t, u, v, args.dtype)
    mesh = jax.make_mesh((args.devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    places = {
        f"one device, B = {b}": (arrays, jax.devices()[0]),
        f"one device, B = {b // args.devices}": (tuple(a[: b // args.devices] for a in arrays), jax.devices()[0]),
        f"each of {args.devices} devices, B = {b}": (
            arrays,
            jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")),
        ),
    }
    print(f"jax {jax.__version__}, (B, T, U+1, V) = {b, t, u + 1, v}, {args.dtype}; bytes in MB\n")
    print("| implementation | where | arguments | results | temporary | all | ms |\n|---|---|--:|--:|--:|--:|--:|")
    for implementation in (
        ("native", "lax") if jax_rnnt.build_info()["implementations"]["cpu"] == "native" else ("lax",)
    ):
        loss = jax_rnnt.RNNTLoss(blank=0, reduction="sum", implementation=implementation)
        step = jax.jit(jax.value_and_grad(loss))
        runs, sizes = {}, {}
        for name, (host, place) in places.items():
            here = jax.device_put(host, place)
            plan = (compiled := step.lower(*here).compile()).memory_analysis()
            sizes[name] = (plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes)
            runs[name] = lambda compiled=compiled, here=here: compiled(*here)
        medians = milliseconds(runs, args.rounds)
        for name, parts in sizes.items():
            columns = " | ".join(f"{x / 1e6:.2f}" for x in (*parts, sum(parts)))
            print(f"| {implementation} | {name} | {columns} | {medians[name]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
