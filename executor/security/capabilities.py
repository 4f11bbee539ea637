"""What playbooks may do on this machine: everything their author may in a local run, little in a service."""

from __future__ import annotations

import atexit
import ipaddress
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from noetl.executor.errors import SettingError
from noetl.planner.frozen import frozen

LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")


def local_run_capabilities(folder: Path) -> Capabilities:
    """Of a run that someone started from `folder` with a playbook of their own: what they may, it may."""
    folder = folder.resolve()
    return Capabilities(  # noqa: S604  `shell` is a capability here.
        files_root=folder,
        folder=folder,
        shell=True,
        python_modules=("*",),
        inherit_environment=True,
        networks=LOOPBACK_NETWORKS,
        any_server=True,
    )


def service_capabilities(environ: Mapping[str, str]) -> Capabilities:
    """Of a run that came in from outside: what the operator says in `NOETL_…` settings, and nothing else.

    Raises:
        SettingError: a setting cannot be read, or names a folder that is not there.
    """
    root = environ.get("NOETL_FILES_ROOT", "").strip()
    if root and not Path(root).is_dir():
        raise SettingError(f"NOETL_FILES_ROOT names {root!r}, which is not a folder.")
    shell = environ.get("NOETL_ALLOW_SHELL", "").strip()
    if shell not in ("", "0", "1"):
        raise SettingError(f"NOETL_ALLOW_SHELL is {shell!r}; it must be 1 or 0.")
    modules = _words(environ, "NOETL_PYTHON_MODULES")
    return Capabilities(
        files_root=Path(root).resolve() if root else None,
        folder=_working_folder() if shell == "1" or modules else None,
        shell=shell == "1",
        python_modules=modules,
        networks=tuple(_network(word) for word in _words(environ, "NOETL_ALLOW_NETWORKS")),
        actions=allowed_actions(environ),
    )


def allowed_actions(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """The types of actions that playbooks of a service may use: those of `NOETL_ALLOW_ACTIONS`, or None for all."""
    return _words(environ, ACTIONS_SETTING) or None


def _words(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word for part in environ.get(name, "").split(",") if (word := part.strip()))


def _network(word: str) -> str:
    try:
        return str(ipaddress.ip_network(word))
    except ValueError as error:
        raise SettingError(f"NOETL_ALLOW_NETWORKS: {error}.") from None


@cache
def _working_folder() -> Path:
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="noetl-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


ACTIONS_SETTING = "NOETL_ALLOW_ACTIONS"
"""What operators call the types of actions that playbooks of a service may use."""


@frozen
class Capabilities:
    """What the playbook of a run may do on this machine.

    `files_root` is the folder that `file` may touch, `shell` whether commands run, `python_modules` the modules whose
    functions may be called (`*`: any). `inherit_environment` gives commands the whole environment instead of the few
    names of LANGUAGE §3. `networks` are address ranges (CIDR) that `http` and `postgres` may reach although they are denied by
    default. With `any_server` a connection of `postgres` is what libpq makes of it, sockets, files and the environment
    included, instead of one to a vetted address. `actions` are the types that may be used, or None for all.
    """

    files_root: Path | None = None
    folder: Path | None = None
    shell: bool = False
    python_modules: tuple[str, ...] = ()
    inherit_environment: bool = False
    networks: tuple[str, ...] = ()
    any_server: bool = False
    actions: tuple[str, ...] | None = None
