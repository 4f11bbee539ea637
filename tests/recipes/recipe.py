"""Recipes of CONTRIBUTING.md: what their pages tell a reader to write, edit and run.

CONTRIBUTING.md has a table with a row for each recipe: a link to its page, and the files that change. A word
in capitals stands for a name, as in `executor/actions/TYPE.py`. A page is read from top to bottom:

- A fenced block with a title, ```` ```python title="executor/actions/greet.py" ````, is a new file.
- A block ```` ```diff title="docs/reference/actions.md" ```` is an edit of a file. It has no line numbers:
  its old lines, those that begin with a blank or `-`, must occur exactly once in the file.
- A ```` ```console ```` block has commands and their output, as on all pages (`tests/docs/console.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.docs.console import TITLE, ConsoleCommand, parse_commands, read_fences

CONTRIBUTING = "CONTRIBUTING.md"
ROW = re.compile(
    r"^\| \[(?P<title>[^\]]+)\]\((?P<page>docs/how-to/add-[\w-]+\.md)\) \|(?P<files>.*)\|$", re.MULTILINE
)
PLACEHOLDER = re.compile(r"(?<![A-Za-z])[A-Z]{3,}(?![A-Za-z])")


class RecipeError(Exception):
    """A step of a recipe that cannot be performed, or that does not have the result of the page."""


class NewFile(NamedTuple):
    """A block that is a new file."""

    line: int
    path: str
    text: str


class FileEdit(NamedTuple):
    """A block that replaces lines of a file."""

    line: int
    path: str
    old: str
    new: str


class CommandBlock(NamedTuple):
    """A block of commands with their output."""

    line: int
    commands: tuple[ConsoleCommand, ...]


RecipeStep = NewFile | FileEdit | CommandBlock


@dataclass(frozen=True)
class Recipe:
    """A row of the table: the page of the recipe, and the files that change."""

    title: str
    page: str
    files: tuple[str, ...]

    def steps(self, root: Path) -> list[RecipeStep]:
        """Return the steps of the page in their order."""
        return list(parse_steps((root / self.page).read_text("utf-8"), self.page))

    def covers(self, path: str) -> bool:
        """Return whether the row lists a file."""
        return any(pattern_of(file).fullmatch(path) for file in self.files)

    def unused(self, paths: Iterable[str]) -> list[str]:
        """Return the files of the row that are none of `paths`."""
        changed = tuple(paths)
        return [file for file in self.files if not any(map(pattern_of(file).fullmatch, changed))]


def read_recipes(root: Path) -> list[Recipe]:
    """Return the recipes of a checkout in the order of the table."""
    table = (root / CONTRIBUTING).read_text("utf-8")
    return [
        Recipe(row["title"], row["page"], tuple(re.findall(r"`([^`]+)`", row["files"])))
        for row in ROW.finditer(table)
    ]


def recipe_pages(root: Path) -> frozenset[Path]:
    """Return the pages of the recipes of a checkout."""
    return frozenset(root / recipe.page for recipe in read_recipes(root))


def find_open_recipes(root: Path) -> frozenset[Path]:
    """Return the pages of the recipes that are not performed in a checkout: what they add does not exist."""
    return frozenset(
        root / recipe.page
        for recipe in read_recipes(root)
        if not all((root / step.path).exists() for step in recipe.steps(root) if isinstance(step, NewFile))
    )


def pattern_of(file: str) -> re.Pattern[str]:
    """Return a pattern of the paths that a file of the table stands for.

    >>> bool(pattern_of("tests/test_TYPE_action.py").fullmatch("tests/test_greet_action.py"))
    True
    >>> bool(pattern_of("tests/golden/CODE/NAME.yaml").fullmatch("tests/golden/NP102/twice.yaml"))
    True
    """
    return re.compile(r"[\w-]+".join(map(re.escape, PLACEHOLDER.split(file))))


def parse_steps(text: str, page: str) -> Iterator[RecipeStep]:
    """Yield the steps of a page."""
    for line, info, block in read_fences(text, page):
        language, title = info.split(" ")[0], TITLE.search(info)
        if language == "console":
            yield CommandBlock(line, tuple(parse_commands(line, block, page)))
        elif title and language == "diff":
            yield FileEdit(line, title[1], _side(block, "-"), _side(block, "+"))
        elif title:
            yield NewFile(line, title[1], "".join(f"{row}\n" for row in block))


def _side(block: Iterable[str], sign: str) -> str:
    """Return the lines of a diff without those that begin with the other sign. An empty line is context."""
    return "".join(f"{row[1:]}\n" for row in block if row[:1] in {"", " ", sign})


def write_file(root: Path, step: NewFile) -> None:
    """Write a new file.

    Raises:
        RecipeError: the file exists.
    """
    path = root / step.path
    if path.exists():
        raise RecipeError(f"`{step.path}` exists already: choose another name for the example")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(step.text, "utf-8")


def edit_file(root: Path, step: FileEdit) -> None:
    """Replace the old lines of an edit by the new ones.

    Raises:
        RecipeError: the file does not have the old lines exactly once.
    """
    path = root / step.path
    if not path.exists():
        raise RecipeError(f"`{step.path}` does not exist: name the file that the block edits")
    lines, old = path.read_text("utf-8").splitlines(keepends=True), step.old.splitlines(keepends=True)
    places = [start for start in range(len(lines)) if old and lines[start : start + len(old)] == old]
    if len(places) != 1:
        raise RecipeError(
            f"`{step.path}` has the old lines of the block {len(places)} times:"
            " copy lines from the file that occur there once"
        )
    lines[places[0] : places[0] + len(old)] = [step.new]
    path.write_text("".join(lines), "utf-8")
