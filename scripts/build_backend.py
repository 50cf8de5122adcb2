"""The build backend: scikit-build-core. It says in a sentence that CMake or a newer Python is missing."""

import functools
import pathlib
import sys
from collections.abc import Callable

from scikit_build_core import build
from scikit_build_core.errors import CMakeNotFoundError


def _in_words(hook: Callable) -> Callable:
    @functools.wraps(hook)
    def call(*args, **settings):
        if sys.version_info < (3, 11):  # noqa: UP036  (pip calls hooks before it reads requires-python)
            raise SystemExit(f"jax_rnnt needs Python 3.11 or newer, and this is {sys.version.split()[0]}.")
        try:
            return hook(*args, **settings)
        except CMakeNotFoundError as error:
            import tomllib  # not above: an older Python, which does not have it, must come as far as the sentence

            pyproject = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
            raise SystemExit(f"{error}. {pyproject['tool']['scikit-build']['messages']['after-failure']}") from None

    return call


# A front end calls the hooks that it finds in this module.
globals().update({name: _in_words(getattr(build, name)) for name in build.__all__})
