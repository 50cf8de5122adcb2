"""examples/train_speech.py where it can't write or read: it prints one sentence, and loses nothing that was written."""

import errno
import io
import os
import resource
import shutil
import sys
from pathlib import Path

import optax
import pytest
from example_support import SAMPLES, NoProblems, soundfile, speech_data, speech_problems, train_speech, write_corpus
from flax import nnx

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]


def full_disk(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sentence_of(capsys, *arguments: object) -> str:
    """Runs the example, which must end with status 2. Returns its one line on standard error."""
    assert train_speech.main([*map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("out", ["file", "file/below", "taken", "/proc/self/out"])
def test_an_out_that_cannot_be_written_is_a_sentence(out, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "checkpoints").write_text("precious")
    assert str(tmp_path / out) in sentence_of(capsys, "--out", tmp_path / out)
    assert (tmp_path / "file").read_text() == (tmp_path / "taken" / "checkpoints").read_text() == "precious"


def test_a_disk_that_is_full_while_speech_is_synthesised(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    arguments = ("--out", tmp_path, "--train-utterances", 2, "--heldout-utterances", 2)
    assert f"{tmp_path}: No space left on device" in sentence_of(capsys, *arguments)
    assert not (tmp_path / "digits-2-2-seed0").exists(), "half a corpus must not pass for a whole one"


def test_a_log_on_a_full_disk(tmp_path, monkeypatch, capsys):
    write_corpus(tmp_path / "data", {"10-1-0": "a", "20-1-0": "b"})
    full = io.StringIO()
    monkeypatch.setattr(full, "write", full_disk)
    monkeypatch.setattr(sys, "stdout", full)
    assert "No space left" in sentence_of(capsys, "--data", tmp_path / "data", "--out", tmp_path / "out")


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path):
    def half(path: Path) -> None:
        path.write_text("hal")
        full_disk()

    report = tmp_path / "metrics.json"
    report.write_text("before")
    with pytest.raises(OSError, match="No space"):
        speech_problems.write_whole(report, half)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.json", "before")]
    speech_problems.write_whole(report, lambda path: path.write_text("after"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("metrics.json", "after")]


@pytest.fixture
def run_of_two(tmp_path):
    """Saves checkpoints of steps 1 and 2. Returns their folder, and functions that save and restore there."""
    model = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
    modules = model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    def save(*steps: int) -> None:
        with train_speech.open_checkpoints(tmp_path) as manager:
            for step in steps:
                train_speech.save(manager, modules, {}, {"step": step}, step)

    def restore() -> int:
        with train_speech.open_checkpoints(tmp_path) as manager:
            return train_speech.restore(manager, modules, {})["step"]

    save(1, 2)
    return tmp_path, save, restore


# tensorstore raises it: it may write an array of the failed checkpoint after orbax has closed its event loop.
@pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_that_cannot_be_written_leaves_those_before(run_of_two):
    folder, save, restore = run_of_two
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # the weights have 16 kB
    try:
        with pytest.raises(speech_problems.UserError) as error:
            save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value) == f"{folder}: step 3 can't be written; --resume continues after 2: File too large"
    assert restore() == 2
    save(3)
    assert restore() == 3


@pytest.mark.parametrize("damaged", ["run/metadata", "state/_METADATA", "state"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_restores(damaged, run_of_two):
    folder, _, restore = run_of_two
    path = folder / "2" / damaged
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(b"")
    with pytest.raises(speech_problems.UserError, match=f"{folder / '2'} can't be read"):
        restore()
    shutil.rmtree(folder / "2")
    assert restore() == 1


@pytest.mark.parametrize(
    ("content", "kind"), [(b"", "unreadable audio"), (b"no audio" * 99, "unreadable audio"), (None, "too short")]
)
def test_a_folder_of_unusable_files_alone_says_how_many_and_why(content, kind, tmp_path, capsys):
    root = tmp_path / "data"
    write_corpus(root, dict.fromkeys(("10-1-0", "10-1-1", "20-1-0"), "WORDS"))
    files = sorted(root.rglob("*.flac"))
    for path in files:
        if content is None:
            soundfile.write(path, [0.0] * 9, 16000)
        else:
            path.write_bytes(content)
    sentence = sentence_of(capsys, "--data", root, "--out", tmp_path / "out")
    assert f"{root}: no usable utterance" in sentence and f"3 {kind}; the first is {files[0]}" in sentence


def test_a_batch_of_unusable_files_alone_says_how_many_and_why(tmp_path):
    write_corpus(tmp_path, dict.fromkeys(("10-1-0", "10-1-1", "10-1-2", "10-1-3"), "WORDS"))
    problems = speech_problems.Problems(tmp_path / "skipped.txt")
    utterances = speech_data.read_corpus(tmp_path, SAMPLES, problems)
    for utterance in utterances[:3]:
        utterance.path.write_bytes(utterance.path.read_bytes()[:200])
    batches = speech_data.Batches(utterances, 1, 4, problems)
    assert batches.load(utterances, utterances[2:3]).utterances == [], "one bad file must not end a long run"
    assert batches.load(utterances, utterances).utterances == utterances[3:]
    with pytest.raises(speech_problems.UserError, match=r"3 audio files in a row.*3 unreadable audio; the first is "):
        batches.load(utterances, utterances[:3])
    assert len(problems.file.read_text().splitlines()) == 3, "each is reported once"


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    write_corpus(tmp_path, {"10-1-0": "HELLO", "10-1-1": "YOU"})
    (transcript,) = tmp_path.rglob("*.trans.txt")
    transcript.write_bytes(b"\xef\xbb\xbf" + transcript.read_bytes())
    utterances = speech_data.read_corpus(tmp_path, SAMPLES, NoProblems())
    assert [(u.id, u.text) for u in utterances] == [("10-1-0", "hello"), ("10-1-1", "you")]
