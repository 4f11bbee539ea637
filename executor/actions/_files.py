"""Access to the files below the allowed folder. Symbolic links are resolved, so none leads outside.

A folder that `NOETL_TRIGGER_SOURCES` gives to a tenant is for its runs only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from uuid import uuid4

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.security.allowed_sources import SOURCES_SETTING, AllowedSources
from noetl.executor.security.capabilities import Capabilities
from noetl.planner.diagnostics.wording import shorten
from noetl.planner.frozen import frozen

MAX_PATH_LENGTH = 4_096
"""Limit of the characters of a path. Linux limits it to as many bytes."""

MAX_PATH_PARTS = 200
"""Limit of the names of a path. Each missing folder is created by a call within that of the next one."""

MAX_SHOWN_PATH = 1_000
"""How many characters of a path an error shows."""


def allowed_folder(capabilities: Capabilities, feature: str) -> Path:
    """Return the allowed folder without symbolic links.

    Raises:
        ActionError: `ActionDisabled` with the name of the feature, if no folder is allowed.
    """
    root = capabilities.files_root
    if root is None:
        message = f"{feature} is disabled: set NOETL_FILES_ROOT to the folder that playbooks may use"
        raise ActionError("ActionDisabled", message, retryable=False)
    return root.resolve()


@frozen
class TenantFiles:
    """The files below the allowed folder `root` that the runs of a tenant may use."""

    root: Path
    tenant: str
    sources: AllowedSources

    @classmethod
    def of_call(cls, call: Call, feature: str) -> TenantFiles:
        """Return the files that a call may use.

        Raises:
            ActionError: `ActionDisabled` with the name of the feature, if no folder is allowed.
        """
        root = allowed_folder(call.capabilities, feature)
        return cls(root, call.tenant, call.capabilities.trigger_sources)

    def resolve(self, path: str) -> Path:
        """Return the path below `root` without symbolic links.

        Raises:
            ActionError: the path is invalid, leads outside of `root`, or to the folder of another tenant.
        """
        target = resolve_path(self.root, path)
        self.check(target, path)
        return target

    def check(self, target: Path, path: str) -> None:
        """Raise `AccessDenied` for a resolved path to the folder of another tenant.

        Messages call it `path`.
        """
        if not self.include(target):
            shown = shorten(path, MAX_SHOWN_PATH)
            message = f"`{shown}` is in the folder of another tenant's triggers ({SOURCES_SETTING})"
            raise ActionError("AccessDenied", message, retryable=False)

    def include(self, target: Path) -> bool:
        """Return whether the tenant may use a resolved path below `root`."""
        relative = PurePosixPath(target.relative_to(self.root).as_posix())
        return not self.sources.path_belongs_to_others(self.tenant, relative)


def check_path(path: str, noun: str = "path") -> None:
    """Raise `FileError` for a path that no file can have, before work is done for each part of it."""
    if len(path) > MAX_PATH_LENGTH:
        raise file_error(path, f"the {noun} is longer than {MAX_PATH_LENGTH:,} characters")
    if path.count("/") >= MAX_PATH_PARTS:
        raise file_error(path, f"the {noun} has more than {MAX_PATH_PARTS} names")
    if "\0" in path or not is_encodable(path):
        shown = path[:MAX_SHOWN_PATH].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
        raise file_error(shown, "invalid path")


def is_encodable(path: str) -> bool:
    """Return whether a file system can have the characters of a path: no half of a surrogate pair."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return False
    return True


def resolve_path(root: Path, path: str) -> Path:
    """Return the path below `root` without symbolic links.

    Raises:
        ActionError: the path is invalid or leads outside of `root`.
    """
    check_path(path)
    try:
        target = (root / path).resolve()
    except (ValueError, RuntimeError, OSError):
        raise file_error(path, "invalid path") from None
    if target.is_symlink():
        # Python 3.13 returns a link to itself unchanged. Earlier versions raise an error.
        raise file_error(path, "invalid path")
    if not path or not target.is_relative_to(root):
        raise outside_error(path)
    return target


@contextmanager
def open_for_reading(target: Path, path: str) -> Iterator[BinaryIO]:
    """Open a file. Error messages call it `path`.

    Raises:
        ActionError: it is not a regular file.
        OSError: it cannot be opened.
    """
    # In blocking mode, opening a pipe would wait for a writer.
    with os.fdopen(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        check_regular_file(file.fileno(), path)
        yield file


def check_regular_file(descriptor: int, path: str) -> None:
    """Raise `FileError` unless an open file is a regular one, and none of the kernel, such as of /proc."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_dev in _kernel_devices():
        raise file_error(path, "not a file")


@cache
def _kernel_devices() -> frozenset[int]:
    """Return the devices of the file systems /proc and /sys, which other mounts of them have too."""
    folders = (Path(name) for name in ("/proc", "/sys"))
    return frozenset(folder.stat().st_dev for folder in folders if folder.is_mount())


@contextmanager
def replace_file(target: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `target` at the end of the block.

    Readers see the old content or the new content, never a part. An error leaves the old file unchanged.

    Raises:
        OSError: the file cannot be written, or `target` is a folder.
    """
    if target.is_dir():
        # The temporary file of the allowed folder itself would be outside of it.
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    temporary = target.with_name(f".{uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def file_error(path: str, problem: str) -> ActionError:
    """Return a `FileError` for `path`."""
    return ActionError("FileError", f"`{shorten(path, MAX_SHOWN_PATH)}`: {problem}", retryable=False)


def os_file_error(path: str, error: OSError) -> ActionError:
    """Return a `FileError` for an error of the operating system."""
    return file_error(path, (error.strerror or str(error)).lower())


def outside_error(path: str) -> ActionError:
    """Return the error for a path that leads outside of the allowed folder."""
    return file_error(path, "outside the folder that playbooks may use")
