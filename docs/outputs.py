"""Runs the Python of some pages when the site is built, and puts what it prints and draws behind each block.

A page with pictures runs twice, so that the pictures fit light and dark pages.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # else JAX says which other platforms are not there
PAGES = ("alignments", "first-transducer", "two-models")
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
STYLES = {"light": "default", "dark": "dark_background"}


def _results(page: str, blocks: list[str], style: str) -> list[tuple[str, list[str]]]:
    """What each block prints, and the names of the pictures that it saves into the current folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names: dict = {}
    results, seen = [], set()
    with pyplot.style.context(style):
        for block in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, page, "exec"), names)
            new = {path.name for path in Path().glob("*.png")} - seen
            seen |= new
            results.append((printed.getvalue(), sorted(new, key=lambda name: Path(name).stat().st_mtime_ns)))
    pyplot.close("all")
    return results


def put_outputs(app, docname: str, source: list[str]) -> None:
    if docname not in PAGES:
        return
    blocks = BLOCK.findall(source[0])
    shown = [""] * len(blocks)
    for kind, style in STYLES.items():
        if kind == "dark" and "savefig" not in source[0]:
            break
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for i, (printed, pictures) in enumerate(_results(docname, blocks, style)):
                if printed and kind == "light":
                    shown[i] += f"\n```text\n{printed}```\n"
                for name in pictures:
                    stored = f"generated/{docname}-{kind}-{name}"
                    shutil.copy(name, Path(app.srcdir, stored))
                    shown[i] += f"\n```{{image}} {stored}\n:class: only-{kind}\n:alt: {Path(name).stem}\n```\n"
    each = iter(shown)
    source[0] = BLOCK.sub(lambda found: found[0] + next(each), source[0])


def setup(app) -> dict:
    app.connect("source-read", put_outputs)
    return {"parallel_read_safe": True}
