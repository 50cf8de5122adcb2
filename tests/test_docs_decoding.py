"""docs/decoding.md tells the truth: its Python runs as it stands."""

import re
from pathlib import Path

import jax
import pytest

PAGE = Path(__file__).parent.parent / "docs" / "decoding.md"


@pytest.mark.once
@pytest.mark.usefixtures("default_jax_settings")
def test_python_blocks_run_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    assert "at frames" in capsys.readouterr().out
    assert names["found"].labels.shape == (2, 150)
    assert names["best"].scores.shape == (2, 4)
    whole, pieces = names["best"], names["decoder"].hypotheses(names["state"])
    for b in range(2):  # the whole ones are ranked by length as well
        assert sorted(whole.labels[b].tolist()) == sorted(pieces.labels[b].tolist())
    assert 0 < float(names["expected"]) < 20
    assert all(jax.numpy.any(leaf != 0) for leaf in jax.tree.leaves(names["gradient"]))
