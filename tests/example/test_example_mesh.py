"""examples/train_speech.py on several devices: every step has the same loss as on one device."""

import json
from pathlib import Path

import numpy as np
import pytest
from example_support import speech_digits, speech_mesh, train_speech

STEPS = 12
RTOL = 1e-5  # float32 sums are in another order at each step: measured 1e-7 after 20 steps

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, Path]:
    return speech_digits.synthesise(tmp_path_factory.mktemp("corpus") / "digits", 24, 4, seed=0)


@pytest.fixture(scope="module")
def losses(corpus, tmp_path_factory, default_jax_settings):
    """Runs the example in this process, which has eight devices. Returns the losses of its steps."""

    def run(*arguments: str) -> np.ndarray:
        out = tmp_path_factory.mktemp("out")
        assert train_speech.main(command_line(corpus, out, *arguments)) == 0
        return losses_of(out)

    return run


def command_line(corpus, out: Path, *arguments: str) -> list[str]:
    tiny = ["--width", "16", "--layers", "1", "--buckets", "1", "--batch-size", "6", "--steps", str(STEPS)]
    return ["--data", str(corpus[0]), "--heldout-data", str(corpus[1]), "--out", str(out), *tiny, *arguments]


def losses_of(out: Path) -> np.ndarray:
    found = np.array(json.loads((out / "metrics.json").read_text())["losses"])
    assert len(found) == STEPS
    assert found[-1] < 0.8 * found[0], "they have to move, or there would be nothing to compare"
    return found


def assert_same_curve(actual: np.ndarray, wanted: np.ndarray) -> None:
    print(f"relative difference after {STEPS} steps: {np.abs(actual / wanted - 1).max():.1e}")
    np.testing.assert_allclose(actual, wanted, rtol=RTOL)


@pytest.fixture(scope="module")
def one_device(losses) -> np.ndarray:
    return losses()


@pytest.mark.full
@pytest.mark.slow
def test_batch_and_vocabulary_divided(losses, one_device) -> None:
    """Divides 29 classes over two devices, and six utterances over two."""
    assert_same_curve(losses("--mesh", "data=2,model=2"), one_device)


@pytest.mark.parametrize(
    ("text", "devices", "data", "model"),
    [("model=1", None, 1, 1), ("model=1", 8, 8, 1), ("model=2", 8, 4, 2), ("model=2,data=3", None, 3, 2)],
)
def test_mesh_by_its_name(text: str, devices: int | None, data: int, model: int) -> None:
    assert speech_mesh.parse_mesh(text, devices) == {"data": data, "model": model}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--mesh time=8", "--mesh is time=8;"),
        ("--mesh data=2,data=4", "--mesh is data=2,data=4;"),
        ("--mesh data=0", "data=N"),
        ("--mesh data=x", "data=N"),
        (
            "--mesh data=4,model=2 --devices 6",
            "--mesh data=4,model=2 can't divide over as many devices as --devices, 6",
        ),
        ("--mesh data=4 --devices 8", "as --devices, 8"),
        ("--mesh model=2 --devices 7", "as --devices, 7"),
        ("--devices 64", "the mesh needs 64 devices, and there are 8 (cpu)"),
        ("--joint fused --mesh model=2", "--joint fused needs a vocabulary that is not divided, and the mesh is"),
    ],
)
def test_a_mesh_that_cannot_be_is_a_sentence(options: str, sentence: str, tmp_path, capsys) -> None:
    assert train_speech.main([*options.split(), "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
