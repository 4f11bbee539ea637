"""Search for the files that match a glob pattern.

Problem: a backtracking search reads a folder once for each way in which the pattern reaches it. With several
`**` that takes exponential time.

Algorithm: simulation of a nondeterministic finite automaton (Thompson 1968). A state is the index of the
next part of the pattern. Each folder is read once, with all states in which the pattern reaches it.

Cost: number of visited entries times number of parts of the pattern.

Limits: the search itself has none. It calls `check` for each entry, which may raise an exception to stop it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_ANY_DEPTH = "**"
_WILDCARD = re.compile(r"[*?\[]")


def find_files(root: Path, parts: tuple[str, ...], check: Callable[[], object]) -> Iterator[Path]:
    """Yield the files below `root` that match the parts of a pattern, in no particular order.

    `check` is called for every entry. `**` stands for any number of folders; as the last part it also matches
    the files below them. `**` does not follow symbolic links to folders.
    """
    pending = [(root, _skip_empty_matches(parts, {0}))]
    while pending:
        folder, states = pending.pop()
        for name, is_folder, is_link in _read_entries(folder, [parts[state] for state in states], check):
            matched = {
                state + 1 for state in states if parts[state] != _ANY_DEPTH and _matches(name, parts[state])
            }
            any_depth = {state for state in states if parts[state] == _ANY_DEPTH}
            if not is_folder:
                if len(parts) in matched or len(parts) - 1 in any_depth:
                    yield folder / name
            else:
                following = matched if is_link else matched | any_depth
                if inner_states := _skip_empty_matches(parts, following - {len(parts)}):
                    pending.append((folder / name, inner_states))


def _skip_empty_matches(parts: tuple[str, ...], states: set[int]) -> frozenset[int]:
    """Return the epsilon closure of `states`: `**` may match nothing, except as the last part."""
    closure = set(states)
    for state in range(len(parts) - 1):
        if state in closure and parts[state] == _ANY_DEPTH:
            closure.add(state + 1)
    return frozenset(closure)


def _read_entries(
    folder: Path, parts: Iterable[str], check: Callable[[], object]
) -> Iterator[tuple[str, bool, bool]]:
    """Yield name, is_folder and is_link of the entries that may match one of the parts.

    A folder that cannot be read has no entries. A folder is not read if no part has a wildcard.
    """
    names = set(parts)
    with suppress(OSError):
        if not any(_WILDCARD.search(name) for name in names):
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


def _matches(name: str, part: str) -> bool:
    return _compile(part).fullmatch(name) is not None if _WILDCARD.search(part) else name == part


@lru_cache(maxsize=256)
def _compile(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))
