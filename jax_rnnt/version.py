"""The version of the package, as its installation recorded it."""

import importlib.metadata


def _installed_version() -> str:
    try:
        return importlib.metadata.version("jax_rnnt")
    except importlib.metadata.PackageNotFoundError:  # imported from a source tree, or from a frozen application
        return "unknown"


VERSION = _installed_version()
