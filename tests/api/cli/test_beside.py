"""Playbooks that are found beside the file of the run that starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from noetl.api.cli import sources
from noetl.api.cli.local.playbook_finder import Beside
from noetl.executor.errors import ActionError
from noetl.executor.model.registry import Playbook
from noetl.executor.model.run import Run
from noetl.executor.stores.sqlite.store import SqliteStore

from tests.plays import Play, compiled

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
    return replace(Play(store, PARENT).run, source=str(tmp_path / "parent.yaml"), folder=str(tmp_path))


@pytest.fixture
def beside(store: SqliteStore) -> Beside:
    return Beside(store)


def found(store: SqliteStore, plan_hash: str | None) -> Any:
    """What the playbook answers that was found."""
    assert plan_hash is not None
    return store.plan_step(plan_hash, "only").run[0].to_json()["parameters"]["set"]["answer"]


def refused(beside: Beside, run: Run, name: str = "child", version: str | None = None) -> str:
    with pytest.raises(ActionError) as refusal:
        beside(run, name, version)
    assert (refusal.value.type, refusal.value.retryable) == ("ParameterError", False)
    return refusal.value.message


def register(store: SqliteStore, text: str) -> None:
    plan = compiled(text)
    store.save_plan(plan)
    store.register(Playbook("default", plan.header.name, plan.header.version, plan.hash, 0.0))


@pytest.mark.parametrize("file", ["child.yaml", "child.yml", "child.json", "01 something else.yaml"])
def test_a_file_called_like_it_or_with_such_a_playbook(
    store: SqliteStore, tmp_path: Path, beside: Beside, run: Run, file: str
) -> None:
    (tmp_path / file).write_text(child())
    assert found(store, beside(run, "child", None)) == 1


def test_the_name_of_the_file_comes_first(
    store: SqliteStore, tmp_path: Path, beside: Beside, run: Run
) -> None:
    (tmp_path / "a.yaml").write_text(child(1))
    (tmp_path / "child.yaml").write_text(child(2, name="other"))
    assert found(store, beside(run, "child", None)) == 2
    assert found(store, beside(run, "other", None)) == 2


def test_a_file_comes_before_the_registry(
    store: SqliteStore, tmp_path: Path, beside: Beside, run: Run
) -> None:
    register(store, child(7))
    assert found(store, beside(run, "child", None)) == 7
    (tmp_path / "child.yaml").write_text(child(1))
    assert found(store, beside(run, "child", None)) == 1


def test_a_run_without_a_file_asks_the_registry(
    store: SqliteStore, tmp_path: Path, beside: Beside, run: Run
) -> None:
    (tmp_path / "child.yaml").write_text(child(1))
    assert beside(replace(run, source=None), "child", None) is None
    register(store, child(7))
    assert found(store, beside(replace(run, source=None), "child", None)) == 7


def test_versions(store: SqliteStore, tmp_path: Path, beside: Beside, run: Run) -> None:
    (tmp_path / "child.yaml").write_text(child(2, version="2"))
    (tmp_path / "old.yaml").write_text(child(1, version="1"))
    assert found(store, beside(run, "child", None)) == 2
    assert found(store, beside(run, "child", "1")) == 1
    assert found(store, beside(run, "child", "2")) == 2
    register(store, child(3, version="3"))
    assert found(store, beside(run, "child", "3")) == 3
    assert refused(beside, run, version="4") == (
        "there is no version 4 of `child`, neither beside parent.yaml nor in the registry; child.yaml is version 2"
    )


def test_a_version_of_a_file_that_has_none(tmp_path: Path, beside: Beside, run: Run) -> None:
    (tmp_path / "child.yaml").write_text(child())
    assert refused(beside, run, version="4").endswith("; child.yaml has no version")


def test_two_that_claim_to_be_it(tmp_path: Path, beside: Beside, run: Run) -> None:
    (tmp_path / "a.yaml").write_text(child(1))
    (tmp_path / "b.json").write_text(child(2))
    assert refused(beside, run) == (
        "`child` is the name of the playbooks in a.yaml and b.json: which one is meant, `version` can say"
    )


def test_one_that_does_not_compile(store: SqliteStore, tmp_path: Path, beside: Beside, run: Run) -> None:
    register(store, child(7))
    (tmp_path / "child.yaml").write_text("name: child\nsteps:\n  - {name: a, run: [{action: lgo}]}\n")
    assert (
        refused(beside, run) == "`child` does not compile: child.yaml:3: NP501 there is no action type `lgo`"
    )
    (tmp_path / "child.yaml").write_text("name: child\nsteps: [}\n")
    assert refused(beside, run, version="2").startswith("`child` does not compile: child.yaml:2: NP001 ")


def test_none_at_all(tmp_path: Path, beside: Beside, run: Run) -> None:
    (tmp_path / "chidl.yaml").write_text(child(name="typo"))
    assert refused(beside, run) == (
        "there is no playbook `child`, neither beside parent.yaml nor in the registry; did you mean `chidl`?"
    )
    assert (
        refused(beside, run, name=" ")
        == "there is no playbook ` `, neither beside parent.yaml nor in the registry"
    )


def test_other_files_are_left_alone(store: SqliteStore, tmp_path: Path, beside: Beside, run: Run) -> None:
    (tmp_path / "child.json").write_text('{"name": "child", "rows": [1]}')
    (tmp_path / "child.txt").write_text(child(1))
    (tmp_path / "broken.yaml").write_text("name: child\nsteps: [}\n")
    (tmp_path / "huge.yaml").write_text("#" * (1 << 20) + child(1))
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "child.yaml").write_text(child(1))
    assert "neither beside" in refused(beside, run)
    assert "neither beside" in refused(beside, run, name="inner/child")
    register(store, child(7))
    assert found(store, beside(run, "child", None)) == 7


def test_a_folder_that_is_gone(tmp_path: Path, beside: Beside, run: Run) -> None:
    there_was = replace(run, source=str(tmp_path / "gone" / "parent.yaml"))
    assert "neither beside gone/parent.yaml" in refused(beside, there_was)


def test_a_file_is_compiled_once_until_it_changes(
    store: SqliteStore, tmp_path: Path, beside: Beside, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations = []

    def counted(text: sources.Source) -> Any:
        compilations.append(text.file)
        return compile_source(text)

    compile_source = sources.compile_source
    monkeypatch.setattr(sources, "compile_source", counted)
    path = tmp_path / "named.yaml"
    path.write_text(child(1))
    for _ in range(3):
        assert found(store, beside(run, "child", None)) == 1
    assert compilations == ["named.yaml"]
    path.write_text(child(2))
    os.utime(path, ns=(1, 1))
    assert found(store, beside(run, "child", None)) == 2
    assert compilations == ["named.yaml"] * 2


def test_from_the_command_line(noetl: Command, folder: Path) -> None:
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
    assert noetl("run", "-", "-q", stdin=PARENT).json == {"why": "there is no playbook `child`"}


def test_a_child_that_was_mended_is_found_by_a_resume(noetl: Command, folder: Path) -> None:
    """The resume knows the file of the run, wherever it is called from."""
    Path("books").mkdir()
    Path("books/parent.yaml").write_text(PARENT.partition("    rule:")[0])
    failed = noetl("run", "books/parent.yaml", "-q", "--json")
    assert (failed.exit_code, failed.json["errors"][0]["type"]) == (1, "ParameterError")
    Path("books/child.yaml").write_text(child(5))
    id = failed.json["workflow_id"]
    store = f"sqlite:///{folder}/.noetl/noetl.db"
    os.chdir(folder / "books")
    assert noetl("runs", "resume", id, "-q", "--store", store).json == {"found": {"answer": 5}}
