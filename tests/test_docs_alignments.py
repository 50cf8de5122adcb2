"""docs/alignments.md tells the truth: its Python runs as it stands."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

PAGE = Path(__file__).parent.parent / "docs" / "alignments.md"


@pytest.mark.once
@pytest.mark.usefixtures("default_jax_settings")
def test_python_blocks_run_in_order(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    pyplot.close("all")
    labels = jnp.arange(8) < names["lengths"][1][:, None]
    assert ((names["best"].frames >= 0) == labels).all()
    assert ((names["ends"] <= names["lengths"][0][:, None]) | ~labels).all()
    assert (names["best"].cost >= names["cost"]).all()
    assert (names["entropy"] > 0).all()
    assert names["delay"].shape == names["confidence"].shape == (2,)
    assert jnp.isfinite(names["gradient"]).all()
    assert (names["gradient"] != 0).any()
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("lattice.png", "alignment.png"))
