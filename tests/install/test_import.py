"""What an import does, in separate processes: it is silent, loads little, starts no backend and needs no kernels."""

import inspect
import os
import pydoc
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

import jax_rnnt
from jax_rnnt.xla import gpus, native


def run(script: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *flags, "-c", textwrap.dedent(script)]
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    # The process runs outside the repository's folder, where the source tree would hide the installed package.
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=300, check=False, cwd=Path(__file__).parent
    )
    assert done.returncode == 0, done.stderr
    return done


# Makes every compiled module of the package look absent.
WITHOUT_COMPILED_MODULE = """
    import importlib.machinery, sys

    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("jax_rnnt.") and path is not None:
                spec = importlib.machinery.PathFinder.find_spec(name, path)
                if spec is None or isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return None

    sys.meta_path.insert(0, Missing())
"""


@pytest.mark.skipif(not native.native_available(), reason="without kernels the import warns, see below")
def test_import() -> None:
    """It is silent, needs jax and numpy only, loads only parts of JAX beside itself, and starts no backend.

    So a user can still choose the number of devices. JAX refuses this once a backend runs.
    """
    done = run("""
        import sys
        for name in ("flax", "optax", "chex", "scipy.special", "torch"):
            sys.modules[name] = None  # importing it fails
        import jax, numpy
        before = set(sys.modules)
        import jax_rnnt
        loaded = set(sys.modules) - before
        import jax.numpy as jnp
        jax_rnnt.build_info(), jax_rnnt.RNNTLoss()
        jax.config.update("jax_num_cpu_devices", 3)
        arrays = jnp.zeros((1, 1, 1, 2)), jnp.zeros((1, 0), int), jnp.array([1]), jnp.array([0])
        print(jax.device_count(), float(jax_rnnt.rnnt_loss(*arrays)), *sorted(loaded))
    """, "-W", "error")  # fmt: skip
    assert done.stderr == ""
    devices, cost, *loaded = done.stdout.split()
    assert devices == "3"
    assert float(cost) == pytest.approx(0.6931472)
    known = ("jax_rnnt", "jax._src", "jax.extend", "jax.export", "jax.experimental.shard_map")
    assert "jax_rnnt" in loaded
    others = [name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names]
    assert [name for name in others if not name.startswith(known)] == []


def test_without_the_compiled_module() -> None:
    """The package warns once, with the reason, and runs the lax form.

    build_info gives the reason too. "native" is an error that names the remedy.
    """
    done = run(
        textwrap.dedent(WITHOUT_COMPILED_MODULE)
        + textwrap.dedent("""
        import warnings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import jax.numpy as jnp
            import jax_rnnt
            arrays = jnp.zeros((1, 2, 2, 3)), jnp.array([[1]]), jnp.array([2]), jnp.array([1])
            for _ in range(2):
                print(float(jax_rnnt.rnnt_loss(*arrays)))
        ours = [str(w.message) for w in caught if "jax_rnnt" in str(w.message)]
        print(len(ours), ours)
        from jax_rnnt.xla import native; print(native.native_available(), jax_rnnt.build_info())
        try:
            jax_rnnt.rnnt_loss(*arrays, implementation="native")
        except Exception as error:
            print(type(error).__name__, str(error).splitlines()[0])
        else:
            print("no error")
        """)
    )
    first, second, warned, info, error = done.stdout.splitlines()
    # There are two paths of three arcs, and each arc has probability 1/3: -log(2 / 27).
    assert first == second
    assert float(first) == pytest.approx(2.6026897)
    assert warned.startswith("1 "), warned
    assert "native" in warned or "compiled" in warned
    assert info.startswith("False ")
    assert "lax" in info
    assert "native" in error
    assert "lax" in error or "install" in error or "implementation=None" in error, error


def test_build_info() -> None:
    info = jax_rnnt.build_info()
    assert isinstance(info, dict)
    assert "version" in info
    assert native.native_available() == (info["implementations"]["cpu"] == "native")
    assert info["implementations"]["tpu"] == "lax"


BUILT = "75-real, 80-real, 90, 100a-real, 120-virtual"


@pytest.mark.parametrize(
    ("capability", "code"),
    [
        ("7.5", "sm_75"),
        ("7.0", None),
        ("8.0", "sm_80"),
        ("8.9", "sm_80"),  # machine code of its generation before PTX
        ("9.0", "sm_90"),
        ("10.0", "sm_100a"),
        ("10.3", "compute_90"),  # 100a is for 10.0 alone
        ("12.1", "compute_120"),
    ],
)
def test_code_for_a_gpu(capability: str, code: str | None) -> None:
    assert gpus.code_for(capability, BUILT) == code


def test_build_info_names_the_code_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(
        ffi_api_minor=1, build_info=lambda: {"cuda": {"version": "13.0.88", "architectures": BUILT}}
    )
    monkeypatch.setattr(native, "_module", module)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert jax_rnnt.build_info()["cuda"] == {"version": "13.0.88", "architectures": BUILT, "gpus": {}}
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=compute_cap ] && printf "9.0\\n9.0\\n7.0\\n"\n')
    tool.chmod(0o755)
    assert jax_rnnt.build_info()["cuda"]["gpus"] == {"9.0": "sm_90", "7.0": None}


def test_build_info_without_installed_metadata() -> None:
    """A source tree on Python's path and a frozen application have no metadata."""
    done = run("""
        import importlib.metadata, warnings
        def version(name):
            raise importlib.metadata.PackageNotFoundError(name)
        importlib.metadata.version = version
        warnings.simplefilter("ignore")
        import jax_rnnt
        print(jax_rnnt.build_info()["version"], jax_rnnt.__version__)
    """)
    assert done.stdout.split() == ["unknown", "unknown"]


def test_public_names() -> None:
    for module in (jax_rnnt, jax_rnnt.alignment, jax_rnnt.decoding):
        for name in module.__all__:
            documentation = getattr(module, name).__doc__
            assert documentation, name
            if inspect.isfunction(getattr(module, name)) and name != "ffi_targets":
                assert ">>>" in documentation, f"{name} has a doctest"
    assert jax_rnnt.__version__ == jax_rnnt.build_info()["version"]


def test_dir_and_help_list_the_public_names_alone() -> None:
    listed = [name for name in dir(jax_rnnt) if not name.startswith("__")]
    public = [name for name in jax_rnnt.__all__ if not name.startswith("__")]
    assert listed == sorted(public)
    for name in public:
        assert re.search(rf"^  (\w+ +)?{name} ", jax_rnnt.__doc__, re.MULTILINE), f"the docstring says what {name} is"
    text = pydoc.render_doc(jax_rnnt, renderer=pydoc.plaintext)
    for name in public:
        if inspect.isfunction(getattr(jax_rnnt, name)):
            assert f"\n    {name}(" in text, name


def test_nobody_is_sent_to_an_index() -> None:
    """No index has this package. Whoever registered its name there could send people anything."""
    root = Path(__file__).parents[2]
    files = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("benchmarks/*.md"), *root.glob("jax_rnnt/**/*.py")]
    files += root.glob("examples/*.py")
    assert len(files) > 20
    for file in files:
        found = re.search(r"pip install ([^\s#]+ )*[\"']?jax[_-]rnnt\b", file.read_text())
        assert not found, f"{file}: {found[0] if found else None}"


def test_a_missing_module_is_installed_from_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_reason", "the compiled module could not be imported")
    remedy = native.missing_reason("arcs_forward")
    assert "folder of its source" in remedy
    assert re.search(r"`pip install .* \.`$", remedy)  # a full stop behind a bare command would be a part of it
