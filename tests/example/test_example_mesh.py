"""Meshes of examples/train_speech.py by their names, and what is wrong with one."""

import pytest
from example_support import speech_mesh, train_speech

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
    assert train_speech.main([*options.split(), "--out", str(tmp_path)]) == 2
    assert sentence in capsys.readouterr().err
