"""Performance of recipes in a scratch clone, and the gates that must be green afterwards.

The clone has the files of the checkout, uncommitted changes of tracked files included. Each recipe is
performed on the files that the recipes before it have left, because the gates take a minute, however many
recipes they check. Programs are those of the environment that runs this module.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.docs.console import BashSession, play
from tests.recipes.recipe import (
    CommandBlock,
    FileEdit,
    NewFile,
    Recipe,
    RecipeError,
    RecipeStep,
    edit_file,
    read_recipes,
    write_file,
)

SHOWN_LINES = 25
BINARIES = Path(sys.executable).parent
IDENTITY = ("-c", "user.name=recipes", "-c", "user.email=recipes@example.com")
PYTEST = ("pytest", "-q", "-n", "auto", "--dist", "loadgroup", "-p", "no:cacheprovider")
"""With groups, one worker reads the repository for all rules of style, and another builds the site."""

TESTS = (
    "tests/style",
    "tests/docs",
    "--ignore=tests/docs/test_console_blocks.py",
    "--ignore=tests/style/test_commit_messages.py",
)
"""Tests that the recipes must leave green: they read the whole repository.

Those that play other pages or test the git hook are left out: they take long, and no recipe changes them.
"""

GOLDEN = (
    "tests/golden/test_golden.py",
    "tests/golden/test_commands.py::test_the_output_of_a_wrong_command_is_unchanged[unknown_code]",
)
"""The reports of all diagnostics, and the command that compares a word with all codes."""

TESTS_OF_PAGES: Mapping[str, tuple[str, ...]] = {
    "docs/how-to/add-an-action.md": (
        "tests/executor/actions/test_catalogue.py",
        *GOLDEN,
        "tests/planner/test_check_actions.py",
        "tests/planner/test_action_declarations.py",
        "tests/test_imports.py",
        "tests/testing",
    ),
    "docs/how-to/add-a-check.md": (*GOLDEN, "tests/planner/test_compile.py", "tests/patterns"),
    "docs/how-to/add-a-message.md": (*GOLDEN, "tests/planner/test_compile.py"),
    "docs/how-to/add-a-store.md": ("tests/test_imports.py", "tests/contract/test_named.py"),
    "docs/how-to/add-a-command.md": ("tests/api/cli/test_commands.py", "tests/test_imports.py"),
    "docs/how-to/add-a-route.md": (
        "tests/api/test_http_app.py",
        "tests/api/test_http_auth.py",
        "tests/api/test_schemas.py",
        "tests/test_imports.py",
    ),
}
"""Further tests of each recipe: those that read a list of everything of its kind."""


@dataclass(frozen=True)
class PageGate:
    """A command that must succeed after the recipes, and what to do if it does not."""

    command: tuple[str, ...]
    fix: str
    folder: str = "."


GATES = (
    PageGate(("ruff", "format", "--check", "."), "format the code of the page as `ruff format` does"),
    PageGate(("ruff", "check", "."), "correct the code of the page"),
    PageGate(("mypy",), "correct the types of the code of the page"),
    PageGate(
        ("lint-imports", "../../pyproject.toml"),
        "import only what the layers allow, or let the recipe edit pyproject.toml",
        folder=".venv/src",
    ),
)


def gates_of(recipes: Sequence[Recipe]) -> tuple[PageGate, ...]:
    """Return the gates of some recipes: those of all, and their tests."""
    fix = "let the recipe edit what the test reads; better: derive it from the new file"
    tests = dict.fromkeys(test for recipe in recipes for test in TESTS_OF_PAGES[recipe.page])
    return *GATES, PageGate((*PYTEST, *TESTS, *tests), fix)


@dataclass(frozen=True)
class Performance:
    """The result of a recipe, or of the gates: the files that changed, the problems and the duration."""

    title: str
    files: tuple[str, ...]
    problems: tuple[str, ...]
    seconds: float


class ScratchClone:
    """A clone of the checkout in which recipes are performed in order."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.root = folder / "clone"
        self._output = folder / "output"
        self._bytecode = folder / "bytecode"
        commit = _git(checkout, "stash", "create") or _git(checkout, "rev-parse", "HEAD")
        # With --shared, also the commit of `stash create` is available, which no branch holds.
        _git(folder, "clone", "--quiet", "--shared", "--no-checkout", str(checkout), str(self.root))
        _git(self.root, "checkout", "--quiet", "--detach", commit)
        # mypy and import-linter find the packages of `noetl` by this link, as in the Makefile.
        (self.root / ".venv" / "src").mkdir(parents=True)
        (self.root / ".venv" / "src" / "noetl").symlink_to("../..")
        if (cache := checkout / ".mypy_cache").is_dir():
            shutil.copytree(cache, self.root / ".mypy_cache")

    def perform(self, recipe: Recipe) -> Performance:
        """Perform a recipe on the files that the recipes before it have left. Commit what it changes."""
        started_at = time.monotonic()
        problems = list(self._perform_steps(recipe))
        files = self.changed_files()
        problems = problems or list(find_unlisted(recipe, files))
        _git(self.root, "add", "--all")
        _git(self.root, *IDENTITY, "commit", "--quiet", "--allow-empty", "--no-verify", "--message", "recipe")
        return Performance(recipe.title, files, tuple(problems), time.monotonic() - started_at)

    def run_gates(self, recipes: Sequence[Recipe]) -> Performance:
        """Run the gates of the recipes that were performed."""
        started_at = time.monotonic()
        problems = list(self._run_gates(gates_of(recipes)))
        files = self.changed_files()
        problems += (f"`{file}` changes while the gates run: let no check write it" for file in files)
        return Performance("gates", files, tuple(problems), time.monotonic() - started_at)

    def changed_files(self) -> tuple[str, ...]:
        """Return the files that are new or differ from the last commit."""
        status = _git(self.root, "status", "--porcelain", "--untracked-files=all")
        return tuple(line[3:] for line in status.splitlines())

    def _perform_steps(self, recipe: Recipe) -> Iterator[str]:
        with self._session() as session:
            for step in recipe.steps(self.root):
                try:
                    yield from self._perform_step(recipe, step, session)
                except RecipeError as error:
                    yield f"{recipe.page}:{step.line}: {error}"
                    return

    def _perform_step(self, recipe: Recipe, step: RecipeStep, session: BashSession) -> Iterator[str]:
        match step:
            case NewFile():
                write_file(self.root, step)
            case FileEdit():
                edit_file(self.root, step)
            case CommandBlock():
                for mismatch in play(step.commands, recipe.page, session):
                    yield f"{mismatch}\n  the output was:{_last_lines(mismatch.actual)}"

    @contextmanager
    def _session(self) -> Iterator[BashSession]:
        self._output.unlink(missing_ok=True)
        with BashSession(self.root, self._output, self._environ()) as session:
            yield session

    def _run_gates(self, gates: Sequence[PageGate]) -> Iterator[str]:
        for gate in gates:
            environ = self._environ()
            if gate.folder != ".":
                del environ["PYTHONPATH"]
            done = subprocess.run(
                [BINARIES / gate.command[0], *gate.command[1:]],
                cwd=self.root / gate.folder,
                env=environ,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                output = _last_lines((done.stdout + done.stderr).rstrip().splitlines())
                yield f"`{' '.join(gate.command)}` fails after the recipes:{output}\n  fix: {gate.fix}"

    def _environ(self) -> dict[str, str]:
        # Bytecode is always kept, next to the clone. So a program is compiled once.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("NOETL_", "PG", "PYTEST_", "PYTHONDONTWRITEBYTECODE"))
        }
        return kept | {
            "PATH": os.pathsep.join([str(BINARIES), os.environ["PATH"]]),
            "PYTHONPATH": str(self.root),
            "PYTHONPYCACHEPREFIX": str(self._bytecode),
            "COLUMNS": "90",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }


