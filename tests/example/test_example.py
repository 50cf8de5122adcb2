"""examples/train_speech.py as a user runs it: it learns, resumes exactly, and says what is wrong with its input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from example_support import (
    RATE,
    SAMPLES,
    NoProblems,
    soundfile,
    speech_data,
    speech_loss,
    speech_problems,
    tone,
    train_speech,
    write_corpus,
)

pytestmark = pytest.mark.once
TINY = ("--width", "16", "--layers", "1", "--buckets", "1", "--batch-size", "8")


def metrics_of(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


@pytest.fixture
def hostile_corpus(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A corpus with good files, and a bad file for each kind of bad input.

    Returns the folder, and file name -> kind.
    """
    root = tmp_path / "corpus"
    good = {f"{speaker}-1-{n}": "HELLO IT'S ME" for speaker in ("10", "20", "30") for n in range(4)}
    write_corpus(root, good, {"10-1-0": ".wav", "20-1-1": ".wav"})
    folder = root / "10" / "1"
    rate = RATE
    soundfile.write(folder / "10-1-stereo.flac", np.stack([tone(1), tone(1)], axis=1), rate)
    soundfile.write(folder / "10-1-short.wav", tone(1)[: speech_loss.SHORTEST - 1], rate)
    soundfile.write(folder / "10-1-long.wav", tone(21), rate)
    soundfile.write(folder / "10-1-unlisted.flac", tone(1), rate)
    soundfile.write(folder / "10-1-strange.flac", tone(1), rate)
    soundfile.write(folder / "10-1-empty.flac", tone(1), rate)
    (folder / "10-1-broken.flac").write_bytes(b"this is no audio")
    (folder / "10-1-nothing.wav").write_bytes(b"")
    with (folder / "10-1.trans.txt").open("a") as transcript:
        for name in ("stereo", "short", "long", "broken", "nothing", "gone"):
            transcript.write(f"10-1-{name} WORDS\n")
        transcript.write("10-1-strange NAÏVE 7\n10-1-empty\n\n10-1-0 AGAIN\n")
    (root / "latin1.trans.txt").write_bytes(b"10-1-9 caf\xe9\n")
    return root, {
        "10-1-stereo.flac": "not mono",
        "10-1-short.wav": "too short",
        "10-1-long.wav": "too long",
        "10-1-unlisted.flac": "no transcript",
        "10-1-strange.flac": "outside the alphabet",
        "10-1-empty.flac": "empty transcript",
        "10-1-broken.flac": "unreadable audio",
        "10-1-nothing.wav": "unreadable audio",
        "10-1-0.wav": "repeated transcript",
        "10-1.trans.txt": "no audio",
        "latin1.trans.txt": "unreadable transcript",
    }


def test_every_bad_input_is_named_and_the_rest_is_read(hostile_corpus, tmp_path):
    root, expected = hostile_corpus
    problems = speech_problems.Problems(tmp_path / "skipped.txt")
    utterances = speech_data.read_corpus(root, SAMPLES, problems)
    assert {Path(text.split(": ")[0]).name: kind for text, kind in problems.kinds.items()} == expected
    assert len(problems.kinds) == len(expected)
    assert len(utterances) == 12
    assert {utterance.text for utterance in utterances} == {"hello it's me"}
    assert "outside the alphabet: '7ï' in 'naïve 7'" in problems.file.read_text()


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_another_sample_rate_is_resampled(rate, tmp_path):
    write_corpus(tmp_path, {"10-1-0": "A"})
    (file,) = tmp_path.rglob("*.flac")
    soundfile.write(file, tone(1, rate), rate)
    (utterance,) = speech_data.read_corpus(tmp_path, SAMPLES, NoProblems())
    audio = speech_data.load_audio(utterance)
    assert utterance.samples == len(audio) == RATE
    np.testing.assert_allclose(audio[500:-500], tone(1)[500:-500], atol=2e-3)


@pytest.mark.parametrize("content", ["missing", "empty", "one speaker"])
def test_a_folder_that_cannot_be_used_is_a_sentence(content, tmp_path, capsys):
    root = tmp_path / "data"
    if content != "missing":
        root.mkdir()
    if content == "one speaker":
        write_corpus(root, {"10-1-0": "a", "10-1-1": "b"})
    code = train_speech.main(["--data", str(root), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().err
    assert code == 2
    sentence = {"missing": "no such folder", "empty": "no usable utterance", "one speaker": "'10'"}[content]
    assert "error: " in printed and sentence in printed
    if content != "one speaker":
        assert str(root) in printed


def test_held_out_data_alone_is_a_sentence(tmp_path, capsys):
    assert train_speech.main(["--heldout-data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "--heldout-data needs --data" in capsys.readouterr().err


def test_help_shows_every_default(capsys):
    with pytest.raises(SystemExit):
        train_speech.parse_arguments(["--help"])
    options = re.split(r"\n  (?=--)", capsys.readouterr().out.split("options:")[1])[1:]
    assert len(options) > 15
    assert [text.split()[0] for text in options if "(default: " not in " ".join(text.split())] == ["--resume"]


RUN = ("--steps", "20", "--checkpoint-every", "10", "--evaluate-every", "10")
DIGITS = ("--train-utterances", "60", "--heldout-utterances", "10", "--max-seconds", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("default_jax_settings")
def test_loss_falls_and_a_run_continues_exactly(tmp_path, capsys):
    """The second run finds what a process leaves that is killed while it writes its second checkpoint."""
    command = ["--out", str(tmp_path), *RUN, *DIGITS, *TINY]
    assert train_speech.main(command) == 0
    whole = metrics_of(tmp_path)
    assert len(whole["losses"]) == 20
    assert np.mean(whole["losses"][-5:]) < 0.5 * np.mean(whole["losses"][:5])
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "checkpoints" / "20").rename(tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp")
    capsys.readouterr()
    assert train_speech.main([*command, "--resume"]) == 0
    assert "resumed after step 10" in capsys.readouterr().out
    assert metrics_of(tmp_path)["losses"] == whole["losses"]
    assert metrics_of(tmp_path)["error_rates"] == whole["error_rates"]

    # A new run never overwrites the checkpoints of an earlier one.
    assert train_speech.main(["--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err
