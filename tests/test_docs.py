"""The Python of the pages in docs runs as it stands, one block after the other."""

import re
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).parent.parent / "docs"


def run(page: str) -> dict[str, object]:
    """The names that its blocks leave behind, under JAX's default settings."""
    namespace: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, page, "exec"), namespace)
    return namespace


@pytest.mark.usefixtures("default_jax_settings")
def test_decoding(capsys):
    names = run("decoding.md")
    assert "at frames" in capsys.readouterr().out
    assert names["found"].labels.shape == (2, 150)
    assert names["best"].scores.shape == (2, 4)
    whole, pieces = names["best"], names["decoder"].hypotheses(names["state"])
    for b in range(2):  # the whole ones are ranked by length as well
        assert sorted(whole.labels[b].tolist()) == sorted(pieces.labels[b].tolist())
    assert 0 < float(names["expected"]) < 20
    assert all(jax.numpy.any(leaf != 0) for leaf in jax.tree.leaves(names["gradient"]))
