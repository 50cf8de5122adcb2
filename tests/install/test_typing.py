"""The types that users see: strict type checkers accept a good script and refuse a bad one."""

import doctest
import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import jax_rnnt

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parents[1] / "support" / "typed_user_script.py"
CHECKERS = {
    "mypy": ["--strict", "--follow-imports=silent", f"--python-executable={sys.executable}"],
    "pyright": ["--pythonpath", sys.executable],
}


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False, cwd=folder)


@pytest.mark.full
@pytest.mark.once
def test_the_script_runs() -> None:
    done = run(sys.executable, "-W", "ignore", SCRIPT, folder=SCRIPT.parent)
    assert done.returncode == 0, done.stderr


OPERATIONS = (
    jax_rnnt.RNNTLoss,
    jax_rnnt.arc_log_probs,
    jax_rnnt.lattice_cost,
    jax_rnnt.lattice_posteriors,
    jax_rnnt.alignment.lattice_best_path,
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_implementation_is_one_of_its_names(operation) -> None:
    assert typing.get_type_hints(operation)["implementation"] == typing.Literal["native", "lax", "pallas"] | None


@pytest.mark.once
@pytest.mark.full  # CI's step of types accepts the script with mypy
@pytest.mark.parametrize("checker", CHECKERS)
def test_strict_checker(checker: str, tmp_path: Path) -> None:
    """The checker accepts the script and the docstring's example. An unknown implementation is an error."""
    program = shutil.which(checker)
    if program is None:
        pytest.skip(f"{checker} is not on PATH")
    example, bad = tmp_path / "example.py", tmp_path / "bad.py"
    parts = doctest.DocTestParser().get_examples(jax_rnnt.check_inputs.__doc__ or "")
    example.write_text("# pyright: strict\n" + "".join(part.source for part in parts))
    bad.write_text(SCRIPT.read_text().replace('implementation="lax"', 'implementation="gpu"'))
    done = run(program, *CHECKERS[checker], SCRIPT, example, bad, MYPYPATH=str(ROOT))
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 2, done.stdout + done.stderr
    assert all("bad.py" in line and '"implementation"' in line for line in errors), done.stdout
