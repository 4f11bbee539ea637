"""Allow-lists: the violations that may remain. They only shrink.

An entry is `key` or `key count` on a line of `allowed/<rule>.txt`. Lines that start with `#` are comments.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.style.rule import StyleRule, StyleViolation

FOLDER = Path(__file__).parent / "allowed"
HEADER = "# Violations of this rule that may remain. Entries are only removed or lowered.\n"


def path_of(rule: StyleRule, folder: Path = FOLDER) -> Path:
    """Return the path of the allow-list of `rule`."""
    return folder / f"{rule.name}.txt"


def read(path: Path) -> dict[str, int]:
    """Return the entries of the allow-list at `path`: key -> allowed violations. A missing file has none."""
    if not path.exists():
        return {}
    entries: dict[str, int] = {}
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            key, *count = line.split()
            entries[key] = int(count[0]) if count else 1
    return entries


def compare(rule: StyleRule, violations: Iterable[StyleViolation], allowed: Mapping[str, int]) -> list[str]:
    """Return the messages about violations beyond `allowed`, and about entries that allow too much."""
    groups: dict[str, list[StyleViolation]] = defaultdict(list)
    for violation in violations:
        groups[violation.key].append(violation)
    messages: list[str] = []
    for key, group in groups.items():
        if len(group) > allowed.get(key, 0):
            messages += map(str, group)
            if key in allowed:
                messages.append(f"{key}: {len(group)} violations, {allowed[key]} allowed")
    if messages:
        messages.append(f"help: {rule.fix}")
    list_name = f"tests/style/allowed/{rule.name}.txt"
    for key, count in allowed.items():
        if key not in groups:
            messages.append(f"{list_name}: remove this entry: {key}")
        elif len(groups[key]) < count:
            messages.append(f"{list_name}: lower to {len(groups[key])}: {key}")
    if messages and messages[-1].startswith(list_name):
        messages.append("help: run `python -m tests.style --update`")
    return messages


def shrink(path: Path, violations: Iterable[StyleViolation]) -> None:
    """Remove and lower entries of the allow-list at `path` that allow more than `violations`."""
    counts = Counter(violation.key for violation in violations)
    if path.exists():
        lines = path.read_text("utf-8").splitlines()
        path.write_text("".join(_shrunk(line, counts) for line in lines), "utf-8")


def create(path: Path, violations: Iterable[StyleViolation]) -> bool:
    """Write an allow-list of all `violations`. Refuse to raise the total of a list that exists."""
    counts = Counter(violation.key for violation in violations)
    if path.exists() and counts.total() > sum(read(path).values()):
        return False
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEADER + "".join(_entry(key, counts[key]) for key in sorted(counts)), "utf-8")
    return True


def _shrunk(line: str, counts: Mapping[str, int]) -> str:
    if line.startswith("#") or not line.strip():
        return f"{line}\n"
    key, *count = line.split()
    remaining = min(int(count[0]) if count else 1, counts.get(key, 0))
    return _entry(key, remaining) if remaining else ""


def _entry(key: str, count: int) -> str:
    return f"{key}\n" if count == 1 else f"{key} {count}\n"
