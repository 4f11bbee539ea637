"""Capabilities: what playbooks may do on this machine.

In a local run, a playbook may do what its author may do. In a service, it may do only what the settings
allow.
"""

from __future__ import annotations

import atexit
import ipaddress
from collections.abc import Mapping
from dataclasses import field
from functools import cache
from pathlib import Path

from noetl.executor.errors import SettingError
from noetl.executor.model.arriving_data import read_arrival_limit
from noetl.executor.security.allowed_sources import AllowedSources, read_allowed_sources
from noetl.executor.security.event_buses import AllowedBuses, read_allowed_buses
from noetl.executor.security.secret_hosts import SecretHosts, read_secret_hosts
from noetl.planner.frozen import frozen

ACTIONS_SETTING = "NOETL_ALLOW_ACTIONS"
"""The setting that lists the action types that playbooks of a service may use."""

_ALL_ACTIONS = "*"
"""The value of the setting that allows all action types."""

DEFAULT_LOG_BYTES = 16 * 1024 * 1024
"""How much the playbook of one run of a service may log, unless `NOETL_LOG_BYTES` says."""

DEFAULT_FILE_BYTES = 1024 * 1024 * 1024
"""How much one run of a service may write to files, unless `NOETL_FILE_BYTES` says."""

_DEFAULT_STORE = "sqlite:///.noetl/noetl.db"

_SYSTEM_FOLDERS = ("/proc", "/sys", "/dev", "/run/secrets", "/var/run/secrets")
"""Folders with the environment of processes, devices, and the secrets of containers."""

COMMAND_LIMITS = (
    ("NOETL_COMMAND_MEMORY", "RLIMIT_DATA", 1024 * 1024, 1024),
    ("NOETL_COMMAND_FILE_SIZE", "RLIMIT_FSIZE", 1024 * 1024, 1024),
    ("NOETL_COMMAND_PROCESSES", "RLIMIT_NPROC", 1, 256),
)
"""The limits of commands: the setting, the resource, the size of its unit, and the default in units."""

_DEFAULT_LIMITS = (
    ("RLIMIT_CORE", 0),
    *((resource, unit * default) for _, resource, unit, default in COMMAND_LIMITS),
)

LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")


@frozen
class Capabilities:
    """The permissions of a run's playbook on this machine.

    `files_root` is the folder in which `file` may read and write, `folder` the working folder of commands.
    `shell` is whether commands may run. `python_modules` are the modules whose functions may be called
    (`*`: all). With `inherit_environment`, commands get the whole environment instead of the few variables
    that the language reference names. `networks` are address ranges (CIDR) that `http` and `postgres` may
    reach although they are denied by default. With `any_server`, `postgres` passes the connection string to
    libpq unchanged (sockets, files and environment included) instead of connecting to a vetted address.
    `actions` are the action types that may be used; None means all. `log_bytes` is how much a run may log,
    and `file_bytes` how much it may write to files; None means any amount. `command_limits` are
    the limits of the processes of a command, by the name of the resource in the module `resource`.
    `secret_hosts` are the hosts to which each secret may go. `trigger_sources` are the sources that triggers
    of each tenant may read, and `event_buses` the buses that its notifications may be sent to.
    """

    files_root: Path | None = None
    folder: Path | None = None
    shell: bool = False
    python_modules: tuple[str, ...] = ()
    inherit_environment: bool = False
    networks: tuple[str, ...] = ()
    any_server: bool = False
    actions: tuple[str, ...] | None = None
    log_bytes: int | None = DEFAULT_LOG_BYTES
    file_bytes: int | None = DEFAULT_FILE_BYTES
    command_limits: tuple[tuple[str, int], ...] = _DEFAULT_LIMITS
    secret_hosts: SecretHosts = field(default_factory=SecretHosts)
    trigger_sources: AllowedSources = field(default_factory=AllowedSources)
    event_buses: AllowedBuses = field(default_factory=AllowedBuses)

    def redacted_tenant(self, tenant: str) -> str | None:
        """Return the tenant whose secrets are searched in runs of `tenant`, or None for those of all tenants.

        A command that inherits the environment can print the secrets of all tenants.
        """
        return None if self.inherit_environment else tenant


def local_run_capabilities(folder: Path) -> Capabilities:
    """Return the capabilities of a local run that was started in `folder`: those of its user."""
    folder = folder.resolve()
    return Capabilities(  # noqa: S604  `shell` is a capability here.
        files_root=folder,
        folder=folder,
        shell=True,
        python_modules=("*",),
        inherit_environment=True,
        networks=LOOPBACK_NETWORKS,
        any_server=True,
        log_bytes=None,
        file_bytes=None,
        command_limits=(),
        secret_hosts=SecretHosts(allows_any=True),
    )


