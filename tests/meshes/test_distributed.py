"""Two real processes train together over loopback. The tests compare them with one process that trains alone."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).parents[1] / "support" / "distributed_worker.py"
PROCESSES = 2
SECONDS = 150  # the limit for all of them, with start and compilation; they take about 10


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _run(commands: list[list[str]], folder: Path) -> list[str]:
    """Runs the commands at the same time and returns their outputs.

    If one fails or the time is up, it raises an error with all outputs. No process survives.
    """
    # Outputs go to files. A full pipe would stop a process, and the others would wait for it.
    logs = [folder / f"{len(commands)}-{i}.log" for i in range(len(commands))]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    running = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("w") as output:
                running.append(
                    subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment)
                )
        end = time.monotonic() + SECONDS
        while any(p.poll() is None for p in running) and time.monotonic() < end:
            if any(p.poll() not in (None, 0) for p in running):
                break  # the others would wait for the dead one
            time.sleep(0.1)
    finally:
        codes = [p.poll() for p in running]
        for process in running:
            process.kill()
        for process in running:
            process.wait(timeout=10)
    outputs = [log.read_text() for log in logs]
    assert codes == [0] * len(commands), "\n".join([f"exit codes {codes} (None: killed)", *outputs])
    return outputs


@pytest.mark.host
def test_two_processes_train_as_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    worker = [sys.executable, str(WORKER)]
    port = str(_free_port())
    together = [[*worker, f"{i}.npz", port, str(PROCESSES), str(i)] for i in range(PROCESSES)]
    outputs = _run([[*worker, "alone.npz"]], tmp_path) + _run(together, tmp_path)
    lines = [line for output in outputs for line in output.splitlines() if line.startswith("process ")]
    with capsys.disabled():
        print("", *lines, sep="\n  ")
    assert [line.split(",")[1] for line in lines] == [" 1 devices", " 4 devices", " 4 devices"]
    alone, *parts = (np.load(tmp_path / name) for name in ("alone.npz", "0.npz", "1.npz"))
    assert alone["losses"][-1] < 0.7 * alone["losses"][0]
    for part in parts:
        np.testing.assert_allclose(part["losses"], alone["losses"], rtol=1e-5)
        np.testing.assert_allclose(part["weights"], alone["weights"], rtol=1e-5, atol=1e-5)
