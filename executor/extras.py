"""Commands that install the packages of an extra, for messages about a missing package."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noetl.planner.catalogue import ActionDeclaration


def describe_missing_extras(declarations: Iterable[ActionDeclaration]) -> list[str]:
    """Return a sentence for each extra that action types need and this installation does not have."""
    types_of_extra: dict[str, list[str]] = {}
    for declaration in declarations:
        if declaration.extra is not None and find_spec(declaration.extra[1]) is None:
            types_of_extra.setdefault(declaration.extra[0], []).append(f"`{declaration.type}`")
    return [
        f"{' and '.join(names)} cannot run in this installation; install what is missing with"
        f" `{install_command(extra)}`"
        for extra, names in types_of_extra.items()
    ]


def install_command(extra: str, python: str = "python3") -> str:
    """Return the shell command that installs the packages of an extra next to NoETL.

    It names the packages and not the extra, because they come from a package index and NoETL itself may not.

    >>> install_command("jwt").startswith("python3 -m pip install 'pyjwt")
    True
    """
    try:
        lines = requires("noetl") or []
    except PackageNotFoundError:  # such as in a bundle of a function
        lines = []
    marker = re.compile(rf"""(?P<package>[^;]*[^;\s])\s*;\s*extra\s*==\s*["']{extra}["']""")
    packages = [match["package"].replace(" ", "") for line in lines if (match := marker.fullmatch(line))]
    has_pip = find_spec("pip") is not None
    installer = f"{quote(python)} -m pip install" if has_pip else f"uv pip install --python {quote(python)}"
    return " ".join([installer, *map(quote, packages or [f".[{extra}]"])])
