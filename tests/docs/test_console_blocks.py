"""Console blocks of README and of the documentation have the output that they show. Tests of their runner."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from noetl.infra.reference import ROOT
from tests.docs.console import (
    DATABASE_VARIABLE,
    ConsoleCommand,
    PageError,
    PageFile,
    merge_output,
    needs_database,
    output_matches,
    parse_page,
    play_page,
    read_fences,
    updated_text,
)
from tests.recipes.recipe import recipe_pages

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Programs of `sh` blocks, which are not played: they need an account, a network, a clone or much time.
NOT_PLAYED = {
    "README.md": {"make"},
    "docs/how-it-works/fuzzing.md": {"make"},
    "docs/how-it-works/supply-chain.md": {".venv/bin/python", "make"},
    "docs/how-it-works/testing.md": {".venv/bin/coverage", "make"},
    "docs/how-to/aws.md": {"aws", "eval", "export", "noetl", "pip", "sam"},
    "docs/how-to/postgres.md": {"pip"},
    "docs/how-to/write-a-page.md": {"make", "python"},
    "docs/reference/commands.md": {"export", "noetl"},
    "docs/reference/http.md": {"curl", "noetl", "npx", "openapi-python-client", "uvicorn"},
    "docs/reference/notifications.md": {"noetl"},
    "docs/tutorial/first-playbook.md": {"cd", "export", "make", "mkdir"},
}
STORY = """\
# A story

```sh
not played
```

```yaml title="data/orders.yaml"
orders: 3
```

