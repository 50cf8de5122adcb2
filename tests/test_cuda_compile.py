"""XLA compiles training steps for GPUs that are not there: custom calls, aliasing, memory, command buffers, collectives.

Needs jax's CUDA plugin (the wheels jax-cuda13-plugin and jax-cuda13-pjrt, of jax's version; no NVIDIA libraries) and a
build with CUDA kernels. Nothing runs on a GPU.
"""

import importlib.util
import os
import re

os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # there is no driver

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_rnnt

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is None, reason="jax's CUDA plugin is not installed"),
    pytest.mark.skipif(not jax_rnnt.native_available("cuda"), reason="this build has no CUDA kernels"),
]

# An H100, from NVIDIA's data sheet and programming guide.
H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3350000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 85899345920
  cuda_compute_capability { major: 9 minor: 0 }
} platform_name: "CUDA" device_description_str: "H100" """

B, T, U, V, H = 8, 100, 24, 512, 64


def devices(count: int):
    return topologies.get_topology_desc("", platform="cuda", target_config=H100, topology=f"1x1x{count}").devices


def step(weights, encoder, predictor, targets, logit_lengths, target_lengths):
    def loss(weights):
        joint = jnp.tanh(encoder[:, :, None] + predictor[:, None])
        return jax_rnnt.rnnt_loss(joint @ weights, targets, logit_lengths, target_lengths, blank=0)

    value, gradient = jax.value_and_grad(loss)(weights)
    return weights - jnp.asarray(0.1, weights.dtype) * gradient, value


def operands(dtype=jnp.float32):
    shapes = [((H, V), dtype), ((B, T, H), dtype), ((B, U + 1, H), dtype), ((B, U), jnp.int32)]
    return [jax.ShapeDtypeStruct(*s) for s in [*shapes, ((B,), jnp.int32), ((B,), jnp.int32)]]


def compile_step(count: int, dtype=jnp.float32):
    mesh = Mesh(np.array(devices(count)), ("data",))
    types = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, P() if i == 0 else P("data")))
        for i, a in enumerate(operands(dtype))
    ]
    return jax.jit(step).trace(*types).lower(lowering_platforms=("cuda",)).compile()


def calls(text: str) -> list[str]:
    return sorted(re.findall(r'custom_call_target="(jax_rnnt_\w+)"', text))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kernels_in_place_and_no_more_than_the_logits(dtype):
    compiled = compile_step(1, dtype)
    text = compiled.as_text()
    assert calls(text) == ["jax_rnnt_arcs_backward", "jax_rnnt_arcs_forward", "jax_rnnt_lattice_posteriors"]
    backward = next(line for line in text.splitlines() if '"jax_rnnt_arcs_backward"' in line)
    assert "output_to_operand_aliasing={" in backward
    logits = B * T * (U + 1) * V * jnp.dtype(dtype).itemsize
    joint = B * T * (U + 1) * H * jnp.dtype(dtype).itemsize
    arcs = B * T * (U + 1) * 8 * 4  # log-probabilities, posteriors, cotangents, log-norm, labels
    # One array of the logits' size: the gradient takes their place. The joint is kept for its own gradient.
    assert compiled.memory_analysis().temp_size_in_bytes < 1.05 * logits + 3 * joint + arcs


def test_one_command_buffer_holds_the_step():
    text = compile_step(1).as_text()
    entry = text[text.index("ENTRY") :]
    if "command_buffer" not in text:
        pytest.fail("XLA made no command buffer of a step whose custom calls allow one")
    outside = [line for line in entry.splitlines() if '"jax_rnnt_' in line]
    assert not outside, f"custom calls outside of a command buffer: {outside}"


def test_a_batch_on_four_devices_is_not_gathered():
    compiled = compile_step(4)
    text = compiled.as_text()
    assert len(calls(text)) == 3
    assert "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    backward = next(line for line in text.splitlines() if '"jax_rnnt_arcs_backward"' in line)
    assert f"[{B // 4},{T},{U + 1},{V}]" in backward


def test_a_long_lattice_gets_a_workspace():
    """Utterances whose last diagonals do not fit into a block's shared memory."""
    arcs = jax.ShapeDtypeStruct((2, 50, 3001, 2), jnp.float32)
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    types = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in (arcs, lengths, lengths)]
    lowered = jax.jit(jax_rnnt.lattice_cost).trace(*types).lower(lowering_platforms=("cuda",))
    text = lowered.compile().as_text()
    call = next(line for line in text.splitlines() if '"jax_rnnt_lattice_cost"' in line)
    assert f"f32[2,{2 * 3 * 2 * 3001}]" in call  # pairs; two arcs and beta; two diagonals
