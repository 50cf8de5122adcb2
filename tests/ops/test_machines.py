"""The kernels on machines that differ from this one, in separate processes.

These properties of a machine change what the kernels do. Each line names the tests of one property:

* the processors that the process may use, and the threads of XLA's pool: here, and in tests/cpp/parallel_check.cc;
* system calls that a sandbox may refuse (`sched_setaffinity`, `madvise`): here;
* the instruction set: scripts/check_cuda.sh compares the kernels, built for each level, with the CUDA kernels;
* the alignment of operands: tests/cpp/hostile_inputs.cc, whose arrays begin anywhere.

A quota below one processor changes when threads run. No code reads it.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jax_rnnt.xla import native

pytestmark = [
    pytest.mark.once,
    pytest.mark.host,
    pytest.mark.skipif(not native.native_available(), reason="the compiled module is not usable"),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux"),
]
SUPPORT = Path(__file__).resolve().parents[1] / "support"

# One batch for each way in which the handlers divide work: a chunk is a whole utterance, several of them, or one
# direction of one.
SCRIPT = """
import ctypes, os, struct, sys

if sys.argv[1] == "one":
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
elif sys.argv[1] == "refused":
    # A filter of system calls (BPF): these two fail with EPERM, for this process and its threads.
    refused = [203, 28]  # sched_setaffinity and madvise on x86-64
    load, equal, give = 0x20, 0x15, 0x06
    rules = [(load, 0, 0, 0), (equal, 1, 0, refused[0]), (equal, 0, 1, refused[1]), (give, 0, 0, 0x50001)]
    rules.append((give, 0, 0, 0x7fff0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except PermissionError:
        pass
    else:
        sys.exit("the filter lets sched_setaffinity pass")
import jax, numpy as np
import jax_rnnt, reference

@jax.jit  # one program per batch, which costs less than the programs of single operations
def run(logits, arcs, targets, *lengths):
    costs, pull = jax.vjp(
        lambda x: jax_rnnt.rnnt_loss(x, targets, *lengths, blank=0, reduction="none", implementation="native"), logits
    )
    posteriors = jax_rnnt.lattice_posteriors(arcs, *lengths, reference.MULTI_BLANK, implementation="native")
    return (costs, pull(costs * 0 + 1)[0]), posteriors

for batch, frames, labels in ((1, 150, 60), (2, 150, 30), (7, 40, 15), (12, 90, 50)):
    rng = np.random.default_rng(batch)
    logits = rng.normal(size=(batch, frames, labels + 1, 18)).astype(np.float32)
    arcs = rng.normal(size=(batch, frames, labels + 1, 4)).astype(np.float32)
    targets = rng.integers(1, 18, (batch, labels))
    lengths = rng.integers(frames // 2, frames + 1, batch), rng.integers(labels // 2, labels + 1, batch)
    of_loss, of_lattice = run(logits, arcs, targets, *lengths)
    wanted_of_loss = reference.rnnt_loss(logits, targets, *lengths, blank=0)
    wanted_of_lattice = reference.lattice_cost(arcs, *lengths, reference.MULTI_BLANK)
    for actual, wanted in zip((*of_loss, *of_lattice), (*wanted_of_loss, *wanted_of_lattice), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=2e-5)
"""


def run(kind: str, **environment: str) -> None:
    env = os.environ | {"PYTHONPATH": str(SUPPORT), "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", SCRIPT, kind]
    done = subprocess.run(command, env=env, cwd=SUPPORT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_one_processor() -> None:
    run("one")


def test_a_small_pool() -> None:
    run("all", NPROC="3")  # XLA reads NPROC before it counts processors


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are those of x86-64")
def test_system_calls_refused() -> None:
    run("refused")
