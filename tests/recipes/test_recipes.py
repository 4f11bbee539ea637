"""Recipes fit the files of this checkout. A recipe that does not hold fails and says where.

`python -m tests.recipes` performs them with all their gates, which takes minutes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes import performance
from tests.recipes.performance import TESTS_OF_PAGES, PageGate
from tests.recipes.recipe import (
    FileEdit,
    NewFile,
    Recipe,
    RecipeError,
    edit_file,
    parse_steps,
    read_recipes,
    write_file,
)
from tests.style.source import ROOT

RECIPES = read_recipes(ROOT)
TABLE = """\
| recipe | files that change |
| --- | --- |
| [New word](docs/how-to/add-a-word.md) | `words/WORD.txt`, `words.txt` |
"""
IGNORED = ".venv/\n*.log\n"
PAGE = """\
# How to add a word

```text title="words/pear.txt"
a fruit
```

```diff title="words.txt"
 apple
+pear
 plum
```

```console
$ cat words.txt words/pear.txt
apple
pear
plum
a fruit
```
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def perform(
    folder: Path, page: str = PAGE, gate: str = "pass", table: str = TABLE, words: str = "apple\nplum\n"
) -> tuple[str, ...]:
    """Perform a recipe in a new repository, and return its problems. The gate is a program in Python."""
    checkout = folder / "checkout"
    files = {
        "CONTRIBUTING.md": table,
        "docs/how-to/add-a-word.md": page,
        "words.txt": words,
        ".gitignore": IGNORED,
    }
    for name, text in files.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text, "utf-8")
    git(folder, "init", "--quiet", str(checkout))
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "words: start")
    with pytest.MonkeyPatch.context() as patch:
        command = (Path(sys.executable).name, "-c", gate)
        patch.setattr(performance, "gates_of", lambda _: (PageGate(command, "correct the page"),))
        return tuple(
            problem
            for performed in performance.perform_all(checkout, folder, {})
            for problem in performed.problems
        )


def test_a_recipe_that_holds_has_no_problem(tmp_path: Path) -> None:
    assert perform(tmp_path) == ()


def test_a_file_that_the_row_does_not_list_is_a_problem(tmp_path: Path) -> None:
    (problem,) = perform(tmp_path, table=TABLE.replace(", `words.txt`", ""))
    assert problem.startswith(
        "`words.txt` changes, but the row of the recipe in CONTRIBUTING.md does not list"
    )


def test_a_file_that_is_listed_and_does_not_change_is_a_problem(tmp_path: Path) -> None:
    (problem,) = perform(tmp_path, table=TABLE.replace("`words.txt`", "`words.txt`, `more.txt`"))
    assert problem.startswith("`more.txt` does not change")


@pytest.mark.parametrize(("words", "count"), [("apple\nprune\n", 0), ("apple\nplum\napple\nplum\n", 2)])
def test_an_edit_that_does_not_fit_is_a_problem(tmp_path: Path, words: str, count: int) -> None:
    problem = perform(tmp_path, words=words)[0]
    assert problem.startswith(
        f"docs/how-to/add-a-word.md:8: `words.txt` has the old lines of the block {count} times"
    )


def test_other_output_is_a_problem(tmp_path: Path) -> None:
    (problem,) = perform(tmp_path, page=PAGE.replace("plum\na fruit", "plum\na vegetable"))
    assert problem.startswith(
        "docs/how-to/add-a-word.md:14: `cat words.txt words/pear.txt` printed something else"
    )


def test_a_gate_that_fails_is_a_problem(tmp_path: Path) -> None:
    (problem,) = perform(tmp_path, gate="import sys; sys.exit('words.md must list `pear`')")
    assert "fails after the recipes:\n  words.md must list `pear`\n  fix: correct the page" in problem


def test_a_file_that_a_gate_must_not_change_is_a_problem(tmp_path: Path) -> None:
    (problem,) = perform(tmp_path, gate="open('index.txt', 'w')")
    assert problem.startswith("`index.txt` changes")


def test_a_recipe_begins_with_what_the_recipes_before_it_have_left(tmp_path: Path) -> None:
    (problem,) = perform(tmp_path, table=TABLE + TABLE.splitlines()[-1], gate="import sys; sys.exit(1)")
    assert problem.endswith("`words/pear.txt` exists already: choose another name for the example")


def test_a_file_that_exists_is_not_replaced(tmp_path: Path) -> None:
    write_file(tmp_path, NewFile(1, "a/b.txt", "first\n"))
    with pytest.raises(RecipeError, match="exists already"):
        write_file(tmp_path, NewFile(1, "a/b.txt", "second\n"))


def test_the_blocks_of_a_page_are_its_steps() -> None:
    new, edit, commands = parse_steps(PAGE, "page")
    assert new == NewFile(4, "words/pear.txt", "a fruit\n")
    assert edit == FileEdit(8, "words.txt", "apple\nplum\n", "apple\npear\nplum\n")
    assert commands.line == 14


def test_recipes_have_tests() -> None:
    assert {recipe.page for recipe in RECIPES} == set(TESTS_OF_PAGES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.page)
def test_the_files_and_edits_of_a_page_fit_this_checkout(recipe: Recipe, tmp_path: Path) -> None:
    steps = [step for step in recipe.steps(ROOT) if isinstance(step, NewFile | FileEdit)]
    assert steps
    for step in steps:
        copy = tmp_path / step.path
        if (original := ROOT / step.path).exists() and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(original.read_text("utf-8"), "utf-8")
        if isinstance(step, NewFile):
            write_file(tmp_path, step)
        else:
            edit_file(tmp_path, step)
