"""Versions of installed packages."""

from importlib.metadata import PackageNotFoundError, version


def package_version(package: str) -> str | None:
    """Return a package's version, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
