"""examples/train_speech.py on meshes: by their names, what is wrong with one, the same losses as on one device."""

import json

import jax
import numpy as np
import pytest
from example_support import speech_digits, speech_mesh, train_speech

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]


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
    assert len(jax.devices()) == 8  # before a backend has started, the example makes as many devices as it needs
    assert train_speech.main([*options.split(), "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.slow
def test_batch_and_vocabulary_divided(tmp_path) -> None:
    """Divides 29 classes over two devices, and six utterances over two."""
    corpus, heldout = speech_digits.synthesise(tmp_path / "digits", 24, 4, seed=0)
    tiny = ["--width", "16", "--layers", "1", "--buckets", "1", "--batch-size", "6", "--steps", "12"]
    losses = {}
    for axes in ("model=1", "data=2,model=2"):
        out = tmp_path / axes
        data = ["--data", str(corpus), "--heldout-data", str(heldout), "--out", str(out)]
        assert train_speech.main([*data, *tiny, "--mesh", axes]) == 0
        losses[axes] = np.array(json.loads((out / "metrics.json").read_text())["losses"])
    one, divided = losses.values()
    assert one[-1] < 0.8 * one[0], "they have to move, or there would be nothing to compare"
    np.testing.assert_allclose(divided, one, rtol=1e-5)  # sums are in another order: measured 1e-7 after 20 steps
