"""A page for each object that docs/api.md names. In api.md a table of their first sentences takes their place.

So api.md stays a list of directives, which also is what a reader sees who is not on the site.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^```\{eval-rst\}\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^\.\. (currentmodule|auto\w+):: ([\w.]+)\n((?:   .*\n)*)", re.MULTILINE)


class Object(NamedTuple):
    module: str
    directive: str
    name: str
    options: str

    @property
    def page(self) -> str:
        return f"generated/{self.module}.{self.name}"

    @property
    def text(self) -> str:
        title = f"{self.name}\n{'=' * len(self.name)}\n\n"
        return f"{title}.. currentmodule:: {self.module}\n.. {self.directive}:: {self.name}\n{self.options}"

    @property
    def row(self) -> str:
        described = getattr(importlib.import_module(self.module), self.name)
        first = "" if self.directive == "autodata" else inspect.getdoc(described).split("\n\n")[0]
        return f"   * - :doc:`{self.name} <{self.page}>`\n     - {' '.join(first.split())}\n"


def _objects(text: str, module: str) -> tuple[list[Object], str]:
    """The objects of a block, and the module that the next block begins with."""
    found = []
    for directive, name, options in LINE.findall(text):
        if directive == "currentmodule":
            module = name
        else:
            found.append(Object(module, directive, name, options))
    return found, module


def _blocks(text: str) -> list[list[Object]]:
    blocks, module = [], ""
    for block in BLOCK.findall(text):
        objects, module = _objects(block, module)
        blocks.append(objects)
    return blocks


def write_pages(app) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    pages = {o.page: o.text for block in _blocks((Path(app.srcdir) / "api.md").read_text()) for o in block}
    for old in folder.glob("*.rst"):
        if f"generated/{old.stem}" not in pages:
            old.unlink()
    for page, text in pages.items():
        path = Path(app.srcdir) / f"{page}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def put_tables(app, docname: str, source: list[str]) -> None:
    if docname != "api":
        return
    blocks = iter(_blocks(source[0]))

    def table(_) -> str:
        objects = next(blocks)
        head = "```{eval-rst}\n.. list-table::\n   :widths: 30 70\n\n"
        return head + "".join(o.row for o in objects) + "```\n" if objects else ""

    pages = "".join(o.page + "\n" for block in _blocks(source[0]) for o in block)
    source[0] = BLOCK.sub(table, source[0]) + f"\n```{{toctree}}\n:hidden:\n\n{pages}```\n"


def setup(app) -> dict:
    app.connect("builder-inited", write_pages)
    app.connect("source-read", put_tables)
    return {"parallel_read_safe": True}
