"""jax.export and the persistent compilation cache: programs that leave the process in which they were made."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
import reference
from cases import random_batch

pytest.importorskip("flatbuffers", reason="jax.export serialises with flatbuffers")
from jax import export
from meshes import V

import jax_rnnt
from jax_rnnt.xla import native

STEP_TARGETS = {"jax_rnnt_arcs_forward", "jax_rnnt_arcs_backward", "jax_rnnt_lattice_posteriors"}


def _checks() -> list[export.DisabledSafetyCheck]:
    return [export.DisabledSafetyCheck.custom_call(name) for name in jax_rnnt.ffi_targets()]


def _step(implementation: str | None, **options):
    return jax.jit(jax.value_and_grad(meshes.total(implementation, **options)))


def _targets(exported: export.Exported) -> set[str]:
    """The names of our custom calls. Those of StableHLO itself (shardings, shape checks) do not count."""
    found = set(re.findall(r"custom_call @([\w.]+)", exported.mlir_module()))
    return {name for name in found if name.startswith("jax_rnnt")}


def _assert_step(result) -> None:
    meshes.assert_close(result[0], meshes.expected()[0].sum())
    meshes.assert_close(result[1], meshes.expected()[1])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_each_platform_gets_its_form(platform: str) -> None:
    """An export on this machine has kernels for each platform that has any. For others it has no custom call."""
    exported = export.export(_step(None), platforms=[platform], disabled_checks=_checks())(*meshes.batch())
    has_kernels = native.native_available(platform)
    assert _targets(exported) == (STEP_TARGETS if has_kernels else set())
    if not has_kernels:
        assert "custom_call @" not in exported.mlir_module()
    assert exported.platforms == (platform,)


def test_native_for_a_platform_without_kernels_is_said() -> None:
    with pytest.raises(NotImplementedError, match=r"'native'.*no kernel for tpu"):
        export.export(_step("native"), platforms=["tpu"])(*meshes.batch())


def test_one_module_for_all_platforms() -> None:
    """The program contains every form, and chooses one when it runs."""
    make = export.export(_step(None), platforms=["cpu", "cuda", "tpu"], disabled_checks=_checks())
    exported = make(*meshes.batch())
    assert _targets(exported) == (STEP_TARGETS if native.native_available() else set())
    restored = export.deserialize(exported.serialize())
    _assert_step(jax.jit(restored.call)(*meshes.batch()))


def test_round_trip_of_the_derivative() -> None:
    """With vjp_order=1 the export contains the gradient, so a user can differentiate what was restored."""
    make = export.export(jax.jit(meshes.total(losses.QUICK)), disabled_checks=_checks())
    restored = export.deserialize(make(*meshes.batch()).serialize(vjp_order=1))
    _assert_step(jax.value_and_grad(restored.call)(*meshes.batch()))


def test_checks_are_exactly_what_export_asks_for(implementation: str) -> None:
    """`ffi_targets()` names all targets that an export checks.

    Without it JAX refuses, and the error names no others.
    """
    step = _step(implementation)
    if implementation == "lax":
        export.export(step)(*meshes.batch())
        return
    with pytest.raises(ValueError, match="jax_rnnt_") as error:
        export.export(step)(*meshes.batch())
    named = set(re.findall(r"jax_rnnt_(?:arcs|lattice)_[a-z]+", str(error.value)))
    assert named
    assert named <= set(jax_rnnt.ffi_targets())


@pytest.mark.parametrize(
    ("platform", "options"),
    [("cpu", {}), ("cpu", {"clamp": 0.1, "blank": 0}), ("tpu", {})],
    ids=["cpu", "clamp", "tpu"],
)
def test_symbolic_shapes(platform: str, options: dict) -> None:
    """Batch, frames and labels have symbolic sizes, so one program serves every shape."""
    b, t, u = export.symbolic_shape("b, t, u")
    shapes = [((b, t, u + 1, V), "float64"), ((b, u), "int32"), ((b,), "int32"), ((b,), "int32")]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)) for shape, dtype in shapes]
    exported = export.export(_step(None, **options), platforms=[platform], disabled_checks=_checks())(*arguments)
    restored = export.deserialize(exported.serialize())
    if platform == "tpu":
        assert "custom_call @jax_rnnt" not in exported.mlir_module()
        return
    blank = options.get("blank", -1)
    for size, time, labels in ((3, 5, 2), (2, 2, 4)):
        logits, targets = random_batch(f"symbolic{size}", size, time, labels, V, blank)
        arrays = logits, targets, np.arange(size, dtype=np.int32) % time + 1, np.arange(size, dtype=np.int32) % labels
        cost, gradient = reference.rnnt_loss(*arrays, blank=blank, clamp=options.get("clamp", -1.0))
        value, actual = jax.jit(restored.call)(*arrays)
        meshes.assert_close(value, cost.sum())
        meshes.assert_close(actual, gradient)


def test_round_trip_of_a_divided_step() -> None:
    """A step exported for eight devices. Each kernel keeps its part, and the gradient is divided as the logits are."""
    mesh = meshes.make_mesh(data=8)
    arrays = tuple(meshes.put(mesh, a, "data") for a in meshes.batch())
    exported = export.export(_step(losses.QUICK), disabled_checks=_checks())(*arrays)
    assert exported.nr_devices == 8
    restored = export.deserialize(exported.serialize())
    step, program = meshes.compiled(restored.call, *arrays)
    assert program.collectives() == [("all-reduce", ())]
    result = step(*arrays)
    _assert_step(result)
    assert meshes.is_sharded_as(result[1], mesh, "data")


_CACHED = """
import jax, jax.monitoring, jax.numpy as jnp
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
import jax_rnnt
arrays = jnp.zeros((2, 3, 3, 5)), jnp.zeros((2, 2), int), jnp.full(2, 3), jnp.full(2, 2)
step = jax.jit(jax.value_and_grad(lambda *a: jax_rnnt.rnnt_loss(*a, implementation="{implementation}")))
events.clear()
value, gradient = jax.block_until_ready(step(*arrays))
hits = sum(name.endswith("/cache_hits") for name in events)
print(float(value), float(abs(gradient).sum()), hits)
"""


def test_persistent_compilation_cache(tmp_path) -> None:
    """Another process loads the compiled step with its custom calls, and gets the same numbers."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }
    script = [sys.executable, "-c", _CACHED.format(implementation=losses.QUICK)]
    runs = [
        subprocess.run(
            script,
            env={**os.environ, **settings},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        for _ in range(2)
    ]
    assert all(run.returncode == 0 for run in runs), runs[-1].stderr
    (*first, missed), (*second, hit) = (run.stdout.split() for run in runs)
    assert first == second
    assert (int(missed), int(hit)) == (0, 1)
