"""docs/sources.md tells the truth: its Python runs as it stands, and the sources in it agree with each other."""

import re
from pathlib import Path

import jax
import pytest

TEXT = (Path(__file__).parent.parent / "docs" / "sources.md").read_text()


@pytest.mark.usefixtures("default_jax_settings")
def test_python_blocks_run_in_order() -> None:
    namespace: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        exec(compile(block, "sources.md", "exec"), namespace)  # names carry over from block to block
    assert namespace["rows"] == 50 * 11 + 40 * 8
    assert float(namespace["packed"]) == pytest.approx(float(namespace["dense"]), rel=1e-5)
    assert float(namespace["costs"].mean()) == pytest.approx(float(namespace["simple_loss"]), rel=1e-5)
    assert float(namespace["dense"]) <= float(namespace["pruned"]) < jax.numpy.inf
    assert float(namespace["loss"]) > float(namespace["pruned"])


def test_relative_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (Path(__file__).parent.parent / "docs" / target).exists(), target
