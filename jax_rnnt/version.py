"""The version of the package, by what its installation wrote down."""

import importlib.metadata


def _installed_version() -> str:
    try:
        return importlib.metadata.version("jax_rnnt")
    except importlib.metadata.PackageNotFoundError:  # a source tree on Python's path, or a frozen application
        return "unknown"


VERSION = _installed_version()
