"""What says that the values of a batch are bad: check_inputs, debug_inputs, lengths_from_paddings."""

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import losses
import meshes
import numpy as np
import pytest
from losses import LossUnderTest
from meshes import P
from reference_losses import Monotonic, Rnnt

import jax_rnnt

pytestmark = pytest.mark.once
T, U, V = losses.T, losses.U, losses.V
ROWS = (
    LossUnderTest("rnnt", jax_rnnt.rnnt_loss, Rnnt(blank=0)),
    losses.PLAIN[1],
    LossUnderTest("monotonic_last_blank", jax_rnnt.monotonic_rnnt_loss, Monotonic(last_blank=True)),
)


@pytest.mark.parametrize("loss", ROWS, ids=lambda loss: loss.name)
def test_check_inputs_accepts_what_has_a_finite_cost(loss: LossUnderTest) -> None:
    """All lengths, and each entry of a row as a label. The logits are finite, so only the lengths and labels decide."""
    lengths = [(t, u, 1) for t, u in itertools.product(range(-1, T + 2), range(-1, U + 2))]
    examples = [*lengths, *((T, 1, label) for label in range(-1, loss.width + 1))]
    t_b, u_b, label = (np.array(x, np.int32) for x in zip(*examples, strict=True))
    targets = np.ones((len(examples), U), np.int32)
    targets[:, 0] = label
    logits = np.zeros((len(examples), T, U + 1, loss.width), np.float32)
    made = loss.made(reduction="none")
    costs = made(logits, targets, t_b, u_b)
    for b, cost in enumerate(np.asarray(costs)):
        batch = logits[b : b + 1], targets[b : b + 1], t_b[b : b + 1], u_b[b : b + 1]
        if np.isfinite(cost):
            jax_rnnt.check_inputs(made, *batch)
        else:
            with pytest.raises(ValueError, match=r"^`(targets|logit_lengths|target_lengths)\[0"):
                jax_rnnt.check_inputs(made, *batch)


GOOD = np.zeros((2, 6, 4, V), np.float32), np.full((2, 3), 5), np.array([6, 5]), np.array([3, 2])


def _changed(**changes):
    arrays = dict(zip(("logits", "targets", "logit_lengths", "target_lengths"), GOOD, strict=True)) | changes
    return tuple(np.asarray(a) for a in arrays.values())


HINTS = {
    "swapped": (jax_rnnt.RNNTLoss(), _changed(logit_lengths=[3, 2], target_lengths=[6, 5]), "Are they swapped?"),
    "subsampling": (jax_rnnt.RNNTLoss(), _changed(logit_lengths=[24, 20]), "24. .* after the encoder's subsampling"),
    "blank": (jax_rnnt.RNNTLoss(), _changed(targets=np.full((2, 3), V - 1)), "Did you mean blank=0"),
    "big_blank": (
        jax_rnnt.MultiblankRNNTLoss(blank=0, big_blanks=(5,), durations=(2,)),
        GOOD,
        r"`targets\[0, 0\]` is 5, a big blank",
    ),
    "duration": (jax_rnnt.TDTLoss(blank=0), GOOD, r"in \[0, V\) = \[0, 3\), got 5, .* durations: rows have 3 tokens"),
    "frames": (
        jax_rnnt.MonotonicRNNTLoss(),
        _changed(logit_lengths=[6, 1]),
        r"`logit_lengths\[1\]` is 1, .* the 2 labels .* at least 2 frames",
    ),
    "log_probs": (
        jax_rnnt.RNNTLoss(fused_log_softmax=False),
        GOOD,
        r"`logits\[0, 0, 0, 0:8\]` must be log-probabilities, .* sum to 8",
    ),
    "log_probs_of_durations": (
        jax_rnnt.TDTLoss(blank=0, durations=(0, 1), fused_log_softmax=False),
        _changed(logits=np.concatenate([np.full((2, 6, 4, 6), -np.log(6)), np.ones((2, 6, 4, 2))], axis=-1)),
        r"`logits\[0, 0, 0, 6:8\]` must be log-probabilities, .* sum to 5.437",
    ),
}


@pytest.mark.parametrize("name", HINTS)
def test_hints(name: str) -> None:
    loss, batch, words = HINTS[name]
    with pytest.raises(ValueError, match=words):
        jax_rnnt.check_inputs(loss, *batch)