```console
$ cd data && count=1
$ cat orders.yaml
orders: 3
$ for i in 1 2; do
>   echo "$i of $count at $RANDOM"
> done
1 of 1 at …
…
$ sh -c 'echo problem >&2; exit 3'
problem
$ echo $?
3
```
"""


def has_console_blocks(page: Path) -> bool:
    """Return whether a page is played here. `tests/recipes` plays recipes, which change a checkout."""
    return page not in recipe_pages(ROOT) and any(
        isinstance(part, ConsoleCommand) for part in parse_page(page.read_text("utf-8"), page.name)
    )


@pytest.mark.timeout(300)  # a page executes up to thirty commands
@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_console_blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_print_what_the_page_shows(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = {}
    if needs_database(page):
        settings[DATABASE_VARIABLE] = request.getfixturevalue("postgres_dsn")
    mismatches = play_page(page, tmp_path, **settings)
    assert not mismatches, "\n" + "\n\n".join(map(str, mismatches))


def programs_not_played(page: Path) -> set[str]:
    """Return the first words of the commands in `sh` blocks."""
    commands = (
        line
        for _, info, block in read_fences(page.read_text("utf-8"), page.name)
        if info in {"sh", "bash", "shell"}
        for line, previous in zip(block, ["", *block], strict=False)
        if line[:1] not in {"", " ", "#"} and not previous.endswith("\\")
    )
    return {command.split()[0] for command in commands}


def test_commands_that_are_not_played_are_known() -> None:
    found = {str(page.relative_to(ROOT)): programs_not_played(page) for page in PAGES}
    assert {page: programs for page, programs in found.items() if programs} == NOT_PLAYED, (
        "use a `console` block, which is played; enter commands in NOT_PLAYED only if they cannot run here"
    )


def play_text(text: str, folder: Path, **settings: str) -> list[str]:
    page = folder / "story.md"
    page.write_text(text, "utf-8")
    return [str(mismatch) for mismatch in play_page(page, folder, **settings)]


def test_a_story_is_played_in_one_bash(tmp_path: Path) -> None:
    assert play_text(STORY, tmp_path) == []


def test_a_page_without_console_blocks_is_played(tmp_path: Path) -> None:
    assert play_text("# A page\n\n````markdown\n```console\n$ false\n```\n````\n", tmp_path) == []


def test_parts_have_the_lines_of_the_page() -> None:
    parts = parse_page(STORY)
    assert parts[0] == PageFile(8, "data/orders.yaml", "orders: 3\n")
    assert [STORY.splitlines()[part.line - 1] for part in parts[1:]][1] == "$ cat orders.yaml"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (
            "orders: 3\n$",
            "orders: 4\n$",
            13,
            ["`cat orders.yaml` printed something else", "-orders: 4", "+orders: 3"],
        ),
        ("problem\n$ echo", "problem\nmore\n$ echo", 20, ["-more"]),
        ("$ echo $?\n3\n", "", 20, ["ended with exit code 3, and the next command is not `echo $?`"]),
        ("$ echo $?\n3\n", "$ echo $?\n1\n", 22, ["-1", "+3"]),
        ("1 of 1 at …\n…", "1 of 1 at …", 15, ["+2 of 1 at "]),
        ("$ cat", "$ nothing_of_this_name || cat", 13, ["nothing_of_this_name: command not found"]),
    ],
)
def test_a_difference_is_reported_with_its_place(
    tmp_path: Path, old: str, new: str, line: int, words: list[str]
) -> None:
    assert old in STORY
    (message,) = play_text(STORY.replace(old, new), tmp_path)
    assert message.startswith(f"story.md:{line}: ")
    assert [word for word in words if word not in message] == []
    assert "fix: correct the page, or run `python -m tests.docs.console --update story.md`" in message


def test_the_command_is_that_of_this_checkout(tmp_path: Path) -> None:
    text = (
        "```console\n$ noetl --version\nnoetl …\n$ python -c 'import noetl; print(noetl.__file__)'\n%s\n```\n"
    )
    assert play_text(text % (ROOT / "noetl" / "__init__.py"), tmp_path) == []


def test_settings_of_the_tests_do_not_reach_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_STORE", "memory://")
    text = "```console\n$ echo [$NOETL_STORE] $DATABASE_URL\n[] postgresql://x\n```\n"
    assert play_text(text, tmp_path, DATABASE_URL="postgresql://x") == []


def test_a_command_in_the_background_is_awaited_and_killed(tmp_path: Path) -> None:
    text = "```console\n$ (sleep 0.2; echo ready; sleep 3000) &\nready\n$ echo $! > pid\n```\n"
    assert play_text(text, tmp_path) == []
    pid = int((tmp_path / "work" / "pid").read_text())
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("shown", ["", "…Killed…\n"])
def test_a_page_need_not_show_the_report_of_a_killed_job(tmp_path: Path, shown: str) -> None:
    text = f"```console\n$ sleep 3000 2>&1 &\n$ kill -9 $!\n$ wait $!\n{shown}$ echo $?\n137\n$ true\n```\n"
    assert play_text(text, tmp_path) == []


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_a_command_that_does_not_end_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.console.COMMAND_SECONDS", 0.3)
    (message,) = play_text("```console\n$ sleep 3000\n$ echo never\nnever\n```\n", tmp_path)
    assert message.startswith("story.md:2: `sleep 3000` did not end within ")


def test_a_command_that_ends_bash_is_reported(tmp_path: Path) -> None:
    (message,) = play_text("```console\n$ exit 0\n$ echo never\n```\n", tmp_path)
    assert message.startswith("story.md:2: `exit 0` ended bash")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```console\noutput\n```\n", "page:2: a console block must begin with a command after `$ `"),
        ("- item\n\n  ```console\n  $ true\n  ```\n", "page:3: a block that is played must not be indented"),
        ("```console\n$ true\n", "page:1: the block is not closed"),
    ],
)
def test_a_block_that_cannot_be_played_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(PageError) as caught:
        parse_page(text)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("expected", "actual", "matches"),
    [
        ([], [], True),
        (["a"], [], False),
        (["…"], [], True),
        (["…"], ["a", "b"], True),
        (["a", "…", "c", "…"], ["a", "c", "b", "c"], True),
        (["a", "…", "c"], ["a", "c", "b"], False),
        (["run … in … ms"], ["run 12 in 3 ms"], True),
        (["run … in … ms"], ["run 12 in 3.2 s"], True),
        (["run in … s"], ["run in 1 m 5 s"], True),
        (["run in … s"], ["run in time"], False),
        (["… steps"], ["3 steps"], True),
        (["a.c"], ["abc"], False),
    ],
)
def test_wildcards(expected: list[str], actual: list[str], matches: bool) -> None:
    assert output_matches(expected, actual) is matches


def test_an_update_keeps_lines_that_match(tmp_path: Path) -> None:
    assert merge_output(["id …", "old", "…"], ["id 7", "new", "newer"]) == ["id …", "new", "newer"]
    page = tmp_path / "story.md"
    changed = STORY.replace("1 of 1 at …\n…", "1 of 1 at …\n2 of 2 at …").replace("problem\n$", "$")
    page.write_text(changed, "utf-8")
    updated = updated_text(changed, play_page(page, tmp_path))
    assert "\n1 of 1 at …\n2 of 1 at " in updated
    assert "\nproblem\n$ echo $?\n3\n```\n" in updated
