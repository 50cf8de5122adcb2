"""Checks an installed package: compares losses and gradients of the kernels with the lax form. Prints what was built.

    python scripts/smoke_test.py [--cuda]

With --cuda it fails if the package was built without CUDA kernels. It needs no GPU to find them.
"""

import argparse
import importlib.metadata
import platform
import sys

import jax
import numpy as np

import jax_rnnt

B, T, U, V = 3, 12, 5, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    logits = random.normal(size=(B, T, U + 1, V)).astype(np.float32)
    targets = random.integers(1, V - 4, (B, U)).astype(np.int32)
    lengths = np.array([T, T - 1, T - 3], np.int32), np.array([U, U - 2, 0], np.int32)
    losses = {
        "rnnt_loss": jax_rnnt.rnnt_loss,
        "tdt_loss": lambda *a, **k: jax_rnnt.tdt_loss(*a, durations=(0, 1, 2, 3), **k),
    }
    for name, loss in losses.items():
        values = {}
        for implementation in ("native", "lax"):
            function = jax.jit(jax.value_and_grad(lambda x, i=implementation, f=loss: f(
                x, targets, *lengths, blank=0, reduction="sum", implementation=i)))  # fmt: skip
            values[implementation] = function(logits)
        (cost, gradient), (expected_cost, expected_gradient) = values["native"], values["lax"]
        np.testing.assert_allclose(cost, expected_cost, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5, err_msg=name)
        assert np.abs(gradient).max() > 0.01, name
    info = jax_rnnt.build_info()
    if info["reason"] is not None or (arguments.cuda and info["cuda"] is None):
        sys.exit(f"kernels are missing: {info}")
    tag = importlib.metadata.distribution("jax_rnnt").read_text("WHEEL").split("Tag: ")[1].split()[0]
    print(f"Python {platform.python_version()}, jax {jax.__version__}, {tag}: passed; {info}")


if __name__ == "__main__":
    main()
