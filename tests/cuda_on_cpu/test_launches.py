"""Launches of the CUDA kernels built for the CPU: an error names the kernel, and the workspace suits the sizes."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from implementations import CUDA_ON_CPU
from jax import export

import jax_rnnt

pytestmark = pytest.mark.skipif(not CUDA_ON_CPU, reason="needs the CUDA kernels built for the CPU")

NATIVE = sys.modules.get("jax_rnnt._native")
LENGTHS = jnp.array([3, 2], jnp.int32), jnp.array([2, 1], jnp.int32)
LOGITS = jnp.ones((2, 3, 3, 5), jnp.float32)
TARGETS = jnp.array([[1, 2], [3, 4]], jnp.int32)


@pytest.mark.parametrize(
    ("launch", "kernel"), [(1, "ArcsForward"), (2, "LatticeSums"), (3, "LatticePosteriors"), (4, "ArcsBackward")]
)
def test_a_launch_that_fails_is_an_error(launch, kernel):
    step = jax.jit(
        jax.value_and_grad(lambda x: jax_rnnt.rnnt_loss(x, TARGETS, *LENGTHS, blank=0, implementation="native"))
    )
    value, gradient = step(LOGITS)
    NATIVE.fail_launch(launch)
    says = rf"{kernel}<<<\d+, \d+, \d+ bytes>>>: too many resources"
    with pytest.raises(
        (ValueError, jax.errors.JaxRuntimeError), match=says
    ):  # JAX takes either, by the way of the call
        jax.block_until_ready(step(LOGITS))
    again, gradient_again = step(LOGITS)
    assert value == again and (gradient == gradient_again).all()


@pytest.mark.parametrize(("launch", "kernel"), [(1, "LatticeSums"), (2, "LatticeCost")])
def test_a_launch_for_the_cost_alone_that_fails_is_an_error(launch, kernel):
    cost = jax.jit(lambda arcs: jax_rnnt.lattice_cost(arcs, *LENGTHS, implementation="native"))
    arcs = jnp.zeros((2, 3, 3, 2), jnp.float32)
    expected = cost(arcs)
    NATIVE.fail_launch(launch)
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match=rf"{kernel}<<<.*too many resources"):
        jax.block_until_ready(cost(arcs))
    assert (cost(arcs) == expected).all()


@pytest.mark.parametrize(
    ("launch", "kernel"), [(1, "HiddenRows"), (7, "HiddenSumsOfFrames"), (8, "HiddenSumsOfPositions")]
)
def test_a_launch_for_a_joint_network_that_fails_is_an_error(launch, kernel):
    joint, params = jax_rnnt.additive_joint(), {"kernel": jnp.ones((4, 5), jnp.float32)}

    def total(encoded):
        logits = jax_rnnt.JointLogits(joint, params, encoded, jnp.ones((2, 3, 4), jnp.float32))
        return jax_rnnt.rnnt_loss(logits, TARGETS, *LENGTHS, blank=0, implementation="native")

    step, encoded = jax.jit(jax.value_and_grad(total)), jnp.ones((2, 3, 4), jnp.float32)
    jax.block_until_ready(step(encoded))
    NATIVE.fail_launch(launch)
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match=rf"{kernel}<<<.*too many resources"):
        jax.block_until_ready(step(encoded))


@pytest.mark.parametrize("beyond", [0, 1])
def test_as_many_positions_as_shared_memory_holds_and_one_more(beyond):
    moves = ((1, 0), (1, 0), (0, 1))  # equal moves take the general kernel
    of_position = NATIVE.lattice_workspace(moves, False, -1, -1)[2]
    num_positions = ((48 << 10) - 512) // (4 * of_position) + beyond
    arcs = jnp.zeros((1, 1, num_positions, len(moves)), jnp.float32).at[..., 1].set(-jnp.inf)
    lengths = jnp.array([1], jnp.int32), jnp.array([num_positions - 1], jnp.int32)
    assert jax_rnnt.lattice_cost(arcs, *lengths, moves, implementation="native") == 0  # there is one path, of zeros


@pytest.mark.parametrize("known_frames", [False, True])
def test_a_program_of_symbolic_sizes_has_memory_enough(known_frames):
    """Also for more positions than the kernels of short moves take. There a program of known sizes needs less of it."""
    frames, names = 2, ("b", "u") if known_frames else ("b", "u", "t")
    b, u, *t = export.symbolic_shape(", ".join(names))
    lattice = jax.jit(lambda *arrays: jax_rnnt.lattice_posteriors(*arrays, implementation="native"))

    def types(b, t, u):
        return [((b, t, u + 1, 2), jnp.float32), ((b,), jnp.int32), ((b,), jnp.int32)]

    checks = [export.DisabledSafetyCheck.custom_call(name) for name in jax_rnnt.ffi_targets()]
    exported = export.export(lattice, disabled_checks=checks)(
        *(jax.ShapeDtypeStruct(*x) for x in types(b, t[0] if t else frames, u))
    )
    for labels in (3, 2100):
        scores = -np.random.default_rng(labels).exponential(size=(2, frames, labels + 1, 2)).astype(np.float32)
        arrays = scores, np.array([frames, 1], np.int32), np.array([labels, 2], np.int32)
        for got, wanted in zip(jax.jit(exported.call)(*arrays), lattice(*arrays), strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert np.isfinite(lattice(*arrays)[0]).all()
