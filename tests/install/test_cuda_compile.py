"""XLA compiles training steps for absent GPUs: custom calls, aliasing, memory, command buffer, collectives.

The tests need jax's CUDA plugin (the wheels jax-cuda13-plugin and jax-cuda13-pjrt, in jax's version; no NVIDIA
libraries) and a build with CUDA kernels. Nothing runs on a GPU.
"""

import functools
import importlib.util
import math
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
from jax_rnnt import decoding
from jax_rnnt.xla import native

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is None, reason="jax's CUDA plugin is not installed"),
    pytest.mark.skipif(not native.native_available("cuda"), reason="this build has no CUDA kernels"),
]

JAX = tuple(map(int, jax.__version__.split(".")[:2]))

# An H100, from NVIDIA's data sheet and programming guide.
H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3350000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 85899345920
  cuda_compute_capability { major: 9 minor: 0 }
} platform_name: "CUDA" device_description_str: "H100" """

B, T, U, V, H = 8, 128, 31, 512, 64  # the joint's rows fill whole tiles; XLA would pad a remainder in a copy


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


def compile_step(count: int, dtype=jnp.float32, **options: str):
    mesh = Mesh(np.array(devices(count)), ("data",))
    types = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, P() if i == 0 else P("data")))
        for i, a in enumerate(operands(dtype))
    ]
    return jax.jit(step).trace(*types).lower(lowering_platforms=("cuda",)).compile(options)


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
    # Only one array has the logits' size, because the gradient is written in their place. The rest is the joint and its
    # product.
    assert logits < compiled.memory_analysis().temp_size_in_bytes < 1.6 * logits


def passes(text: str) -> list[str]:
    """The instructions that make an array of the logits' size, once for each array. Views do not count."""
    array = rf"f32\[{B},(?:1,)?{T},{U + 1},{V}\]"
    found = re.findall(rf"= (\(?.*?{array}.*?) ([a-z][\w-]*)\(", text)
    views = ("bitcast", "tuple", "get-tuple-element")
    return sorted(name for result, name in found for _ in re.findall(array, result) if name not in views)


@pytest.mark.parametrize("how", ["kept", "donated", "in another shape", "mapped", "without jit"])
def test_logits_that_are_arguments_are_not_copied(how):
    """If the caller keeps the logits, the gradient has its own memory: read, read, write.

    If the caller donates them, the gradient takes their memory.
    """
    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    placed = functools.partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place))
    shapes = [((B, T, U + 1, V), jnp.float32), ((B, U), jnp.int32), ((B,), jnp.int32), ((B,), jnp.int32)]
    types = [placed(jax.ShapeDtypeStruct(*s)) for s in shapes]
    loss = lambda logits, *rest: jax_rnnt.rnnt_loss(logits, *rest, blank=0, reduction="sum")  # noqa: E731
    function = {
        "kept": jax.value_and_grad(loss),
        "donated": jax.grad(loss),
        "in another shape": lambda x, *r: jax.grad(lambda x: loss(x.reshape(shapes[0][0]), *r))(x.reshape(B, T, -1)),
        "mapped": jax.vmap(lambda *one: jax.grad(loss)(*(a[None] for a in one))),
        "without jit": lambda x, *r: jax.vjp(lambda x: loss(x, *r), x)[1],
    }[how]
    if how == "without jit":  # JAX compiles the gradient alone, and the logits are among its arguments
        types = placed([jax.eval_shape(function, *types), jax.ShapeDtypeStruct((), jnp.float32)])
        function = lambda pull, cotangent: pull(cotangent)  # noqa: E731
    jitted = jax.jit(function, donate_argnums=(0,) if how == "donated" else ())
    compiled = jitted.trace(*types).lower(lowering_platforms=("cuda",)).compile()
    text, memory, logits = compiled.as_text(), compiled.memory_analysis(), 4 * B * T * (U + 1) * V
    assert passes(text) == ["custom-call", "parameter"]
    assert text.count("output_to_operand_aliasing={") == (how == "donated")
    assert memory.temp_size_in_bytes < 0.05 * logits
    assert (memory.alias_size_in_bytes >= logits) == (how == "donated")


@pytest.mark.skipif(JAX < (0, 12), reason="XLA takes FFI calls into command buffers in jax 0.12, and does not in 0.10")
def test_one_command_buffer_holds_the_step(tmp_path):
    compile_step(1, xla_dump_to=str(tmp_path))
    (dump,) = tmp_path.glob("*thunk_sequence_after_thunk_passes.txt")
    lines = dump.read_text().splitlines()
    outermost = [line for line in lines if re.match(r"\d+: ", line)]
    assert len(outermost) == 1 and "kCommandBuffer" in outermost[0]
    assert sum("kCustomCall" in line for line in lines) == 3


