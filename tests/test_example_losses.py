"""The losses and joint networks of examples/train_speech.py, and how it judges alignments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from example_support import (
    SAMPLES,
    speech_alignment,
    speech_batches,
    speech_corpus,
    speech_loss,
    speech_model,
    speech_objective,
    speech_problems,
    speech_synth,
    train_speech,
    write_corpus,
)
from flax import nnx

import jax_rnnt

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]

B, T, U, JOINT = 3, 9, 4, 8
FRAMES, LABELS = [9, 7, 0], [4, 2, 0]  # the last row is a filler


class WithoutEncoder(speech_model.Transducer):
    """A model without an encoder, so that little is compiled.

    Its audio [B, T * JOINT] holds frames, and its samples are the numbers of frames.
    """

    def parts(self, audio, samples, labels, rngs=None):
        history = jnp.pad(labels, ((0, 0), (1, 0)))
        return audio.reshape(len(audio), -1, JOINT), self.embedding(history), samples


def model_of(loss: str = "rnnt", joint: str = "dense") -> WithoutEncoder:
    sizes = speech_model.Sizes(width=4, layers=0, heads=1, joint=JOINT)
    return WithoutEncoder(sizes, nnx.Rngs(0), speech_objective.Objective(loss, joint))


@pytest.fixture(scope="module")
def arrays() -> speech_batches.Arrays:
    rng = np.random.default_rng(0)
    labels = rng.integers(1, speech_corpus.VOCABULARY, (B, U)).astype(np.int32)
    audio = rng.normal(size=(B, T * JOINT)).astype(np.float32)
    return speech_batches.Arrays(audio, np.array(FRAMES, np.int32), labels, np.array(LABELS, np.int32))


@functools.partial(nnx.jit, static_argnames="nodes")
def loss_and_gradient(model: WithoutEncoder, arrays: speech_batches.Arrays, nodes: int | None = None, warmth=1.0):
    return nnx.value_and_grad(functools.partial(speech_loss.batch_loss, nodes=nodes, warmth=warmth))(model, arrays)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("rnnt", jax_rnnt.rnnt_loss),
        ("monotonic", jax_rnnt.monotonic_rnnt_loss),
        ("multiblank", jax_rnnt.multiblank_rnnt_loss),
        ("tdt", jax_rnnt.tdt_loss),
        ("hat", jax_rnnt.hat_loss),
    ],
)
def test_a_loss_by_its_name(name, function, arrays):
    model = model_of(name)
    assert model.objective.function().function is function
    frames, predictions, _ = model.parts(*arrays[:3])
    logits = model.join(frames[:, :, None], predictions[:, None])
    total = model.objective.function()(logits, arrays.labels, arrays.samples, arrays.label_lengths)
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
    assert speech_objective.S_RANGE >= U + 1
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
        ("pruned", "packed", {}, "--loss pruned chooses the nodes of the joint network itself, and --joint is packed"),
        (
            "tdt",
            "packed",
            {"data": 2},
            "--joint packed needs one device, since its rows belong to none, and --mesh is M",
        ),
        ("hat", "fused", {"model": 2}, "--joint fused needs a vocabulary that is not divided, and --mesh is M"),
        ("tdt", "dense", {"model": 2}, "--loss tdt needs a vocabulary that is not divided, and --mesh is M"),
        ("pruned", "dense", {"model": 2}, "--loss pruned needs a vocabulary that is not divided, and --mesh is M"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(loss, joint, axes, sentence):
    with pytest.raises(speech_problems.UserError) as error:
        speech_objective.Objective(loss, joint).check("M", {"data": 1} | axes)
    assert str(error.value) == sentence


def test_a_folder_that_speaks_too_fast_is_a_sentence(tmp_path, capsys):
    write_corpus(tmp_path / "data", {"10-1-0": "A" * 40, "20-1-0": "B" * 40})
    options = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--loss", "monotonic"]
    assert train_speech.main(options) == 2
    assert "every utterance has more characters than --loss monotonic can emit" in capsys.readouterr().err
    assert "too fast: 40 characters in 19 frames" in (tmp_path / "out" / "skipped.txt").read_text()


def test_what_is_too_fast_for_a_loss():
    def most(loss: str) -> float:
        return speech_objective.Objective(loss).most_labels(10)

    assert [most(loss) for loss in ("monotonic", "pruned", "rnnt", "tdt")] == [10, 40, np.inf, np.inf]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> list[speech_corpus.Utterance]:
    train, _ = speech_synth.synthesise(tmp_path_factory.mktemp("speech") / "digits", 12, 1, seed=0)
    return speech_corpus.read_corpus(train, SAMPLES, report=pytest.fail)


def test_packed_rows_have_room_for_any_batch(digits):
    bucket = speech_batches.Bucket(digits, 0, 0)

    def nodes(utterances) -> int:
        return sum(speech_model.encoder_frames(u.samples, 2) * (len(u.text) + 1) for u in utterances)

    room = train_speech.most_nodes(bucket, 3, stack=2)
    groups = [nodes(digits[i] for i in (a, b, c)) for a in range(12) for b in range(a) for c in range(b)]
    assert room == max(groups)
    assert train_speech.most_nodes(bucket, 99, stack=2) == nodes(digits)


def test_true_word_starts_are_kept_with_the_corpus(digits, tmp_path):
    starts = speech_corpus.word_starts(digits[0].path.parents[2])
    assert sorted(starts) == sorted(utterance.id for utterance in digits)
    for utterance in digits:
        of_words = starts[utterance.id]
        assert len(of_words) == len(utterance.text.split())
        assert of_words[0] == 0 and (np.diff(of_words) > 0.05).all()
        assert of_words[-1] < utterance.samples / 16000
    assert speech_corpus.word_starts(tmp_path) == {}


def test_errors_of_word_starts(digits, monkeypatch):
    one, other = sorted(digits, key=lambda utterance: -len(utterance.text))[:2]
    text = one.text
    frames = np.arange(len(text))

    def align(model, batch):
        shared = {"features": None, "posteriors": None, "durations": None, "arcs": None, "moves": ()}
        possible = speech_alignment.Alignment(frames=frames, times=frames + 0.5, cost=np.float32(1), **shared)
        impossible = speech_alignment.Alignment(frames=frames, times=frames, cost=np.float32(np.inf), **shared)
        return [possible, impossible]

    monkeypatch.setattr(speech_alignment, "align", align)
    batch = speech_batches.Batch(None, [one, other], None)
    first = [i for i in range(1, len(text)) if text[i - 1] == " "]
    true = {one.id: [0.0, *(0.04 * i - 0.01 for i in first)], other.id: [0.0]}
    errors = speech_alignment.word_start_errors(model_of(), [batch], true)
    np.testing.assert_allclose(errors["best path"], len(first) * [0.01])
    np.testing.assert_allclose(errors["expected time"], 0.03)
    found = speech_alignment.accuracy(np.array([-0.2, 0.01, 0.03, 0.06]))
    assert found == pytest.approx(
        {"words": 4, "median": 20, "mean absolute": 75, "within 50 ms": 0.5, "within 100 ms": 0.75}
    )
