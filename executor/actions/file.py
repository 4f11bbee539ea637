"""`file`: read, write, list and delete files below the allowed folder."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noetl.executor.actions._files import (
    MAX_SHOWN_PATH,
    TenantFiles,
    check_path,
    check_regular_file,
    file_error,
    open_for_reading,
    os_file_error,
    outside_error,
    replace_file,
    resolve_path,
)
from noetl.executor.actions._formats import (
    ESCAPE_FORMULAS,
    FORMATS,
    FormatError,
    column_names,
    decode,
    encode,
    encode_content,
    encode_rows,
    escape_formulas,
    read_csv,
    read_header,
)
from noetl.executor.actions._glob import find_files
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import POINTER_BYTES, ArrivingData
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.diagnostics.wording import quote_text, shorten

MAX_BYTES = 256 * 1024 * 1024
MAX_FILES = 1_000_000
"""Limit of the files that `list` returns."""

_OPERATION_NAMES = ("read", "write", "append", "list", "delete")

DECLARATION = ActionDeclaration(
    type="file",
    description="Reads, writes, lists or deletes files below the allowed folder.",
    parameters={
        "read": Parameter((Kind.STRING,), "The file to read."),
        "write": Parameter((Kind.STRING,), "The file to replace, atomically.", requires=("content",)),
        "append": Parameter((Kind.STRING,), "The file to append to.", requires=("content",)),
        "list": Parameter((Kind.STRING,), "A glob pattern, such as `orders/*.csv` or `**/*.json`."),
        "delete": Parameter((Kind.STRING,), "The file to delete. A missing file is not an error."),
        "content": Parameter((Kind.ANY,), "The content to write."),
        "format": Parameter(
            (Kind.STRING,),
            "The format of the file. Default: `text`. A CSV header may contain types: `amount:number,name`.",
            choices=FORMATS,
        ),
        "escape_formulas": ESCAPE_FORMULAS,
    },
    one_of=_OPERATION_NAMES,
    summary=lambda parameters: next((name for name in _OPERATION_NAMES if name in parameters), ""),
    idempotent=False,
    idempotent_when=lambda parameters: "append" not in parameters,
    reads_only_when=lambda parameters: "read" in parameters or "list" in parameters,
    result_for=lambda parameters: (
        {"path": Kind.STRING, "bytes": Kind.INTEGER}
        if "write" in parameters or "append" in parameters
        else None
    ),
)


def perform(call: Call) -> Any:
    files = TenantFiles.of_call(call, "`file`")
    call.remaining_seconds()
    operation = next(name for name in _OPERATIONS if name in call.parameters)
    path = call.parameters[operation]
    check_path(path, "pattern" if operation == "list" else "path")
    try:
        return _OPERATIONS[operation](files, path, call)
    except FormatError as error:
        raise file_error(path, str(error)) from None
    except OSError as error:
        raise os_file_error(path, error) from None


def _read(files: TenantFiles, path: str, call: Call) -> Any:
    target = files.resolve(path)
    format = call.parameters.get("format", "text")
    with call.receive() as arriving, open_for_reading(target, path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_size(size, path)
        # The bytes and their text exist at the same time.
        arriving.hold(2 * size)
        if format != "csv":
            text = _decode_utf8(file.read(MAX_BYTES + 1), path)
            return decode(
                text, format, lambda weight: arriving.hold(2 * size + weight), call.remaining_seconds
            )
        # Read by row, so that the text and its rows are not in memory at the same time.
        try:
            with io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
                return read_csv(lines, call.remaining_seconds, reserve=arriving.hold)
        except UnicodeDecodeError:
            raise file_error(path, "not UTF-8") from None


def _write(files: TenantFiles, path: str, call: Call) -> dict[str, Any]:
    target = files.resolve(path)
    data = encode_content(call.parameters)
    call.count_written(len(data))
    with replace_file(target) as file:
        file.write(data)
    return _result(files.root, target, len(data))


def _append(files: TenantFiles, path: str, call: Call) -> dict[str, Any]:
    target = files.resolve(path)
    format = call.parameters.get("format", "text")
    content = escape_formulas(call.parameters)
    with call.receive() as arriving:
        data = _encode_appended(target, path, content, format, arriving)
    call.count_written(len(data))
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(target, flags, 0o666)
    with os.fdopen(descriptor, "ab") as file:
        check_regular_file(descriptor, path)
        file.write(data)
    return _result(files.root, target, len(data))


def _encode_appended(target: Path, path: str, content: Any, format: str, arriving: ArrivingData) -> bytes:
    """Return the text to append. CSV rows get the columns of the file, or a header if it has none."""
    if format == "json":
        raise FormatError("cannot append to a JSON document: use `format: jsonl`")
    if format != "csv" or not target.exists():
        return encode(content, format)
    existing_text = _read_text(target, path, arriving)
    names = read_header(existing_text)
    if not names:
        return encode(content, format)
    known = set(names)
    if unknown := [name for name in column_names(content) if name not in known]:
        raise FormatError(f"unknown column {quote_text(unknown[0])}")
    line_break = b"" if existing_text.endswith("\n") else b"\n"
    return line_break + encode_rows(content, names)


def _list(files: TenantFiles, pattern: str, call: Call) -> list[str]:
    root, relative = files.root, Path(pattern)
    if relative.is_absolute():
        if not relative.is_relative_to(root):
            raise outside_error(pattern)
        relative = relative.relative_to(root)
    if ".." in relative.parts:
        raise outside_error(pattern)
    if not relative.parts:
        raise file_error(pattern, "not a pattern")
    paths: list[str] = []
    with call.receive() as arriving:
        for path in find_files(root, relative.parts, call.remaining_seconds):
            if path.is_file() and (target := path.resolve()).is_relative_to(root) and files.include(target):
                paths.append(path.relative_to(root).as_posix())
                # The list and its sorted copy exist at the same time.
                arriving.keep(sys.getsizeof(paths[-1]) + 2 * POINTER_BYTES)
                if len(paths) > MAX_FILES:
                    message = f"the pattern matches more than {MAX_FILES:,} files"
                    raise ActionError("LimitExceeded", message, retryable=False)
        return sorted(paths)


def _delete(files: TenantFiles, path: str, call: Call) -> dict[str, Any]:
    # Delete a link instead of its target. A repeat after a crash finds no file and succeeds.
    target = resolve_path(files.root, str(Path(path).parent)) / Path(path).name
    files.check(target, path)
    if target.is_dir() and not target.is_symlink():
        raise file_error(path, "is a folder")
    size = target.lstat().st_size if target.is_symlink() or target.exists() else 0
    target.unlink(missing_ok=True)
    return _result(files.root, target, size)


_OPERATIONS: dict[str, Callable[[TenantFiles, str, Call], Any]] = {
    "read": _read,
    "write": _write,
    "append": _append,
    "list": _list,
    "delete": _delete,
}


def _read_text(target: Path, path: str, arriving: ArrivingData) -> str:
    with open_for_reading(target, path) as file:
        arriving.hold(2 * min(os.fstat(file.fileno()).st_size, MAX_BYTES))
        data = file.read(MAX_BYTES + 1)
    return _decode_utf8(data, path)


def _decode_utf8(data: bytes, path: str) -> str:
    _check_size(len(data), path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise file_error(path, "not UTF-8") from None


def _check_size(size: int, path: str) -> None:
    if size > MAX_BYTES:
        raise ActionError(
            "LimitExceeded",
            f"`{shorten(path, MAX_SHOWN_PATH)}` is longer than {MAX_BYTES:,} bytes",
            retryable=False,
        )


def _result(root: Path, target: Path, size: int) -> dict[str, Any]:
    return {"path": target.relative_to(root).as_posix(), "bytes": size}
