"""Import names of a checkout: `api` and `noetl.api` are the same module.

In a checkout the folders `planner`, `executor`, `api` and `infra` are on the import path, so
`uvicorn api.app:app` finds them. Python would load them a second time under their short names. The classes
of the two copies differ, so `isinstance` and `except` would not match. The `__init__` modules of the folders
call `alias_package` to prevent that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def alias_package(name: str) -> None:
    """Make the top-level package `name` and all its modules those of `noetl.NAME`."""
    sys.meta_path.insert(0, _AliasFinder(name))
    sys.modules[name] = import_module(f"noetl.{name}")


class _AliasFinder(MetaPathFinder, Loader):
    """Finder of the modules of one top-level package: it gives those of the package in `noetl`."""

    def __init__(self, package: str) -> None:
        self.prefix = f"{package}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.startswith(self.prefix) else None

    def exec_module(self, module: ModuleType) -> None:
        # The import system returns what `sys.modules` holds after this call.
        sys.modules[module.__name__] = import_module(f"noetl.{module.__name__}")
