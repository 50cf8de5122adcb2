"""examples/recipe.py learns on a mesh of two devices, and a run that continues is that of an unbroken one."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

for needed in ("flax", "optax", "orbax.checkpoint"):
    pytest.importorskip(needed, exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import recipe  # noqa: E402

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("default_jax_settings")]


@pytest.mark.filterwarnings("default")  # those of Flax and Orbax
def test_it_learns_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, first = recipe.train_step, []

    def step_of_one_program(graph, optimizer, *rest):  # main makes an optimizer that is equal, but another object
        first.append(optimizer)
        return step(graph, first[0], *rest)

    monkeypatch.setattr(recipe, "train_step", step_of_one_program)
    monkeypatch.setattr(recipe, "BUCKETS", ((96, 8),))
    monkeypatch.setattr(recipe.jax, "device_count", lambda: 2)
    small = "--steps 6 --every 4 --batch 8 --width 32 --layers 1 --out"
    whole, rate = recipe.main([*small.split(), str(tmp_path / "whole")])
    assert len(whole) == 6
    assert 0 < whole[-1] < 0.8 * whole[0]
    assert 0 < rate < 3
    shutil.copytree(tmp_path / "whole" / "4", tmp_path / "broken" / "4")
    rest, same_rate = recipe.main([*small.split(), str(tmp_path / "broken")])
    assert rest == whole[4:]
    assert same_rate == rate


def test_utterances_have_the_shapes_of_their_bucket() -> None:
    batch = next(batch for batch in recipe.batches(recipe.utterances(0), 4) if batch.features.shape[1] == 48)
    assert batch.features.shape == (4, 48, recipe.FEATURES)
    assert batch.labels.shape == (4, 4)
    for b in range(4):
        assert (batch.labels[b] > 0).tolist() == [u < batch.words[b] for u in range(4)]
        assert (np.abs(batch.features[b]).sum(axis=1) > 0).tolist() == [t < batch.frames[b] for t in range(48)]
