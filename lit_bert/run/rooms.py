"""Rooms of this package that can be taken away: what is not there is not used."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def import_if_present(name: str) -> Any:
    """Return a module of this package, such as "callbacks.throughput", or None if its file or folder was removed."""
    full, parent = f"lit_bert.{name}", f"lit_bert.{name}".rpartition(".")[0]
    return import_module(full) if find_spec(parent) and find_spec(full) else None
