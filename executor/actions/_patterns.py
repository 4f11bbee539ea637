"""The files that a pattern finds. A folder is read once, however many ways a pattern has into it."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_ANY_DEPTH = "**"
_MAGIC = re.compile(r"[*?\[]")


def matching(root: Path, parts: tuple[str, ...], check: Callable[[], object]) -> Iterator[Path]:
    """The files below `root` that the parts of a pattern find, in no order; `check` is called for every entry on the way.

    `**` stands for any number of folders, as the last part for any file below them, and follows no link to a folder.
    """
    # What is left of the pattern is told by the indexes of the parts that may come next.
    pending = [(root, _opened(parts, {0}))]
    while pending:
        folder, nexts = pending.pop()
        for name, is_folder, is_link in _entries(folder, [parts[at] for at in nexts], check):
            passed = {at + 1 for at in nexts if parts[at] != _ANY_DEPTH and _fits(name, parts[at])}
            deep = {at for at in nexts if parts[at] == _ANY_DEPTH}
            if not is_folder:
                if len(parts) in passed or len(parts) - 1 in deep:
                    yield folder / name
            elif inside := _opened(parts, (passed if is_link else passed | deep) - {len(parts)}):
                pending.append((folder / name, inside))


def _opened(parts: tuple[str, ...], indexes: set[int]) -> frozenset[int]:
    """The indexes and those behind each `**`, which may stand for nothing."""
    found = set(indexes)
    for index in range(len(parts) - 1):
        if index in found and parts[index] == _ANY_DEPTH:
            found.add(index + 1)
    return frozenset(found)


def _entries(
    folder: Path, wanted: Iterable[str], check: Callable[[], object]
) -> Iterator[tuple[str, bool, bool]]:
    """The entries of a folder that may be wanted: their names, whether they are folders, and whether they are links."""
    names = set(wanted)
    # What cannot be read has no entries.
    with suppress(OSError):
        if not any(_MAGIC.search(name) for name in names):
            for name in names:
                check()
                path = folder / name
                if path.exists():
                    yield name, path.is_dir(), path.is_symlink()
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                check()
                with suppress(OSError):
                    yield entry.name, entry.is_dir(), entry.is_symlink()


def _fits(name: str, part: str) -> bool:
    return _expression(part).fullmatch(name) is not None if _MAGIC.search(part) else name == part


@lru_cache(maxsize=256)
def _expression(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))
