"""The parts of examples/train_speech.py: synthesis, features, batches, gradients, decoding, checkpoints."""

import itertools
import sys
from pathlib import Path

import jax
import jiwer
import numpy as np
import pytest
from example_support import (
    RATE,
    NoProblems,
    digits,
    speech_data,
    speech_digits,
    speech_loss,
    speech_model,
    speech_problems,
    speech_report,
    train_speech,
)
from flax import nnx

import jax_rnnt

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]


def test_voices_are_held_out_by_family():
    variants = speech_digits.Synthesiser().variants
    training, held_out = speech_digits.split_variants(variants)
    assert sorted(training + held_out) == sorted(variants)
    assert len(held_out) >= 10 and len(training) >= 60

    def families(names):
        return {name.lower().rstrip("0123456789") for name in names}

    assert not families(training) & families(held_out)


def test_synthesised_speech_differs_by_voice_speed_and_pitch():
    synthesiser = speech_digits.Synthesiser()
    plain, _ = synthesiser.say("three nine", "en-us+m1", 160, 50)
    assert plain.ndim == 1 and 0.05 < np.abs(plain).max() <= 1
    assert len(synthesiser.say("three nine", "en-us+m1", 240, 50)[0]) < 0.9 * len(plain)
    for voice, pitch in (("en-us+m1", 80), ("en-us+f1", 50), ("en-gb-scotland+m1", 50)):
        other, _ = synthesiser.say("three nine", voice, 160, pitch)
        shorter = min(len(plain), len(other))
        assert np.abs(plain[:shorter] - other[:shorter]).mean() > 0.01
    with pytest.raises(speech_problems.UserError, match="nowhere"):
        synthesiser.say("one", "nowhere", 160, 50)


def test_the_synthesiser_tells_where_words_begin():
    audio, starts = speech_digits.Synthesiser().say("two two two two", "en-us+m1", 160, 50)
    assert starts[0] == 0
    first, *others = np.diff(starts)
    np.testing.assert_allclose(others, first, rtol=0.05)
    # The last word is spoken slowly, and silence follows.
    assert 1 < (len(audio) / RATE - starts[-1]) / first < 2


