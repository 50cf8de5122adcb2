"""README is correct: its Python runs as printed, and its commands and addresses are those of CI and pyproject.toml."""

import re
import runpy
from pathlib import Path

import jax

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_order():
    # The blocks run as a user runs them: one after another in one session, under JAX's default settings.
    namespace: dict[str, object] = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), namespace)  # the blocks share their names
    assert float(namespace["loss"]) > 0
    assert float(namespace["fused"]) > 0
    assert jax.numpy.isfinite(namespace["found"].scores).all()
    assert namespace["grad"].shape == (2, 50, 11, 32)
    assert (namespace["frames"][0] >= 0).all()


def test_ci_runs_the_two_commands():
    # .ci/run finds the commands by the comment before them. It must find the commands that a reader sees.
    (commands,) = blocks("bash")
    job, tests = commands.strip().splitlines()
    assert f"\n<!-- .ci/run runs these two -->\n```bash\n{job}\n{tests}\n```\n" in README
    assert "examples/train_speech.py" in job
    assert "pytest" in tests
    script = (ROOT / ".ci" / "run").read_text()
    assert r"<!-- \.ci\/run runs these two -->" in script


def test_relative_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_addresses_are_those_of_pyproject():
    script = runpy.run_path(str(ROOT / "scripts" / "write_urls.py"))
    for name in script["PLACES"]:
        assert script["written"](name) == (ROOT / name).read_text(), "run python scripts/write_urls.py"


def test_it_is_short():
    assert len(README.splitlines()) <= 150
