"""Command line of the style rules.

    python -m tests.style [PATH ...]   print the violations below the paths, and counts of all
    python -m tests.style --update     remove and lower entries of the allow-lists that are not needed
    python -m tests.style --init       write the allow-lists anew; no total may rise

Without a path only the counts are printed. Give `.` for all violations.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from tests.style import allow_list
from tests.style.rule import StyleRule, StyleViolation
from tests.style.rules import RULES
from tests.style.source import load_repository, top_folder


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.style", description="Check the style rules.")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="print the violations below this path")
    parser.add_argument("--update", action="store_true", help="shrink the allow-lists")
    parser.add_argument("--init", action="store_true", help="write the allow-lists anew; no total may rise")
    options = parser.parse_args(arguments)
    violations = {rule: list(rule.find(load_repository())) for rule in RULES}
    if options.update:
        for rule in RULES:
            allow_list.shrink(allow_list.path_of(rule), violations[rule])
    status = _init(violations) if options.init else 0
    for rule in RULES:
        for violation in violations[rule]:
            if _is_below(violation.path, options.paths):
                print(f"{violation} [{rule.name}]")
    print_counts(violations)
    return status


def print_counts(violations: Mapping[StyleRule, Sequence[StyleViolation]]) -> None:
    """Print a table of the violations: a row for each rule, a column for each top folder."""
    folders = {rule.name: [top_folder(item.path) for item in group] for rule, group in violations.items()}
    counts = {name: Counter(group) for name, group in folders.items()}
    tops = sorted({top for counter in counts.values() for top in counter})
    width = max(map(len, counts))
    print(f"{'rule':{width}}", *(f"{top:>10}" for top in tops), f"{'all':>8}")
    for name, counter in counts.items():
        print(f"{name:{width}}", *(f"{counter[top]:10}" for top in tops), f"{counter.total():8}")


def _init(violations: Mapping[StyleRule, Sequence[StyleViolation]]) -> int:
    refused = [rule for rule in RULES if not allow_list.create(allow_list.path_of(rule), violations[rule])]
    for rule in refused:
        name = allow_list.path_of(rule).name
        print(f"{name}: too few entries for the violations; remove the file to accept them", file=sys.stderr)
    return bool(refused)


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)


if __name__ == "__main__":
    sys.exit(main())
