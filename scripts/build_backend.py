"""The build backend: scikit-build-core. Without CMake it says what to install, and shows no traceback."""

import functools
import pathlib
import tomllib
from collections.abc import Callable

from scikit_build_core import build
from scikit_build_core.errors import CMakeNotFoundError


def _in_words(hook: Callable) -> Callable:
    @functools.wraps(hook)
    def call(*args, **settings):
        try:
            return hook(*args, **settings)
        except CMakeNotFoundError as error:
            pyproject = tomllib.loads(pathlib.Path("pyproject.toml").read_text())
            raise SystemExit(f"{error}. {pyproject['tool']['scikit-build']['messages']['after-failure']}") from None

    return call


# A front end calls the hooks that it finds in this module.
globals().update({name: _in_words(getattr(build, name)) for name in build.__all__})
