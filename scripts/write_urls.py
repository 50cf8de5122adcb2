"""Writes the addresses that pyproject.toml has in [project.urls] into README.md and CITATION.cff.

Change them there, then run `python scripts/write_urls.py`. docs/conf.py reads them itself.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = {  # what stands around each address
    "README.md": [(r"(\[Documentation\]\()[^)]*(\))", "Documentation")],
    "CITATION.cff": [(r"(?m)(^repository-code: ).*($)", "Repository"), (r"(?m)(^url: ).*($)", "Documentation")],
}


def written(name: str) -> str:
    """The file with the addresses of pyproject.toml."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    text = (ROOT / name).read_text()
    for pattern, key in PLACES[name]:
        text, count = re.subn(pattern, lambda found, url=urls[key]: found[1] + url + found[2], text)
        assert count == 1, f"{name} has {count} places for {key}"
    return text


if __name__ == "__main__":
    for name in PLACES:
        (ROOT / name).write_text(written(name))
