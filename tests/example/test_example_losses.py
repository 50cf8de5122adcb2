"""The losses and joint networks of examples/train_speech.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_support import speech_data, speech_loss, speech_model, speech_problems, train_speech, write_corpus
from flax import nnx

import jax_rnnt

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]

B, T, U, JOINT = 3, 9, 4, 8
FRAMES, LABELS = [9, 7, 0], [4, 2, 0]  # the last row is a filler
BIG_BLANKS = {"big_blanks": (29, 30), "durations": (2, 4), "sigma": 0.05}
DURATIONS = {"durations": (0, 1, 2, 3, 4), "sigma": 0.05}


class WithoutEncoder(speech_model.Transducer):
    """A model without an encoder, so that little is compiled.

    Its audio [B, T * JOINT] holds frames, and its samples are the numbers of frames.
    """

    def encode(self, audio, samples, rngs=None):
        return audio.reshape(len(audio), -1, JOINT), samples

    def predict_all(self, labels):
        return self.embedding(jnp.pad(labels, ((0, 0), (1, 0))))


def model_of(loss: str = "rnnt", joint: str = "dense") -> WithoutEncoder:
    sizes = speech_model.Sizes(width=4, layers=0, heads=1, joint=JOINT)
    return WithoutEncoder(sizes, nnx.Rngs(0), speech_loss.choose(loss, joint, {"data": 1, "model": 1}))


@pytest.fixture(scope="module")
def arrays() -> speech_data.Arrays:
    rng = np.random.default_rng(0)
    labels = rng.integers(1, len(speech_data.ALPHABET), (B, U)).astype(np.int32)
    audio = rng.normal(size=(B, T * JOINT)).astype(np.float32)
    return speech_data.Arrays(audio, np.array(FRAMES, np.int32), labels, np.array(LABELS, np.int32))


@functools.partial(nnx.jit, static_argnames="nodes")
def loss_and_gradient(model: WithoutEncoder, arrays: speech_data.Arrays, nodes: int | None = None, warmth=1.0):
    return nnx.value_and_grad(functools.partial(speech_loss.batch_loss, nodes=nodes, warmth=warmth))(model, arrays)


@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        ("rnnt", jax_rnnt.rnnt_loss, {}),
        ("monotonic", jax_rnnt.monotonic_rnnt_loss, {}),
        ("multiblank", jax_rnnt.multiblank_rnnt_loss, BIG_BLANKS),
        ("tdt", jax_rnnt.tdt_loss, DURATIONS),
        ("hat", jax_rnnt.hat_loss, {}),
    ],
)
def test_a_loss_by_its_name(name, function, options, arrays):
    model = model_of(name)
    frames, predictions = model.encode(arrays.audio, arrays.samples)[0], model.predict_all(arrays.labels)
    logits = model.join(frames[:, :, None], predictions[:, None])
    total = function(logits, arrays.labels, arrays.samples, arrays.label_lengths, blank=0, reduction="sum", **options)
    np.testing.assert_allclose(speech_loss.batch_loss(model, arrays), total / 2, rtol=1e-5)  # two rows are real


def test_joints_give_the_same_loss_and_gradient(arrays):
    nodes = sum(t * (u + 1) for t, u in zip(FRAMES, LABELS, strict=True))
    loss, gradient = loss_and_gradient(model_of("tdt"), arrays)
    for joint, rows in (("fused", None), ("packed", nodes)):
        actual, of_joint = loss_and_gradient(model_of("tdt", joint), arrays, rows)
        np.testing.assert_allclose(actual, loss, rtol=1e-5)
        for one, other in zip(jax.tree.leaves(of_joint), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(np.abs(other).max()) + 1e-6)


def test_pruning_everything_in_gives_the_whole_loss(arrays):
    """All U + 1 positions are kept, so the pruned loss is that of dense logits.

    As `warmth` grows, weight moves from the simple loss to the pruned one.
    """
    assert speech_loss.S_RANGE >= U + 1
    plain, pruned = model_of(), model_of("pruned")
    nnx.update(pruned.join, nnx.state(plain.join))
    nnx.update(pruned.embedding, nnx.state(plain.embedding))
    whole = float(speech_loss.batch_loss(plain, arrays))
    at = {warmth: loss_and_gradient(pruned, arrays, None, warmth) for warmth in (0.0, 0.5, 1.0)}
    simple = 2 * (float(at[1.0][0]) - whole)
    assert simple > 1
    for warmth, (loss, gradient) in at.items():
        np.testing.assert_allclose(loss, (1 - 0.5 * warmth) * simple + (0.1 + 0.9 * warmth) * whole, rtol=1e-5)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["simple_encoder"]))


@pytest.mark.parametrize(
    ("loss", "joint", "axes", "sentence"),
    [
        ("pruned", "fused", {}, "--loss pruned chooses the nodes of the joint network itself, and --joint is fused"),
        ("tdt", "packed", {"data": 2}, "--joint packed needs one device, since its rows belong to none"),
        ("hat", "fused", {"model": 2}, "--joint fused needs a vocabulary that is not divided"),
        ("tdt", "dense", {"model": 2}, "--loss tdt needs a vocabulary that is not divided"),
        ("pruned", "dense", {"model": 2}, "--loss pruned needs a vocabulary that is not divided"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(loss, joint, axes, sentence):
    with pytest.raises(speech_problems.UserError, match=sentence):
        speech_loss.choose(loss, joint, {"data": 1, "model": 1} | axes)


def test_a_folder_that_speaks_too_fast_is_a_sentence(tmp_path, capsys):
    write_corpus(tmp_path / "data", {"10-1-0": "A" * 40, "20-1-0": "B" * 40})
    options = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--loss", "monotonic"]
    assert train_speech.main(options) == 2
    assert "every utterance has more characters than --loss monotonic can emit" in capsys.readouterr().err
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    assert "too fast: 40 characters in 19 frames" in skipped or "too fast: 40 characters in 21 frames" in skipped


def test_what_is_too_fast_for_a_loss():
    assert [speech_loss.LOSSES[loss].most_labels for loss in ("monotonic", "pruned", "rnnt", "tdt")] == [
        1,
        4,
        np.inf,
        np.inf,
    ]
