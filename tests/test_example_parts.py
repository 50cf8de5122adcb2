"""The parts of examples/train_speech.py: synthesis, features, batches, gradients, decoding, checkpoints."""

import jax
import numpy as np
import pytest
from example_support import (
    SAMPLES,
    speech_batches,
    speech_checkpoints,
    speech_corpus,
    speech_decode,
    speech_features,
    speech_model,
    speech_problems,
    speech_synth,
    train_speech,
)
from flax import nnx

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]


def test_voices_are_held_out_by_family():
    variants = speech_synth.Synthesiser().variants()
    training, held_out = speech_synth.split_variants(variants)
    assert sorted(training + held_out) == sorted(variants)
    assert len(held_out) >= 10 and len(training) >= 60

    def families(names):
        return {name.lower().rstrip("0123456789") for name in names}

    assert not families(training) & families(held_out)


def test_synthesised_speech_differs_by_voice_speed_and_pitch():
    synthesiser = speech_synth.Synthesiser()
    plain = synthesiser.say("three nine", "en-us+m1", 160, 50).audio
    assert plain.ndim == 1 and 0.05 < np.abs(plain).max() <= 1
    assert len(synthesiser.say("three nine", "en-us+m1", 240, 50).audio) < 0.9 * len(plain)
    for voice, pitch in (("en-us+m1", 80), ("en-us+f1", 50), ("en-gb-scotland+m1", 50)):
        other = synthesiser.say("three nine", voice, 160, pitch).audio
        shorter = min(len(plain), len(other))
        assert np.abs(plain[:shorter] - other[:shorter]).mean() > 0.01
    with pytest.raises(speech_problems.UserError, match="nowhere"):
        synthesiser.say("one", "nowhere", 160, 50)


def test_the_synthesiser_tells_where_words_begin():
    speech = speech_synth.Synthesiser().say("two two two two", "en-us+m1", 160, 50)
    assert speech.word_starts[0] == 0
    first, *others = np.diff(speech.word_starts)
    np.testing.assert_allclose(others, first, rtol=0.05)
    # The last word is spoken slowly, and silence follows.
    assert 1 < (len(speech.audio) / speech_features.SAMPLE_RATE - speech.word_starts[-1]) / first < 2