def test_a_batch_on_four_devices_is_not_gathered():
    compiled = compile_step(4)
    text = compiled.as_text()
    assert len(calls(text)) == 3
    assert "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    backward = next(line for line in text.splitlines() if '"jax_rnnt_arcs_backward"' in line)
    assert f"[{B // 4},{T},{U + 1},{V}]" in backward


@pytest.mark.parametrize("num_positions", [1501, 3001])
def test_a_cost_gets_a_workspace(num_positions):
    """Too many positions for the kernels of short moves need only what a walk needs."""
    arcs = jax.ShapeDtypeStruct((2, 50, num_positions, 2), jnp.float32)
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    types = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in (arcs, lengths, lengths)]
    lowered = jax.jit(jax_rnnt.lattice_cost).trace(*types).lower(lowering_platforms=("cuda",))
    text = lowered.compile().as_text()
    call = next(line for line in text.splitlines() if '"jax_rnnt_lattice_cost"' in line)
    # Factors: pairs; alpha and beta; and rows of values, or two columns of the diagonals between strips.
    short_moves = 2 * 2 * 8 * num_positions + 2 * 2 * 2 * (50 + num_positions + 8) + 8
    walk = 2 * 3 * 2 * num_positions  # pairs; two arcs and beta; two diagonals
    assert f"f32[2,{short_moves if num_positions <= 2048 else walk}]" in call


def test_posteriors_get_a_workspace_for_alpha_and_beta():
    num_frames, num_positions, k = 50, 31, 9
    moves = (*((d, 0) for d in range(1, 5)), *((d, 1) for d in range(5)))  # TDT
    arcs = jax.ShapeDtypeStruct((2, num_frames, num_positions, k), jnp.float32)
    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    types = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in (arcs, lengths, lengths)]
    posteriors = functools.partial(jax_rnnt.lattice_posteriors, moves=moves)
    text = jax.jit(posteriors).trace(*types).lower(lowering_platforms=("cuda",)).compile().as_text()
    call = next(line for line in text.splitlines() if '"jax_rnnt_lattice_posteriors"' in line)
    values = 2 * 2 * (num_frames + num_positions) * num_positions  # alpha and beta, two numbers each, of each diagonal
    columns = 2 * 2 * 2 * (num_frames + num_positions + 8)  # two columns between strips, for each of both
    last_diagonals = 2 * (k + 1) * 8 * num_positions  # of a walk by the general kernel
    assert f"f32[2,{values + columns + last_diagonals + 8}]" in call


def test_a_joint_network_in_tiles():
    """A tile's gradient takes the place of its logits, and no array holds all logits. The host waits in no loop.

    The host waits at conditionals: two in each pass, for up to 15 tiles.
    """
    rows = 8192

    def tiled(weights, encoder, predictor, *batch):
        def loss(weights):
            logits = jax_rnnt.JointLogits(
                lambda w, e, p: jnp.tanh(e + p) @ w, weights, encoder, predictor, tile_rows=rows
            )
            return jax_rnnt.rnnt_loss(logits, *batch, blank=0)

        return jax.value_and_grad(loss)(weights)

    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    types = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in operands()]
    compiled = jax.jit(tiled).trace(*types).lower(lowering_platforms=("cuda",)).compile()
    text = compiled.as_text()
    assert text.count(" conditional(") == 4
    loops = [line for line in text.splitlines() if " while(" in line]
    assert loops and all("known_trip_count" in line for line in loops)
    backward = [line for line in text.splitlines() if '"jax_rnnt_arcs_backward"' in line]
    assert backward and all("output_to_operand_aliasing={" in line for line in backward)
    nodes, tile = B * T * (U + 1), 4 * rows * V
    assert f"[{nodes},{V}]" not in text
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * nodes + 2 * tile