def service_capabilities(environ: Mapping[str, str]) -> Capabilities:
    """Return the capabilities of runs of a service: what the operator's `NOETL_…` settings allow.

    Raises:
        SettingError: a setting is invalid, or names a folder that does not exist.
    """
    root = environ.get("NOETL_FILES_ROOT", "").strip()
    if root and not Path(root).is_dir():
        raise SettingError(f"NOETL_FILES_ROOT is {root!r}; it must be an existing folder.")
    shell = environ.get("NOETL_ALLOW_SHELL", "").strip()
    if shell not in ("", "0", "1"):
        raise SettingError(f"NOETL_ALLOW_SHELL is {shell!r}; it must be 1 or 0.")
    modules = _words(environ, "NOETL_PYTHON_MODULES")
    read_arrival_limit(environ)
    if root:
        _check_files_root(environ, root)
    _check_secrets_folder(environ)
    prefix = environ.get("NOETL_SECRETS_PREFIX", "")
    if prefix and not prefix.endswith(("/", "_", ".", "-")):
        message = f"NOETL_SECRETS_PREFIX is {prefix!r}; it must end with a separator, such as `{prefix}/`."
        raise SettingError(message)
    return Capabilities(
        files_root=Path(root).resolve() if root else None,
        folder=_working_folder() if shell == "1" or modules else None,
        shell=shell == "1",
        python_modules=modules,
        networks=tuple(_network(word) for word in _words(environ, "NOETL_ALLOW_NETWORKS")),
        actions=allowed_actions(environ),
        log_bytes=_read_bytes(environ, "NOETL_LOG_BYTES", DEFAULT_LOG_BYTES),
        file_bytes=_read_bytes(environ, "NOETL_FILE_BYTES", DEFAULT_FILE_BYTES),
        command_limits=_read_command_limits(environ),
        secret_hosts=read_secret_hosts(environ),
        trigger_sources=read_allowed_sources(environ),
        event_buses=read_allowed_buses(environ),
    )


def _read_command_limits(environ: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Return the limits of each command of `shell` and each function of `python`.

    Raises:
        SettingError: a setting is not a whole number from 1 to 1,048,576.
    """
    limits = [("RLIMIT_CORE", 0)]
    for setting, resource, unit, default in COMMAND_LIMITS:
        text = environ.get(setting, "").strip() or str(default)
        if not text.isdecimal() or len(text) > 7 or not 1 <= int(text) <= 1_048_576:
            raise SettingError(f"{setting} is {text!r}; it must be a whole number from 1 to 1048576.")
        limits.append((resource, int(text) * unit))
    return tuple(limits)


def _read_bytes(environ: Mapping[str, str], setting: str, default: int) -> int:
    text = environ.get(setting, "").strip() or str(default)
    if not text.isdecimal() or len(text) > 15:
        raise SettingError(f"{setting} is {text!r}; it must be a whole number of bytes.")
    return int(text)


def _check_secrets_folder(environ: Mapping[str, str]) -> None:
    """Raise SettingError if the folder of the secrets is missing."""
    secrets = environ.get("NOETL_SECRETS_DIR", "").strip()
    if secrets and not Path(secrets).is_dir():
        raise SettingError(f"NOETL_SECRETS_DIR is {secrets!r}; it must be an existing folder.")


def _check_files_root(environ: Mapping[str, str], files_root: str) -> None:
    """Check that the files of playbooks are neither the store, nor secrets, nor those of the system.

    Raises:
        SettingError: NOETL_FILES_ROOT overlaps with the folder of one of them.
    """
    secrets = environ.get("NOETL_SECRETS_DIR", "").strip()
    store = environ.get("NOETL_STORE", "").strip() or _DEFAULT_STORE
    folders = {"NOETL_SECRETS_DIR": Path(secrets)} if secrets else {}
    if store.startswith("sqlite:///"):
        folders["NOETL_STORE"] = Path(store.removeprefix("sqlite:///").partition("?")[0]).parent
    for setting, folder in folders.items():
        if _is_overlap(files_root, folder):
            message = (
                f"NOETL_FILES_ROOT is {files_root!r}, which overlaps with {str(folder)!r} of {setting};"
                " playbooks could read and delete these files: choose another folder."
            )
            raise SettingError(message)
    for name in _SYSTEM_FOLDERS:
        if _is_overlap(files_root, Path(name)):
            message = (
                f"NOETL_FILES_ROOT is {files_root!r}, which overlaps with {name!r}; playbooks could read"
                " the settings and devices of the machine: choose another folder."
            )
            raise SettingError(message)


def _is_overlap(files_root: str, folder: Path) -> bool:
    """Return whether one of two folders contains the other, or both are the same."""
    root, other = Path(files_root).resolve(), folder.resolve()
    return root.is_relative_to(other) or other.is_relative_to(root)


def allowed_actions(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the action types in `NOETL_ALLOW_ACTIONS`. None means that all are allowed: `*`, or no setting.

    Raises:
        SettingError: the setting has commas only, or `*` and types. It must not allow all types by mistake.
    """
    text, words = environ.get(ACTIONS_SETTING, "").strip(), _words(environ, ACTIONS_SETTING)
    if text in ("", _ALL_ACTIONS):
        return None
    if not words or _ALL_ACTIONS in words:
        expected = f"action types, separated by commas, or `{_ALL_ACTIONS}` for all"
        raise SettingError(f"{ACTIONS_SETTING} is {text!r}; it must be {expected}.")
    return words


def _words(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word for part in environ.get(name, "").split(",") if (word := part.strip()))


def _network(word: str) -> str:
    try:
        return str(ipaddress.ip_network(word))
    except ValueError as error:
        raise SettingError(f"NOETL_ALLOW_NETWORKS: {error}.") from None


@cache
def _working_folder() -> Path:
    """Create the temporary working folder of this process, which is removed when the process exits."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="noetl-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