def test_features_ignore_padding_and_survive_silence():
    rate = speech_features.SAMPLE_RATE
    noise = np.random.default_rng(0).normal(size=rate // 2) * np.linspace(0.01, 0.3, rate // 2)
    speech = np.concatenate([noise, np.zeros(rate // 4)]).astype(np.float32)
    audio = np.zeros((4, rate), np.float32)
    audio[0, : len(speech)] = speech
    audio[1, : len(speech)] = speech
    audio[1, len(speech) :] = np.nan
    samples = np.array([len(speech), len(speech), rate, 0], np.int32)  # row 2 is digital silence, row 3 a filler row
    features, frames = jax.device_get(speech_features.log_mel(audio, samples))
    assert features.shape == (4, 98, speech_features.MELS) and features.dtype == np.float32
    assert frames.tolist() == [73, 73, 98, 0]
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features[0], features[1])
    assert (features[0, 73:] == 0).all() and (features[3] == 0).all()
    np.testing.assert_allclose(features[0, :73].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features[0, :73].std(axis=0), 1, atol=1e-2)


@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_is_loudest_in_the_mel_band_that_holds_it(hertz):
    seconds = np.arange(speech_features.WINDOW) / speech_features.SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(np.sin(2 * np.pi * hertz * seconds), speech_features.FFT)) ** 2
    band = int(np.argmax(spectrum @ speech_features.mel_filters()))
    mel = 2595 * np.log10(1 + np.array([20, hertz, 8000]) / 700)
    assert band + 1 == pytest.approx((mel[1] - mel[0]) / (mel[2] - mel[0]) * (speech_features.MELS + 1), abs=1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> list[speech_corpus.Utterance]:
    train, _ = speech_synth.synthesise(tmp_path_factory.mktemp("speech") / "digits", 30, 1, seed=0)
    return speech_corpus.read_corpus(train, SAMPLES, report=pytest.fail)


def test_batches_cover_an_epoch_in_an_order_of_seed_and_epoch(digits):
    batches = speech_batches.Batches(speech_batches.make_buckets(digits, 3), 4, pytest.fail)
    assert len(batches) == 9  # 3 buckets of 10 utterances: two full batches, and one with two real rows

    def order(seed, epoch):
        return [[u.id for u in members] for _, members in batches.plan(seed, epoch)]

    assert order(0, 1) == order(0, 1) != order(0, 2) != order(1, 2)
    assert sorted(i for members in order(0, 1) for i in members) == sorted(u.id for u in digits)
    stream = batches.training(0, first_step=7)
    ids = [[u.id for u in next(stream).utterances] for _ in range(5)]
    stream.close()
    assert ids == (order(0, 0) + order(0, 1))[7:12]
    for batch in batches.once():
        bucket = min(
            (b for b in batches.buckets if set(batch.utterances) <= set(b.utterances)), key=lambda b: b.samples
        )
        assert batch.arrays.audio.shape == (4, bucket.samples)
        assert batch.arrays.labels.shape == (4, bucket.labels)
        for row, utterance in enumerate(batch.utterances):
            assert batch.arrays.samples[row] == utterance.samples
            assert speech_corpus.decode(batch.arrays.labels[row, : batch.arrays.label_lengths[row]]) == utterance.text
        assert not batch.arrays.samples[len(batch.utterances) :].any()
        assert not batch.arrays.label_lengths[len(batch.utterances) :].any()


def tiny_model(seed: int = 0) -> speech_model.Transducer:
    return speech_model.Transducer(speech_model.Sizes(width=16, layers=1, joint=16), nnx.Rngs(seed))


@pytest.mark.slow
def test_filler_rows_change_no_gradient(digits):
    def gradients(members):
        arrays = speech_batches.on_device(batches.load(bucket, members).arrays)
        loss, tree = value_and_gradient(model, arrays)
        return [float(loss), *(np.asarray(leaf) for leaf in jax.tree.leaves(tree))]

    model = tiny_model()
    value_and_gradient = nnx.jit(nnx.value_and_grad(train_speech.batch_loss))
    bucket = speech_batches.Bucket(digits, max(u.samples for u in digits), max(len(u.text) for u in digits) + 3)
    batches = speech_batches.Batches([bucket], 4, pytest.fail)
    # Compares the mean over four real rows with two means, each over two real rows and two filler rows.
    whole = gradients(digits[:4])
    for full, first, second in zip(whole, gradients(digits[:2]), gradients(digits[2:4]), strict=True):
        np.testing.assert_allclose((first + second) / 2, full, rtol=1e-4, atol=1e-5 * np.abs(full).max() + 1e-6)
    assert sum(np.abs(leaf).max() > 1e-3 for leaf in whole) > 0.9 * len(whole)
    nothing = gradients([])
    assert all((leaf == 0).all() for leaf in map(np.asarray, nothing))


def test_padding_changes_no_logit(digits):
    model = tiny_model()
    (tight,) = speech_batches.make_buckets(digits[:3], 1)
    wide = speech_batches.Bucket(tight.utterances, tight.samples + 7000, tight.labels + 5)
    run = nnx.jit(lambda model, arrays: model(arrays.audio, arrays.samples, arrays.labels))
    results = []
    for bucket in (tight, wide):
        (batch,) = speech_batches.Batches([bucket], 4, pytest.fail).once()
        results.append(jax.device_get(run(model, speech_batches.on_device(batch.arrays))))
    (logits, lengths), (wide_logits, wide_lengths) = results
    assert wide_logits.shape[1] > logits.shape[1] >= lengths.max() and wide_logits.shape[2] == logits.shape[2] + 5
    np.testing.assert_array_equal(lengths, wide_lengths)
    assert lengths[3] == 0 and np.isfinite(wide_logits).all()
    for row in range(3):
        inside = (row, slice(lengths[row]), slice(len(tight.utterances[row].text) + 1))
        np.testing.assert_allclose(wide_logits[inside], logits[inside], rtol=1e-4, atol=1e-5)


def test_batched_decoding_is_the_plain_greedy_loop(digits):
    model = tiny_model(seed=1)
    # An untrained joint emits labels everywhere or nowhere. With this bias it does both.
    bias = np.zeros(speech_corpus.VOCABULARY, np.float32)
    bias[speech_corpus.BLANK] = 0.35
    model.join.output.bias[...] = bias
    batches = speech_batches.Batches(speech_batches.make_buckets(digits[:3], 1), 4, pytest.fail)
    (batch,) = batches.once()
    arrays = speech_batches.on_device(batch.arrays)
    found = jax.device_get(speech_decode.greedy_decode(model, arrays.audio, arrays.samples))
    frames, lengths = model.encoder(arrays.audio, arrays.samples)
    frames = model.encoder_projection(frames)
    for row in range(4):
        expected: list[int] = []
        times: list[int] = []
        for time_step in range(int(lengths[row])):
            for _ in range(5):
                context = np.array(([speech_corpus.BLANK] * speech_model.CONTEXT + expected)[-speech_model.CONTEXT :])
                best = int(np.argmax(model.join(frames[row, time_step], model.predict(context))))
                if best == speech_corpus.BLANK:
                    break
                expected.append(best)
                times.append(time_step)
        assert found.labels[row, : found.lengths[row]].tolist() == expected
        assert found.times[row, : found.lengths[row]].tolist() == times
    assert found.lengths[3] == 0 < found.lengths[:3].min()
    for one, utterance, labels in zip(
        speech_decode.recognise(model, batch), batch.utterances, found.labels, strict=False
    ):
        assert one.utterance is utterance
        assert one.text == speech_corpus.decode(labels[labels >= 0])


def test_words_have_the_times_of_their_characters(digits):
    # A frame takes 40 ms. A word begins with its first character and ends with its last one.
    labels, times = speech_corpus.encode(" one  it's"), [0, 1, 4, 6, 7, 8, 20, 20, 22, 25]
    found = speech_decode.with_words(digits[0], labels, times, frame=0.04)
    assert [word.text for word in found.words] == ["one", "it's"]
    np.testing.assert_allclose([word[1:] for word in found.words], [(0.04, 0.28), (0.8, 1.04)])
    name = digits[0].id
    lines = speech_corpus.ctm_lines(name, found.words)
    assert lines == [f"{name} 1 0.040 0.240 one\n", f"{name} 1 0.800 0.240 it's\n"]


@pytest.mark.slow
def test_a_checkpoint_restores_weights_and_optimizer_state(tmp_path):
    args = train_speech.parse_arguments([])

    def fresh(seed):
        model = tiny_model(seed)
        return model, train_speech.make_optimizer(model, args)

    model, optimizer = fresh(0)
    gradients = jax.tree.map(lambda x: 0 * x + 0.1, nnx.state(model, nnx.Param))
    nnx.jit(lambda model, optimizer, gradients: optimizer.update(model, gradients))(model, optimizer, gradients)
    checkpoints = speech_checkpoints.Checkpoints(tmp_path)
    checkpoints.save(1, model, optimizer, {"seed": 0, "steps": 9}, {"losses": [0.5]})
    checkpoints.close()
    other_model, other_optimizer = fresh(3)
    checkpoints = speech_checkpoints.Checkpoints(tmp_path)
    with pytest.raises(speech_problems.UserError, match="seed was 0 and is 1"):
        checkpoints.restore(other_model, other_optimizer, {"seed": 1, "steps": 9})
    assert checkpoints.restore(other_model, other_optimizer, {"seed": 0, "steps": 9}) == {"losses": [0.5]}
    checkpoints.close()
    for before, after in ((model, other_model), (optimizer, other_optimizer)):
        pairs = list(zip(jax.tree.leaves(nnx.state(before)), jax.tree.leaves(nnx.state(after)), strict=True))
        assert pairs and all(np.array_equal(a, b) for a, b in pairs)
    empty = speech_checkpoints.Checkpoints(tmp_path / "empty")
    with pytest.raises(speech_problems.UserError, match="no checkpoint"):
        empty.restore(model, optimizer, {})
    empty.close()


def test_a_loss_that_is_not_finite_names_its_batch(digits):
    window = [(np.float32(1), digits[:1]), (np.float32("nan"), digits[1:3])]
    with pytest.raises(
        speech_problems.UserError, match=rf"step 12 is nan.*{digits[1].path.name}.*{digits[2].path.name}"
    ):
        train_speech.check_losses(window, first_step=11)
