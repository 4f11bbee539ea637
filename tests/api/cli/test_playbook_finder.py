"""The finder of playbooks in the folder of the run's file, and in the registry."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.api.cli import sources
from noetl.api.cli.local.playbook_finder import SiblingPlaybookFinder
from noetl.executor.engine.external import FoundPlaybook
from noetl.executor.errors import ActionError
from noetl.executor.model.registry import PlaybookAlias, RegisteredPlaybook
from noetl.executor.model.run import Run
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.catalogue import PlaybookCall
from noetl.testing.run_harness import RunHarness, compile_text

Command = Callable[..., Any]

CHILD = "name: {name}\nsteps: [{{name: only, run: [{{action: set, set: {{answer: {answer}}}}}]}}]\n"
PARENT = """\
name: parent
steps:
  - name: call
    run: [{action: workflow, playbook: child, as: found}]
    rule: [{case: error, run: [{action: set, set: {why: "{{ error.message }}"}}]}]
"""


def child(answer: int = 1, name: str = "child", version: str | None = None) -> str:
    return CHILD.format(name=name, answer=answer) + (f'version: "{version}"\n' if version else "")


@pytest.fixture
def run(store: SqliteStore, tmp_path: Path) -> Run:
    return replace(RunHarness(store, PARENT).run, source=str(tmp_path / "parent.yaml"), folder=str(tmp_path))


@pytest.fixture
def finder(store: SqliteStore) -> SiblingPlaybookFinder:
    return SiblingPlaybookFinder(store)


def answer_of(store: SqliteStore, found: FoundPlaybook | None) -> Any:
    """Return the value that a playbook saves as `answer`."""
    assert found is not None
    return store.plans.step(found.plan_hash, "only").run[0].to_json()["parameters"]["set"]["answer"]


def find_error(
    finder: SiblingPlaybookFinder, run: Run, name: str = "child", version: str | None = None
) -> str:
    with pytest.raises(ActionError) as error_info:
        finder(run, PlaybookCall(name, version))
    assert (error_info.value.type, error_info.value.retryable) == ("ParameterError", False)
    return error_info.value.message


def register_text(store: SqliteStore, text: str) -> None:
    plan = compile_text(text)
    store.plans.save(plan)
    store.registry.register(
        RegisteredPlaybook("default", plan.header.name, plan.header.version, plan.hash, 0.0)
    )


@pytest.mark.parametrize("file", ["child.yaml", "child.yml", "child.json", "01 something else.yaml"])
def test_a_file_matches_by_its_stem_or_by_the_name_in_it(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run, file: str
) -> None:
    (tmp_path / file).write_text(child())
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 1


def test_a_file_that_matches_by_its_stem_is_preferred(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    (tmp_path / "a.yaml").write_text(child(1))
    (tmp_path / "child.yaml").write_text(child(2, name="other"))
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 2
    assert answer_of(store, finder(run, PlaybookCall("other"))) == 2


def test_a_file_is_preferred_to_the_registry(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    register_text(store, child(7))
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 7
    (tmp_path / "child.yaml").write_text(child(1))
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 1


def test_a_run_without_a_file_uses_the_registry(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    (tmp_path / "child.yaml").write_text(child(1))
    assert finder(replace(run, source=None), PlaybookCall("child")) is None
    register_text(store, child(7))
    assert answer_of(store, finder(replace(run, source=None), PlaybookCall("child"))) == 7


def test_a_requested_version_is_found_in_files_and_registry(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    (tmp_path / "child.yaml").write_text(child(2, version="2"))
    (tmp_path / "old.yaml").write_text(child(1, version="1"))
    found = finder(run, PlaybookCall("child"))
    assert found is not None
    assert (answer_of(store, found), found.version) == (2, "2")
    assert answer_of(store, finder(run, PlaybookCall("child", "1"))) == 1
    assert answer_of(store, finder(run, PlaybookCall("child", "2"))) == 2
    register_text(store, child(3, version="3"))
    assert answer_of(store, finder(run, PlaybookCall("child", "3"))) == 3
    assert find_error(finder, run, version="4") == (
        "unknown version `4` of playbook `child`: it is neither in the folder of parent.yaml"
        " nor in the registry; child.yaml has version `2`"
    )


def test_a_version_of_a_file_without_version_is_unknown(
    tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    (tmp_path / "child.yaml").write_text(child())
    assert find_error(finder, run, version="4").endswith("; child.yaml has no version")


def test_two_files_of_one_name_are_ambiguous(tmp_path: Path, finder: SiblingPlaybookFinder, run: Run) -> None:
    (tmp_path / "a.yaml").write_text(child(1))
    (tmp_path / "b.json").write_text(child(2))
    assert find_error(finder, run) == (
        "`child` is ambiguous: a.yaml and b.json have this name; pass `version` to choose one"
    )


def test_a_file_that_does_not_compile_is_an_error(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    register_text(store, child(7))
    (tmp_path / "child.yaml").write_text("name: child\nsteps:\n  - {name: a, run: [{action: lgo}]}\n")
    assert (
        find_error(finder, run) == "`child` does not compile: child.yaml:3: NP501 unknown action type `lgo`"
    )
    (tmp_path / "child.yaml").write_text("name: child\nsteps: [}\n")
    assert find_error(finder, run, version="2").startswith("`child` does not compile: child.yaml:2: NP001 ")


def test_an_unknown_name_has_a_suggestion(tmp_path: Path, finder: SiblingPlaybookFinder, run: Run) -> None:
    (tmp_path / "chidl.yaml").write_text(child(name="typo"))
    assert find_error(finder, run) == (
        "unknown playbook `child`: it is neither in the folder of parent.yaml nor in the registry;"
        " did you mean `chidl`?"
    )
    assert (
        find_error(finder, run, name=" ")
        == "unknown playbook ` `: it is neither in the folder of parent.yaml nor in the registry"
    )


def test_other_files_are_skipped(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    (tmp_path / "child.json").write_text('{"name": "child", "rows": [1]}')
    (tmp_path / "child.txt").write_text(child(1))
    (tmp_path / "broken.yaml").write_text("name: child\nsteps: [}\n")
    (tmp_path / "huge.yaml").write_text("#" * (1 << 20) + child(1))
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "child.yaml").write_text(child(1))
    assert "neither in the folder" in find_error(finder, run)
    assert "neither in the folder" in find_error(finder, run, name="inner/child")
    register_text(store, child(7))
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 7


def test_an_alias_is_one_of_the_registry_and_live_is_also_a_file(
    store: SqliteStore, tmp_path: Path, finder: SiblingPlaybookFinder, run: Run
) -> None:
    (tmp_path / "child.yaml").write_text(child(1))
    assert answer_of(store, finder(run, PlaybookCall("child", alias="live"))) == 1
    assert finder(run, PlaybookCall("child", alias="stable")) is None
    for answer in (7, 8):
        register_text(store, child(answer))
    assert store.registry.promote(PlaybookAlias("default", "child", "stable", "1", 0.0))
    assert answer_of(store, finder(run, PlaybookCall("child", alias="stable"))) == 7
    (tmp_path / "child.yaml").unlink()
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 8
    assert store.registry.promote(PlaybookAlias("default", "child", "live", "1", 0.0))
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 7


def test_a_removed_folder_has_no_playbooks(tmp_path: Path, finder: SiblingPlaybookFinder, run: Run) -> None:
    run_of_removed_folder = replace(run, source=str(tmp_path / "gone" / "parent.yaml"))
    assert "neither in the folder of gone/parent.yaml" in find_error(finder, run_of_removed_folder)


def test_a_file_is_compiled_once_until_it_changes(
    store: SqliteStore,
    tmp_path: Path,
    finder: SiblingPlaybookFinder,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compilations = []

    def count_compilation(text: sources.PlaybookSource) -> Any:
        compilations.append(text.file)
        return compile_source(text)

    compile_source = sources.compile_source
    monkeypatch.setattr(sources, "compile_source", count_compilation)
    path = tmp_path / "named.yaml"
    path.write_text(child(1))
    for _ in range(3):
        assert answer_of(store, finder(run, PlaybookCall("child"))) == 1
    assert compilations == ["named.yaml"]
    path.write_text(child(2))
    os.utime(path, ns=(1, 1))
    assert answer_of(store, finder(run, PlaybookCall("child"))) == 2
    assert compilations == ["named.yaml"] * 2


def test_a_local_run_starts_a_playbook_of_its_folder(noetl: Command, folder: Path) -> None:
    Path("books").mkdir()
    Path("books/parent.yaml").write_text(PARENT)
    Path("books/child.yaml").write_text(child(5))
    assert noetl("run", "books/parent.yaml", "-q").json == {"found": {"answer": 5}}
    Path("books/child.yaml").write_text("steps: []")
    assert (
        noetl("run", "books/parent.yaml", "-q")
        .json["why"]
        .startswith("`child` does not compile: books/child.yaml:1: ")
    )
    assert noetl("run", "-", "-q", stdin=PARENT).json == {"why": "unknown playbook `child`"}


def test_a_child_that_was_added_is_found_by_a_resume(noetl: Command, folder: Path) -> None:
    """A resume uses the folder of the run's file, whatever its working directory is."""
    Path("books").mkdir()
    Path("books/parent.yaml").write_text(PARENT.partition("    rule:")[0])
    failed = noetl("run", "books/parent.yaml", "-q", "--json")
    assert (failed.exit_code, failed.json["errors"][0]["type"]) == (1, "ParameterError")
    Path("books/child.yaml").write_text(child(5))
    id = failed.json["workflow_id"]
    store = f"sqlite:///{folder}/.noetl/noetl.db"
    os.chdir(folder / "books")
    assert noetl("runs", "resume", id, "-q", "--store", store).json == {"found": {"answer": 5}}
