"""Launches of the CUDA kernels built for the CPU that fail: JAX must raise an error that names the kernel."""

import sys

import jax
import jax.numpy as jnp
import pytest
from implementations import CUDA_ON_CPU

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
    of_position = NATIVE.lattice_workspace(moves, True, False, -1, -1)[2]
    num_positions = ((48 << 10) - 512) // (4 * of_position) + beyond
    arcs = jnp.zeros((1, 1, num_positions, len(moves)), jnp.float32).at[..., 1].set(-jnp.inf)
    lengths = jnp.array([1], jnp.int32), jnp.array([num_positions - 1], jnp.int32)
    assert jax_rnnt.lattice_cost(arcs, *lengths, moves, implementation="native") == 0  # there is one path, of zeros
