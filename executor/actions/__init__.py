"""Action types: each is a module of this package, or an entry point of the group `noetl.actions`.

A module has the name of its type, with a trailing underscore if the type is a keyword of Python.
A look-up of one type imports only its module.
"""

from __future__ import annotations

import keyword
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from noetl.executor.errors import SettingError
from noetl.planner.catalogue import ActionDeclaration, Catalogue

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from noetl.executor.actions.action import ActionModule, Call

ENTRY_POINTS = "noetl.actions"
"""Entry-point group of plugins."""

_temporary_modules: dict[str, ActionModule] = {}


@cache
def catalogue() -> Catalogue:
    """Return the declarations of all action types.

    Raises:
        SettingError: an installed plugin cannot be loaded, or its type exists already.
    """
    plugins = _plugins()
    for name, plugin in plugins.items():
        if name in _builtin_modules():
            raise SettingError(f"The entry point `{plugin.value}` offers the built-in action type `{name}`.")
    names = {*_builtin_modules(), *plugins, *_temporary_modules}
    return Catalogue(_load(name).DECLARATION for name in sorted(names))


@cache
def handler(action_type: str) -> Callable[[Call], Any]:
    """Return the handler of an action type.

    Raises:
        KeyError: the type is unknown.
        SettingError: the plugin that offers it cannot be loaded.
    """
    return _load(action_type).perform


@contextmanager
def temporary_types(*modules: ActionModule) -> Iterator[None]:
    """Offer action types within a block, as if installed, also in place of others of their name.

    It is for tests: all threads of this process see them.
    """
    before = dict(_temporary_modules)
    _temporary_modules.update({module.DECLARATION.type: module for module in modules})
    _forget_types()
    try:
        yield
    finally:
        _temporary_modules.clear()
        _temporary_modules.update(before)
        _forget_types()


def _forget_types() -> None:
    catalogue.cache_clear()
    handler.cache_clear()


@cache
def _builtin_modules() -> dict[str, str]:
    """Return the full name of each module of an action type, by the name of the type."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return {
        _type_of_module(name): f"{__name__}.{name}"
        for name in names
        if name != "action" and not name.startswith("_")
    }


def _type_of_module(module: str) -> str:
    word = module.removesuffix("_")
    return word if keyword.iskeyword(word) else module


@cache
def _plugins() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {plugin.name: plugin for plugin in entry_points(group=ENTRY_POINTS)}


def _load(action_type: str) -> ActionModule:
    if action_type in _temporary_modules:
        return _temporary_modules[action_type]
    if module_name := _builtin_modules().get(action_type):
        return cast("ActionModule", import_module(module_name))
    plugin = _plugins()[action_type]
    try:
        module = cast("ActionModule", plugin.load())
        declaration: ActionDeclaration = module.DECLARATION
    except Exception as error:
        message = f"The action type `{action_type}` of `{plugin.value}` cannot be loaded: {error}."
        raise SettingError(message) from error
    if declaration.type != action_type:
        message = (
            f"The entry point `{action_type}` of `{plugin.value}` declares the type `{declaration.type}`."
        )
        raise SettingError(message)
    return module
