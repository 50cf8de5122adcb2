"""Installing from source: without kernels on purpose, and without a tool that the kernels need. The module's stub."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jax_rnnt

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.once


def build(folder: Path, *, before: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Calls the hook of pyproject.toml that builds a wheel into ``folder``, as pip does."""
    pytest.importorskip("scikit_build_core")
    script = f"""{before}
import build_backend
build_backend.build_wheel({str(folder)!r}, {{"build-dir": {str(folder / "cmake")!r}}})
"""
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts")} | environment
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_pure_python_on_purpose(tmp_path: Path) -> None:
    """The wheel has no module, its import is silent, and the package says why there are no kernels."""
    done = build(tmp_path, JAX_RNNT_NATIVE="OFF")
    assert done.returncode == 0, done.stdout
    (wheel,) = tmp_path.glob("*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".pyd", ".cc"))]
        archive.extractall(tmp_path / "installed")
    script = """
import importlib.machinery as machinery, sys
# Without the finder of an editable install, which would come first.
sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter, machinery.PathFinder]
import jax_rnnt, jax.numpy as jnp
arrays = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 0), int), jnp.array([1]), jnp.array([0])
info = jax_rnnt.build_info()
print(float(jax_rnnt.rnnt_loss(*arrays)), info["implementations"]["cpu"] == "native", info["reason"])
try:
    jax_rnnt.rnnt_loss(*arrays, implementation="native")
except RuntimeError as error:
    print(error)
"""
    env = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    answers, error = done.stdout.splitlines()
    assert answers.startswith("0.693147")
    assert " False " in answers
    assert "JAX_RNNT_NATIVE=OFF" in answers
    assert "pip install" in error


NO_CMAKE = "import sys; sys.modules['cmake'] = None"


@pytest.mark.parametrize(
    ("before", "environment"),
    [
        pytest.param(NO_CMAKE, {"PATH": ""}, id="cmake"),
        pytest.param(
            "", {"CXX": "/no/compiler"}, id="compiler",
            marks=pytest.mark.skipif(not shutil.which("cmake"), reason="CMake is what finds no compiler"),
        ),
    ],
)  # fmt: skip
def test_without_a_tool_the_last_words_say_what_to_install(tmp_path: Path, before: str, environment: dict) -> None:
    done = build(tmp_path, before=before, **environment)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    last_words = done.stdout.strip().splitlines()[-1]
    for word in ("CMake", "C++17 compiler", "apt install", "JAX_RNNT_NATIVE=OFF"):
        assert word in last_words, done.stdout


def test_stub_of_the_compiled_module() -> None:
    """The stub is that of the module.

    To write it again: python -m nanobind.stubgen -m jax_rnnt._native --exclude-values -o jax_rnnt/_native.pyi
    """
    stubgen = pytest.importorskip("nanobind.stubgen")
    if jax_rnnt.build_info()["implementations"]["cpu"] != "native":
        pytest.skip("there is no compiled module")
    module = importlib.import_module("jax_rnnt._native")
    generator = stubgen.StubGen(module, max_expr_length=0)
    generator.put(module)
    stored = ast.parse((ROOT / "jax_rnnt" / "_native.pyi").read_text())
    if jax_rnnt.build_info()["cuda"] is None:
        cuda = ("lattice_workspace",)
        stored.body = [node for node in stored.body if getattr(node, "name", "") not in cuda]
    assert ast.unparse(ast.parse(generator.get())) == ast.unparse(stored)
