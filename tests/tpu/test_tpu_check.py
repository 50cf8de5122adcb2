"""The script for someone with a TPU. Here it compares only, in the interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once, pytest.mark.host]


@pytest.mark.full()
def test_it_runs_to_its_end_and_finds_nothing_wrong() -> None:
    script = Path(__file__).parents[2] / "scripts" / "tpu_check.py"
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("pallas  right") == 2 * 3, "each case as it runs, and again at the end"
    assert done.stdout.count("lax     right") == 2 * 7
    assert done.stdout.endswith("nothing is timed\n")