def find_unlisted(recipe: Recipe, files: tuple[str, ...]) -> Iterator[str]:
    """Yield what differs between the files that changed and the row of the recipe."""
    for file in files:
        if not recipe.covers(file):
            yield (
                f"`{file}` changes, but the row of the recipe in CONTRIBUTING.md does not list it:"
                " list it; better: make the change unnecessary"
            )
    for file in recipe.unused(files):
        yield f"`{file}` does not change: remove it from the row of the recipe in CONTRIBUTING.md"


def perform_all(checkout: Path, folder: Path, words: Mapping[str, None]) -> Iterator[Performance]:
    """Perform the recipes whose page contains one of the words, or all if there is no word. Run the gates.

    The gates are not run if there is no recipe, or if one has a problem.
    """
    clone = ScratchClone(checkout, folder)
    recipes = [
        recipe
        for recipe in read_recipes(clone.root)
        if not words or any(word in recipe.page for word in words)
    ]
    has_failed = not recipes
    for recipe in recipes:
        performed = clone.perform(recipe)
        has_failed |= bool(performed.problems)
        yield performed
    if not has_failed:
        yield clone.run_gates(recipes)


def _last_lines(lines: Sequence[str]) -> str:
    return "".join(f"\n  {line}" for line in lines[-SHOWN_LINES:])


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip("\n")
