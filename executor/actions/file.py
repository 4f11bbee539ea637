"""`file`: the files below one allowed folder."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noetl.executor.actions._files import (
    allowed_folder,
    failed,
    inside,
    of_system,
    outside,
    reader,
    replacement,
)
from noetl.executor.actions._formats import (
    FORMATS,
    FormatError,
    columns,
    decode,
    encode,
    header_names,
    read_csv,
    write_csv,
)
from noetl.executor.actions._patterns import matching
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

MAX_BYTES = 256 * 1024 * 1024
MAX_FOUND = 1_000_000
"""How many files `list` finds."""

_LONGEST_PATTERN = 4_096

DECLARATION = ActionDeclaration(
    type="file",
    description="Reads, writes, lists or deletes files below the allowed folder.",
    parameters={
        "read": Parameter((Kind.STRING,), "The file to read."),
        "write": Parameter(
            (Kind.STRING,), "The file to write, at once and as a whole.", requires=("content",)
        ),
        "append": Parameter((Kind.STRING,), "The file to add to.", requires=("content",)),
        "list": Parameter((Kind.STRING,), "A pattern, such as `orders/*.csv` or `**/*.json`."),
        "delete": Parameter((Kind.STRING,), "The file to delete; one that is not there is no failure."),
        "content": Parameter((Kind.ANY,), "What to write."),
        "format": Parameter(
            (Kind.STRING,),
            "How the file is written: `text` unless given. A CSV header may say types: `amount:number,name`.",
            choices=FORMATS,
        ),
    },
    one_of=("read", "write", "append", "list", "delete"),
    idempotent=False,
    acts_twice=lambda parameters: "append" in parameters,
    result_of=lambda parameters: (
        {"path": Kind.STRING, "bytes": Kind.INTEGER}
        if "write" in parameters or "append" in parameters
        else None
    ),
)


def perform(call: Call) -> Any:
    root = allowed_folder(call.capabilities, "`file`")
    call.remaining_seconds()
    verb = next(verb for verb in _VERBS if verb in call.parameters)
    path = call.parameters[verb]
    try:
        return _VERBS[verb](root, path, call)
    except FormatError as error:
        raise failed(path, str(error)) from None
    except OSError as error:
        raise of_system(path, error) from None


def _read(root: Path, path: str, call: Call) -> Any:
    target = inside(root, path)
    format = call.parameters.get("format", "text")
    if format != "csv":
        return decode(_text(target, path), format)
    # Row by row: the text of a whole file would lie in memory beside what it says.
    with reader(target, path) as file:
        _check_length(os.fstat(file.fileno()).st_size, path)
        try:
            with io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
                return read_csv(lines, call.remaining_seconds)
        except UnicodeDecodeError:
            raise failed(path, "it is not UTF-8") from None


def _write(root: Path, path: str, call: Call) -> dict[str, Any]:
    target = inside(root, path)
    raw = _encoded(encode(call.parameters["content"], call.parameters.get("format", "text")))
    with replacement(target) as file:
        file.write(raw)
    return _written(root, target, len(raw))


def _append(root: Path, path: str, call: Call) -> dict[str, Any]:
    target = inside(root, path)
    raw = _encoded(_addition(target, path, call.parameters["content"], call.parameters.get("format", "text")))
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(
        target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666
    )
    with os.fdopen(descriptor, "ab") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise failed(path, "it is not a file")
        file.write(raw)
    return _written(root, target, len(raw))


def _addition(target: Path, path: str, content: Any, format: str) -> str:
    """The text to add: of CSV, rows in the columns that the file has, or with a header where it has none."""
    if format == "json":
        raise FormatError("nothing can be added to a JSON document: use `format: jsonl`")
    if format != "csv" or not target.exists():
        return encode(content, format)
    there = _text(target, path)
    names = header_names(there)
    if not names:
        return encode(content, format)
    if unknown := [name for name in columns(content) if name not in names]:
        raise FormatError(f"it has no column {unknown[0]!r}")
    break_ = "" if there.endswith("\n") else "\n"
    return break_ + write_csv(content, names, header=False)


def _list(root: Path, pattern: str, call: Call) -> list[str]:
    relative = Path(pattern)
    if relative.is_absolute():
        if not relative.is_relative_to(root):
            raise outside(pattern)
        relative = relative.relative_to(root)
    if ".." in relative.parts:
        raise outside(pattern)
    if not relative.parts:
        raise failed(pattern, "it is not a pattern")
    if len(pattern) > _LONGEST_PATTERN:
        raise failed(pattern[:100], f"a pattern is at most {_LONGEST_PATTERN:,} characters long")
    found = []
    for path in matching(root, relative.parts, call.remaining_seconds):
        if path.is_file() and path.resolve().is_relative_to(root):
            found.append(path.relative_to(root).as_posix())
            if len(found) > MAX_FOUND:
                raise ActionError(
                    "LimitExceeded", f"there are more than {MAX_FOUND:,} files", retryable=False
                )
    return sorted(found)


def _delete(root: Path, path: str, call: Call) -> dict[str, Any]:
    # The link goes, not what it points to; a repeat after a crash finds nothing and is content.
    parent = inside(root, str(Path(path).parent))
    target = parent / Path(path).name
    if target.is_dir() and not target.is_symlink():
        raise failed(path, "it is a folder")
    size = target.lstat().st_size if target.is_symlink() or target.exists() else 0
    target.unlink(missing_ok=True)
    return _written(root, target, size)


_VERBS: dict[str, Callable[[Path, str, Call], Any]] = {
    "read": _read,
    "write": _write,
    "append": _append,
    "list": _list,
    "delete": _delete,
}


def _text(target: Path, path: str) -> str:
    with reader(target, path) as file:
        raw = file.read(MAX_BYTES + 1)
    _check_length(len(raw), path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise failed(path, "it is not UTF-8") from None


def _check_length(length: int, path: str) -> None:
    if length > MAX_BYTES:
        raise ActionError("LimitExceeded", f"`{path}` is longer than {MAX_BYTES:,} bytes", retryable=False)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise FormatError("it has half of a surrogate pair in it") from None


def _written(root: Path, target: Path, size: int) -> dict[str, Any]:
    return {"path": target.relative_to(root).as_posix(), "bytes": size}
