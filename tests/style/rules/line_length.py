"""Lines of Python, SQL, YAML and TOML have at most 110 characters.

A line whose length is due to a URL is allowed. The playbooks of tests are fixtures and are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import Repository

MOST_CHARACTERS = 110
SUFFIXES = {".py", ".sql", ".yaml", ".yml", ".toml"}


def find(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each line that is too long."""
    for file in repository.files:
        is_fixture = file.is_test and file.suffix != ".py"
        if file.suffix not in SUFFIXES or is_fixture:
            continue
        for number, line in enumerate(file.text.split("\n"), 1):
            if len(line) > MOST_CHARACTERS and "://" not in max(line.split(), key=len):
                problem = f"line of {len(line)} characters (at most {MOST_CHARACTERS})"
                yield StyleViolation(file.path, number, problem, file.path)


RULE = StyleRule("line-length", find, "wrap the line")
