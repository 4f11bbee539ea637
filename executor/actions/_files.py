"""The files that playbooks may touch: those below one allowed folder, wherever links lead."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import Capabilities


def allowed_folder(capabilities: Capabilities, what: str) -> Path:
    """The folder, with every link followed.

    Raises:
        ActionError: `ActionDisabled`, which says of what: there is none.
    """
    root = capabilities.files_root
    if root is None:
        message = f"{what} is off here: NOETL_FILES_ROOT names the folder that playbooks may use"
        raise ActionError("ActionDisabled", message, retryable=False)
    return root.resolve()


def inside(root: Path, path: str) -> Path:
    """Where a path leads once every link is followed.

    Raises:
        ActionError: that is not below the root.
    """
    try:
        target = (root / path).resolve()
    except (ValueError, RuntimeError, OSError):
        raise failed(path, "it is not a path") from None
    if target.is_symlink():
        # Python 3.13 leaves a link that leads to itself as it is, where earlier versions raised.
        raise failed(path, "it is not a path")
    if not path or not target.is_relative_to(root):
        raise outside(path)
    return target


@contextmanager
def reader(target: Path, path: str) -> Iterator[BinaryIO]:
    """The file, open for reading; `path` is what errors call it.

    Raises:
        ActionError: it is not a file.
        OSError: it cannot be opened.
    """
    # Non-blocking, so that a pipe without a writer cannot hold the step.
    with os.fdopen(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise failed(path, "it is not a file")
        yield file


@contextmanager
def replacement(target: Path) -> Iterator[BinaryIO]:
    """What is written becomes the file when all is on the disk: a reader sees the old one or the new one, never a part.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
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


def failed(path: str, reason: str) -> ActionError:
    return ActionError("FileError", f"`{path}`: {reason}", retryable=False)


def of_system(path: str, error: OSError) -> ActionError:
    return failed(path, (error.strerror or str(error)).lower())


def outside(path: str) -> ActionError:
    return failed(path, "it is outside the folder that playbooks may use")