def test_good_batches_of_the_hints_pass() -> None:
    jax_rnnt.check_inputs(jax_rnnt.RNNTLoss(), *GOOD)
    log_probs = _changed(logits=np.full((2, 6, 4, V), -np.log(V)).astype(np.float16))
    log_probs[0][1, 5:], log_probs[0][1, :, 3:] = np.nan, 7  # padding
    jax_rnnt.check_inputs(jax_rnnt.RNNTLoss(fused_log_softmax=False), *log_probs)
    jax_rnnt.check_inputs(jax_rnnt.RNNTLoss(), jax.ShapeDtypeStruct(GOOD[0].shape, jnp.float32), *GOOD[1:])


LOSS = jax_rnnt.RNNTLoss(reduction="none", implementation=losses.QUICK)
BAD = _changed(targets=[[5, 5, 5], [5, V - 1, 5]])
SENTENCE = r"`targets\[1, 1\]` is 7, the blank"


def _in_scan(*batch):
    return jax.lax.scan(lambda total, _: (total + LOSS(*batch), None), jnp.zeros(2, jnp.float32), length=2)[0]


def _in_vmap(*batch):
    return jax.jit(jax.vmap(LOSS))(*(x[:, None] for x in batch))


def _on_automatic_mesh(*batch):
    with jax.set_mesh(meshes.make_mesh(data=2)):
        return jax.jit(LOSS)(*batch)


def _in_shard_map(*batch):
    run = jax.shard_map(LOSS, mesh=meshes.make_mesh(data=2), in_specs=P("data"), out_specs=P("data"))
    return jax.jit(run)(*batch)


PLACES = {
    "eager": (LOSS, SENTENCE),
    "scan": (jax.jit(_in_scan), SENTENCE),
    "vmap": (_in_vmap, r"`targets\[0, 1\]` is 7, the blank"),
    "automatic_mesh": (_on_automatic_mesh, SENTENCE),
    "shard_map": (_in_shard_map, r"`targets\[0, 1\]` is 7, the blank"),
}


@pytest.mark.parametrize("place", PLACES)
def test_debug_inputs_raises_the_sentence(place: str) -> None:
    """The function runs first without the switch. So what was compiled then must not be used with it."""
    call, words = PLACES[place]
    assert np.isnan(call(*BAD)).any()
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match=words), jax_rnnt.debug_inputs():
        jax.block_until_ready(call(*BAD))
    with jax_rnnt.debug_inputs():
        assert np.isfinite(call(*GOOD)).all()
    assert np.isnan(call(*BAD)).any()


def test_without_the_switch_a_program_has_no_callback() -> None:
    assert "callback" not in str(jax.make_jaxpr(LOSS)(*GOOD))
    with jax_rnnt.debug_inputs():
        assert "callback" in str(jax.make_jaxpr(LOSS)(*GOOD))


def test_the_environment_variable_is_the_switch() -> None:
    script = """
import jax.numpy as jnp, jax_rnnt
jax_rnnt.rnnt_loss(jnp.zeros((1, 2, 2, 4)), jnp.array([[3]]), jnp.array([2]), jnp.array([1]))
"""
    env = os.environ | {"JAX_RNNT_DEBUG": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-P", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "the blank (blank=-1)" in done.stderr, done.stderr


def test_lengths_from_paddings() -> None:
    paddings = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    for dtype in (np.float32, np.int64, np.bool_, jnp.bfloat16):
        lengths = jax_rnnt.lengths_from_paddings(jnp.asarray(paddings, dtype))
        assert lengths.dtype == jnp.int32
        np.testing.assert_array_equal(lengths, [2, 4, 0])
    np.testing.assert_array_equal(jax.jit(jax_rnnt.lengths_from_paddings)(paddings), [2, 4, 0])
    assert jax_rnnt.lengths_from_paddings(np.zeros((2, 0))).tolist() == [0, 0]
    for wrong, words in (
        ([[0, 1, 0]], r"`paddings\[0, 2\]` is 0 and `paddings\[0, 1\]` is 1.*give 1 - mask"),
        ([[0, 0], [0, 2]], r"`paddings\[1, 1\]` must be 0 or 1, got 2"),
        ([0, 1], r"`paddings` must have 2 dimensions"),
    ):
        with pytest.raises(ValueError, match=words):
            jax_rnnt.lengths_from_paddings(np.array(wrong))
