"""Writes examples/first_transducer.ipynb from docs/first-transducer.md: `python docs/make_notebook.py`.

Each block of Python becomes a cell of code, and the text between two blocks a cell of text. A cell before them installs
what the page needs, so that the notebook runs on Colab.
"""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "first_transducer.ipynb"


def notebook() -> str:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    page = (ROOT / "docs" / "first-transducer.md").read_text()
    page = re.sub(r"\]\(([\w/-]+)\.md", rf"]({urls['Documentation']}\1.html", page)
    text, *rest = re.split(r"^```python\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL)
    install = f'%pip install --quiet optax matplotlib "jax_rnnt @ git+{urls["Repository"]}"'
    cells = [_cell("markdown", text), _cell("code", install)]
    for code, text in zip(rest[::2], rest[1::2], strict=True):
        cells += [_cell("code", code), _cell("markdown", text)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    whole = {"cells": [c for c in cells if c["source"]], "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str) -> dict:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text.strip("\n").splitlines(keepends=True), **code}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook())