def test_features_ignore_padding_and_survive_silence():
    rate = RATE
    noise = np.random.default_rng(0).normal(size=rate // 2) * np.linspace(0.01, 0.3, rate // 2)
    speech = np.concatenate([noise, np.zeros(rate // 4)]).astype(np.float32)
    audio = np.zeros((4, rate), np.float32)
    audio[0, : len(speech)] = speech
    audio[1, : len(speech)] = speech
    audio[1, len(speech) :] = np.nan
    samples = np.array([len(speech), len(speech), rate, 0], np.int32)  # row 2 is digital silence, row 3 a filler row
    features = np.asarray(speech_data.log_mel(audio, samples))
    assert features.shape == (4, 98, speech_data.MELS) and features.dtype == np.float32
    assert speech_data.num_frames(samples).tolist() == [73, 73, 98, 0]
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[0], features[1])
    assert (features[0, 73:] == 0).all() and (features[3] == 0).all()
    np.testing.assert_allclose(features[0, :73].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features[0, :73].std(axis=0), 1, atol=1e-2)


@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_is_loudest_in_the_mel_band_that_holds_it(hertz):
    seconds = np.arange(speech_data.WINDOW) / RATE
    spectrum = np.abs(np.fft.rfft(np.sin(2 * np.pi * hertz * seconds), speech_data.FFT)) ** 2
    band = int(np.argmax(spectrum @ speech_data.mel_filters()))
    mel = 2595 * np.log10(1 + np.array([20, hertz, 8000]) / 700)
    assert band + 1 == pytest.approx((mel[1] - mel[0]) / (mel[2] - mel[0]) * (speech_data.MELS + 1), abs=1)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> list[speech_data.Utterance]:
    return digits(tmp_path_factory.mktemp("speech"), 30)


def test_batches_cover_an_epoch_in_an_order_of_seed_and_epoch(spoken):
    batches = speech_data.Batches(spoken, 3, 4, NoProblems())
    assert len(batches.plan(None)) == 9  # 3 buckets of 10 utterances: two full batches, and one with two real rows

    def order(seed, epoch):
        return [[u.id for u in members] for _, members in batches.plan(seed, epoch)]

    assert order(0, 1) == order(0, 1) != order(0, 2) != order(1, 2)
    assert sorted(i for members in order(0, 1) for i in members) == sorted(u.id for u in spoken)
    stream = batches.training(0, first_step=7)
    ids = [[u.id for u in next(stream).utterances] for _ in range(5)]
    stream.close()
    assert ids == (order(0, 0) + order(0, 1))[7:12]
    for batch in batches.once():
        arrays = jax.device_get(batch.arrays)
        assert set(batch.utterances) <= set(batch.bucket)
        assert arrays.audio.shape == (4, max(u.samples for u in batch.bucket))
        assert arrays.labels.shape == (4, max(len(u.text) for u in batch.bucket))
        for row, utterance in enumerate(batch.utterances):
            assert arrays.samples[row] == utterance.samples
            labels = arrays.labels[row, : arrays.label_lengths[row]]
            assert "".join(speech_data.ALPHABET[c] for c in labels) == utterance.text
        assert not arrays.samples[len(batch.utterances) :].any()
        assert not arrays.label_lengths[len(batch.utterances) :].any()


def test_packed_rows_have_room_for_any_batch(spoken):
    objective, some = speech_loss.LOSSES["monotonic"], spoken[:9]
    nodes = [objective.frames(u.samples) * (len(u.text) + 1) for u in some]
    groups = map(sum, itertools.combinations(nodes, 3))
    assert train_speech.most_nodes(some, 3, objective) == max(groups)
    assert train_speech.most_nodes(some, 99, objective) == sum(nodes)


def tiny_model(seed: int = 0) -> speech_model.Transducer:
    return speech_model.Transducer(speech_model.Sizes(width=16, layers=1, joint=16), nnx.Rngs(seed))


@pytest.mark.slow
def test_filler_rows_change_no_gradient(spoken):
    def gradients(members):
        loss, tree = value_and_gradient(model, batches.load(spoken, members).arrays)
        return [float(loss), *(np.asarray(leaf) for leaf in jax.tree.leaves(tree))]

    model = tiny_model()
    value_and_gradient = nnx.jit(nnx.value_and_grad(speech_loss.batch_loss))
    batches = speech_data.Batches(spoken, 1, 4, NoProblems())
    # Compares the mean over four real rows with two means, each over two real rows and two filler rows.
    whole = gradients(spoken[:4])
    for full, first, second in zip(whole, gradients(spoken[:2]), gradients(spoken[2:4]), strict=True):
        np.testing.assert_allclose((first + second) / 2, full, rtol=1e-4, atol=1e-5 * np.abs(full).max() + 1e-6)
    assert sum(np.abs(leaf).max() > 1e-3 for leaf in whole) > 0.9 * len(whole)
    nothing = gradients([])
    assert all((leaf == 0).all() for leaf in map(np.asarray, nothing))


def test_padding_changes_no_logit(spoken):
    @nnx.jit
    def run(model, arrays):
        frames, lengths = model.encode(arrays.audio, arrays.samples)
        return model.join(frames[:, :, None], model.predict_all(arrays.labels)[:, None]), lengths

    model = tiny_model()
    (tight,) = speech_data.Batches(spoken[:3], 1, 4, NoProblems()).once()
    longer = [((0, 0), (0, 7000)), ((0, 0),), ((0, 0), (0, 5)), ((0, 0),)]
    wide = speech_data.Arrays(*map(np.pad, tight.arrays, longer))
    (logits, lengths), (wide_logits, wide_lengths) = (jax.device_get(run(model, x)) for x in (tight.arrays, wide))
    assert wide_logits.shape[1] > logits.shape[1] >= lengths.max() and wide_logits.shape[2] == logits.shape[2] + 5
    np.testing.assert_array_equal(lengths, wide_lengths)
    assert lengths[3] == 0 and np.isfinite(wide_logits).all()
    for row in range(3):
        inside = (row, slice(lengths[row]), slice(len(tight.utterances[row].text) + 1))
        np.testing.assert_allclose(wide_logits[inside], logits[inside], rtol=1e-4, atol=1e-5)


def test_batched_decoding_is_the_plain_greedy_loop(spoken):
    model = tiny_model(seed=1)
    # An untrained joint emits labels everywhere or nowhere. With this bias it does both.
    bias = np.zeros(len(speech_data.ALPHABET), np.float32)
    bias[speech_data.BLANK] = 0.35
    model.join.output.bias[...] = bias
    (batch,) = speech_data.Batches(spoken[:3], 1, 4, NoProblems()).once()
    found = jax.device_get(speech_report.greedy_decode(model, batch.arrays))
    frames, lengths = nnx.jit(type(model).encode)(model, batch.arrays.audio, batch.arrays.samples)
    logits = nnx.jit(lambda model, frame, context: model.join(frame, model.predict(context)))
    for row in range(4):
        expected: list[int] = []
        times: list[int] = []
        for time_step in range(int(lengths[row])):
            for _ in range(5):
                context = np.array(([speech_data.BLANK] * speech_model.CONTEXT + expected)[-speech_model.CONTEXT :])
                best = int(np.argmax(logits(model, frames[row, time_step], context)))
                if best == speech_data.BLANK:
                    break
                expected.append(best)
                times.append(time_step)
        assert found.labels[row, : found.lengths[row]].tolist() == expected
        assert found.times[row, : found.lengths[row]].tolist() == times
    assert found.lengths[3] == 0 < found.lengths[:3].min()


def test_words_have_the_times_of_their_characters(spoken, tmp_path, monkeypatch):
    # A frame takes 40 ms. A word begins with its first character and ends with its last one.
    classes = [speech_data.ALPHABET.index(c) for c in " one  it's"]
    labels, times = np.array([[*classes, -1], [-1] * 11]), np.array([[0, 1, 4, 6, 7, 8, 20, 20, 22, 25, -1], [-1] * 11])
    sure = np.log([[1, 0.9, 0.8, 0.7, 1, 1, 0.5, 0.6, 0.7, 0.8, 1], [1] * 11])
    arrays = labels, np.array([10, 0]), np.zeros(2), times
    found = jax_rnnt.decoding.Hypotheses(*arrays, durations=None, truncated=None, log_probs=sure)
    monkeypatch.setattr(speech_report, "greedy_decode", lambda model, arrays: found)
    batches = speech_data.Batches(spoken[:1], 1, 2, NoProblems())
    rate = speech_report.word_error_rate(tiny_model(), batches, tmp_path / "heldout.ctm")
    name, text = spoken[0].id, spoken[0].text
    lines = f"{name} 1 0.040 0.240 one 0.800\n{name} 1 0.800 0.240 it's 0.650\n"
    assert (tmp_path / "heldout.ctm").read_text() == lines
    assert rate == jiwer.wer(text, " one  it's")


def test_recognised_names_are_counted(spoken, monkeypatch):
    # The first word is heard as a name, the second one as it is; a name that nobody said comes last.
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    boosting = pytest.importorskip("boosting")
    utterance = next(utterance for utterance in spoken if len(set(utterance.text.split())) == 3)
    _, second, third = utterance.text.split()
    heard = [speech_data.ALPHABET.index(c) for c in f"{third} {second} {third} {third}"]
    labels = np.array([[heard]] + [[[-1] * len(heard)]] * (boosting.BATCH - 1))
    lengths, zeros = np.where(labels[..., 0] > 0, len(heard), 0), np.zeros(labels.shape[:2])
    found = jax_rnnt.decoding.Hypotheses(labels, lengths, zeros, 0 * labels, durations=None, truncated=zeros)
    monkeypatch.setattr(boosting, "decode", lambda model, arrays, boost: found)
    line = boosting.measure(tiny_model(), [utterance], [third], 1.0)
    assert line == "score 1.0: 1 of 1 names, 1 of 2 other words, 2 names where others were said"


def test_true_word_starts_are_kept_and_compared_with_those_of_an_alignment(spoken, monkeypatch):
    file = spoken[0].path.parents[2] / "word_starts.txt"
    starts = {name: [*map(float, seconds)] for name, *seconds in map(str.split, file.read_text().splitlines())}
    assert sorted(starts) == sorted(utterance.id for utterance in spoken)
    for utterance in spoken:
        of_words = starts[utterance.id]
        assert len(of_words) == len(utterance.text.split())
        assert of_words[0] == 0 and (np.diff(of_words) > 0.05).all()
        assert of_words[-1] < utterance.samples / RATE

    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    word_starts = pytest.importorskip("word_starts")
    one, other = sorted(spoken, key=lambda utterance: -len(utterance.text))[:2]
    frames = np.arange(len(one.text))
    first = [i for i in frames[1:] if one.text[i - 1] == " "]
    best = jax_rnnt.alignment.BestPath(np.array([1, np.inf]), np.stack([frames, frames]), None, None)
    lattice = jax_rnnt.alignment.Lattice(None, None, None, ())
    monkeypatch.setattr(speech_report, "align", lambda model, arrays: (lattice, None, best))
    monkeypatch.setattr(jax_rnnt.alignment, "emission_times", lambda posteriors, moves: best.frames + 0.5)
    batch = speech_data.Batch(None, [one, other], None)
    true = {one.id: [0.0, *(0.04 * i - 0.01 for i in first)], other.id: [0.0]}
    errors = word_starts.word_start_errors(tiny_model(), [batch], true)
    np.testing.assert_allclose(errors["best path"], len(first) * [10])
    np.testing.assert_allclose(errors["expected time"], 30)


@pytest.mark.slow
def test_a_checkpoint_restores_weights_and_optimizer_state(tmp_path):
    def fresh(seed):
        args = train_speech.parse_arguments(["--width", "16", "--layers", "1", "--seed", str(seed)])
        return train_speech.make_model(args, speech_loss.LOSSES["rnnt"])

    model, optimizer = modules = fresh(0)
    gradients = jax.tree.map(lambda x: 0 * x + 0.1, nnx.state(model, nnx.Param))
    nnx.jit(lambda model, optimizer, gradients: optimizer.update(model, gradients))(model, optimizer, gradients)
    with train_speech.open_checkpoints(tmp_path) as manager:
        train_speech.save(manager, modules, {"seed": 0, "steps": 9}, {"losses": [0.5]}, 1)
    others = fresh(3)
    with train_speech.open_checkpoints(tmp_path) as manager:
        for settings, sentence in (
            ({"seed": 1, "steps": 9}, "its seed was 0 and is 1"),
            ({"seed": 0, "steps": 8}, "its steps was 9 and is 8"),
        ):
            with pytest.raises(speech_problems.UserError, match=sentence):
                train_speech.restore(manager, others, settings)
        assert train_speech.restore(manager, others, {"seed": 0, "steps": 12}) == {"losses": [0.5]}
    pairs = list(zip(jax.tree.leaves(nnx.state(modules)), jax.tree.leaves(nnx.state(others)), strict=True))
    assert pairs and all(np.array_equal(a, b) for a, b in pairs)
    manager = train_speech.open_checkpoints(tmp_path / "empty")
    with manager, pytest.raises(speech_problems.UserError, match="no checkpoint"):
        train_speech.restore(manager, modules, {})


def test_a_loss_that_is_not_finite_names_its_batch(spoken):
    window = [(11, np.float32(1), spoken[:1]), (12, np.float32("nan"), spoken[1:3])]
    sentence = rf"step 12 is nan.*{spoken[1].path.name}.*{spoken[2].path.name}"
    with pytest.raises(speech_problems.UserError, match=sentence):
        train_speech.check_losses(window)
