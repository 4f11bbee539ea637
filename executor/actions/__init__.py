"""The action types: each a module of this package, or an entry point of the group `noetl.actions`.

A module is named after its type (with an underscore behind, where the type is a word of Python). Looking for one type
imports that one only.
"""

from __future__ import annotations

import keyword
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from noetl.executor.errors import SettingError
from noetl.planner.catalogue import ActionDeclaration, Catalogue

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from noetl.executor.actions.action import ActionModule, Call

ENTRY_POINTS = "noetl.actions"


@cache
def catalogue() -> Catalogue:
    """The declarations of all types.

    Raises:
        SettingError: an installed package offers a type that cannot be loaded, or one that exists already.
    """
    plugins = _plugins()
    for name, plugin in plugins.items():
        if name in _modules():
            raise SettingError(
                f"The entry point `{plugin.value}` offers the action type `{name}`, which is built in."
            )
    return Catalogue(_load(name).DECLARATION for name in sorted([*_modules(), *plugins]))


@cache
def handler(action_type: str) -> Callable[[Call], Any]:
    """What performs actions of a type.

    Raises:
        KeyError: there is no such type.
        SettingError: the package that offers it cannot be loaded.
    """
    return _load(action_type).perform


@cache
def _modules() -> dict[str, str]:
    names = (found.name for found in pkgutil.iter_modules(__path__))
    return {
        _type_of(name): f"{__name__}.{name}"
        for name in names
        if name != "action" and not name.startswith("_")
    }


def _type_of(module: str) -> str:
    word = module.removesuffix("_")
    return word if keyword.iskeyword(word) else module


@cache
def _plugins() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {found.name: found for found in entry_points(group=ENTRY_POINTS)}


def _load(action_type: str) -> ActionModule:
    if module := _modules().get(action_type):
        return cast("ActionModule", import_module(module))
    plugin = _plugins()[action_type]
    try:
        loaded = cast("ActionModule", plugin.load())
        declared: ActionDeclaration = loaded.DECLARATION
    except Exception as error:
        raise SettingError(
            f"The action type `{action_type}` of `{plugin.value}` cannot be loaded: {error}."
        ) from error
    if declared.type != action_type:
        raise SettingError(
            f"The entry point `{action_type}` of `{plugin.value}` declares the type `{declared.type}`."
        )
    return loaded