@pytest.mark.parametrize("dropout_rate", [0.0, 0.1])
def test_a_tile_of_a_joint_that_the_library_knows(dropout_rate):
    """Only kernels of the library and matrix products make arrays of a tile's size; sums stay in place."""
    rows, joint = 8192, jax_rnnt.additive_joint("tanh", dropout_rate)

    def step(weights, key, encoder, predictor, *batch):
        def loss(operands):
            logits = jax_rnnt.JointLogits(joint, *operands, dropout_key=key, tile_rows=rows)
            return jax_rnnt.rnnt_loss(logits, *batch, blank=0)

        return jax.value_and_grad(loss)(({"kernel": weights, "bias": weights[0]}, encoder, predictor))

    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    weights, *rest = operands(jnp.bfloat16)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    types = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in (weights, key, *rest)]
    text = jax.jit(step).trace(*types).lower(lowering_platforms=("cuda",)).compile().as_text()
    tiles = [c for c in re.split(r"\n(?=%|ENTRY)", text) if 'custom_call_target="jax_rnnt_hidden_rows"' in c]
    array = rf"[a-z]+\d+\[{rows},(?:{H}|{V})\]"
    made = [line for c in tiles for line in c.splitlines() if re.search(rf"= \(?{array}", line)]
    others = [line for line in made if not re.search(r"jax_rnnt_|gemm|get-tuple-element|bitcast|parameter", line)]
    assert made and not others
    assert len(tiles) == 2 * 4  # of each pass: in loops of 4, 1, 2 and 3 turns
    for tile in tiles:  # as docs/cuda.md counts them
        kernels, scatters = (
            len(re.findall(x, tile)) for x in (r" (?:fusion|custom-call|copy)\(", "calls=%fused_scatter")
        )
        assert kernels <= 6 and scatters == 1 if "jax_rnnt_arcs_forward" in tile else kernels <= 14 and scatters == 0
    sums = [line for line in text.splitlines() if '"jax_rnnt_hidden_rows_backward"' in line]
    assert len(sums) == 4 and all("{0}: (0, {})" in line and "{1}: (1, {})" in line for line in sums)
    assert not re.search(rf"f32\[{B},(?:{T}|{U + 1}),{H}\]\S* copy\(", text)


def test_dense_logits_of_a_joint_that_the_library_knows():
    """Three arrays have the hidden rows' size: those rows, their gradient, and that times the derivative.

    So XLA transposes none of them in front of the product and behind it, and broadcasts no input of the activation.
    """
    joint = jax_rnnt.additive_joint("tanh")

    def step(weights, encoder, predictor, *batch):
        def loss(weights, encoder, predictor):
            logits = joint({"kernel": weights, "bias": weights[0]}, encoder[:, :, None], predictor[:, None])
            return jax_rnnt.rnnt_loss(logits, *batch, blank=0)

        return jax.grad(loss, (0, 1, 2))(weights, encoder, predictor)

    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    types = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in operands(jnp.bfloat16)]
    text = jax.jit(step).trace(*types).lower(lowering_platforms=("cuda",)).compile().as_text()
    program = re.split(r"\n(?=%|ENTRY)", text)[-1]
    shapes = re.findall(r"(\w+\[[\d,]+\])[^=]* (?:fusion|custom-call|copy|transpose|broadcast)\(", program)
    sizes = [math.prod(map(int, re.findall(r"\d+", shape.partition("[")[2]))) for shape in shapes]
    assert sizes.count(B * T * (U + 1) * H) == 3


@pytest.mark.parametrize("decode", [decoding.greedy_decode, functools.partial(decoding.beam_decode, beam=4)])
def test_loops_of_decoders_take_no_decision_on_the_host(decode):
    """A conditional would make the host wait. The arrays that a beam carries are few, because a loop copies each."""

    def predictor(weights, state, label):
        after = jnp.tanh(weights["embedding"][label] + state)
        return after, after

    def joint(weights, encoded, predicted):
        return jnp.tanh(encoded + predicted) @ weights["output"]

    def decoded(weights, state, encoded, lengths):
        return decode(jax_rnnt.RNNTLoss(blank=0), predictor, joint, weights, state, encoded, lengths, max_labels=U)

    shapes = {"embedding": (V, H), "output": (H, V)}, (B, H), (B, T, H)
    place = NamedSharding(Mesh(np.array(devices(1)), ("data",)), P())
    types = [
        jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place),
            x,
            is_leaf=lambda x: type(x) is tuple,
        )
        for x in shapes
    ]
    lengths = jax.ShapeDtypeStruct((B,), jnp.int32, sharding=place)
    text = jax.jit(decoded).trace(*types, lengths).lower(lowering_platforms=("cuda",)).compile().as_text()
    assert " while(" in text and " conditional(" not in text
    bodies = [c for c in re.split(r"\n(?=%|ENTRY)", text) if "ENTRY" not in c]
    assert max(len(re.findall(r" copy\(", body)) for body in bodies) < 12
