"""The loop that fires triggers for the files of folders."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.engine.source_firing import fire_item
from noetl.executor.errors import RejectedError, StoreAwayError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.triggers import Advance, pause_trigger
from noetl.executor.runtime import folder_loop
from noetl.executor.runtime.folder_loop import CHECK_SECONDS, SCAN_SECONDS, FolderLoop
from noetl.executor.security.allowed_sources import AllowedSources, read_allowed_sources
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.worker import Worker, WorkerSettings
from noetl.planner.frozen import replace
from noetl.testing.run_harness import FakeClock, compile_text

TEXT = """
triggers:
- name: arrived
  type: folder
  folder: in
  glob: "**/*.csv"
  input: {path: "{{ trigger.path }}", name: "{{ trigger.name }}", size: "{{ trigger.size }}"}
input: {path: string, name: string, size: integer}
steps: [{name: a, run: [{action: log, message: "{{ input.path }}"}]}]
"""


class WatchedFolder:
    """A store with a playbook that waits for files, the folder, and a process that scans it."""

    def __init__(self, root: Path, text: str = TEXT, rules: str = "folder:in") -> None:
        self.root, self.rules = root, rules
        self.folder = root / "in"
        self.folder.mkdir()
        self.store = MemoryStore()
        self.monotonic = FakeClock(1000.0)
        self.register(text)
        self.restart()

    def register(self, text: str, version: str | None = None, tenant: str = "default") -> None:
        plan = compile_text(text)
        self.store.plans.save(plan)
        playbook = RegisteredPlaybook(tenant, plan.header.name, version, plan.hash, self.store.clock())
        self.store.registry.register(playbook, triggers=plan.header.triggers)

    def restart(self) -> None:
        """Replace the process by another, which remembers nothing."""
        capabilities = Capabilities(
            files_root=self.root, trigger_sources=read_allowed_sources({"NOETL_TRIGGER_SOURCES": self.rules})
        )
        self.loop = FolderLoop(self.store, capabilities, threading.Event(), self.monotonic)

    def write(self, name: str, content: str = "1", folder: Path | None = None) -> Path:
        path = (folder or self.folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def scan(self, times: int = 2, seconds: float = SCAN_SECONDS) -> None:
        """Scan several times, with some seconds after each."""
        for _ in range(times):
            self.loop.scan_all()
            self.monotonic.advance(seconds)

    def firings(self) -> list[Any]:
        return self.store.triggers.firings("default", "play", "arrived", limit=1000)[0][::-1]

    def inputs(self) -> list[Any]:
        runs = [self.store.runs.get("default", f.run_id) for f in self.firings() if f.run_id]
        return [run.input for run in runs if run is not None]


@pytest.fixture
def watched(tmp_path: Path) -> WatchedFolder:
    return WatchedFolder(tmp_path)


def test_each_file_starts_one_run(watched: WatchedFolder) -> None:
    watched.write("a.csv", "12345")
    watched.write("sub/b.csv")
    watched.write("other.txt")
    watched.write(".hidden.csv")
    watched.scan(4)
    assert sorted(watched.inputs(), key=lambda item: item["path"]) == [
        {"path": "in/a.csv", "name": "a.csv", "size": 5},
        {"path": "in/sub/b.csv", "name": "b.csv", "size": 1},
    ]


def test_a_file_counts_when_it_is_unchanged(watched: WatchedFolder) -> None:
    path = watched.write("a.csv", "1")
    watched.scan(2, 1.0)
    path.write_text("12")
    watched.scan(1, 1.9)
    assert watched.loop.scan_all() == pytest.approx(0.1)
    assert watched.inputs() == []
    watched.monotonic.advance(0.2)
    watched.loop.scan_all()
    assert [item["size"] for item in watched.inputs()] == [2]


def test_a_changed_file_fires_again(watched: WatchedFolder) -> None:
    path = watched.write("a.csv")
    watched.scan()
    path.write_text("123")
    watched.scan()
    assert [item["size"] for item in watched.inputs()] == [1, 3]


def test_a_process_fires_no_file_again_after_a_restart(watched: WatchedFolder) -> None:
    for number in range(5):
        watched.write(f"{number}.csv")
    watched.scan()
    runs = watched.inputs()
    watched.restart()
    watched.scan()
    assert len(runs) == 5
    assert watched.inputs() == runs


def test_a_process_that_dies_between_firings_is_continued(
    watched: WatchedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        watched.write(f"{number}.csv")
    fired: list[Any] = []

    def die(firer: Any, item: Any) -> None:
        fire_item(firer, item)
        fired.append(item)
        if len(fired) == 2:
            raise SystemExit

    monkeypatch.setattr(folder_loop, "fire_item", die)
    with pytest.raises(SystemExit):
        watched.scan()
    monkeypatch.undo()
    watched.restart()
    watched.scan()
    assert sorted(item["name"] for item in watched.inputs()) == ["0.csv", "1.csv", "2.csv", "3.csv"]


def test_files_that_were_there_before_the_registration_count(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "old.csv"
    path.write_text("1")
    os.utime(path, (1.0, 1.0))
    (tmp_path / "in").rename(tmp_path / "before")
    watched = WatchedFolder(tmp_path)
    (tmp_path / "before" / "old.csv").rename(watched.folder / "old.csv")
    watched.scan()
    assert [item["name"] for item in watched.inputs()] == ["old.csv"]


def test_files_older_than_the_retention_do_not_count(
    watched: WatchedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_RETENTION_DAYS", "2")
    watched.write("a.csv")
    now = time.time()
    watched.store.clock = lambda: now + 3 * 86_400
    watched.scan()
    assert watched.firings() == []


@pytest.mark.parametrize("rules", ["", "folder:other", "acme/folder:in", "folder:in/sub", "folder:inner"])
def test_a_folder_is_read_only_if_the_operator_allows_it(
    tmp_path: Path, rules: str, caplog: pytest.LogCaptureFixture
) -> None:
    watched = WatchedFolder(tmp_path, rules=rules)
    watched.write("a.csv")
    with caplog.at_level(logging.WARNING):
        watched.scan(3)
    assert watched.firings() == []
    warning = (
        "the folder of trigger arrived of play is not read: NOETL_TRIGGER_SOURCES needs the rule `folder:in`"
    )
    assert caplog.messages == ([warning] if "folder:o" in rules or rules.startswith("folder:in") else [])


def test_links_lead_to_no_other_folder(watched: WatchedFolder, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    target = watched.write("a.csv", folder=tmp_path / "secret")
    (watched.folder / "link.csv").symlink_to(target)
    (watched.folder / "sub").symlink_to(tmp_path / "secret")
    watched.scan(3)
    assert watched.firings() == []
    watched.folder.rename(tmp_path / "moved")
    watched.folder.symlink_to(tmp_path / "secret")
    watched.scan(3)
    assert watched.firings() == []


def test_a_folder_that_cannot_be_listed_is_reported_once(
    watched: WatchedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    watched.folder.rmdir()
    watched.scan(2)
    assert caplog.messages == []
    watched.folder.write_text("no folder")
    watched.scan(3)
    assert caplog.messages == ["the folder of trigger arrived of play cannot be read: Not a directory"]


def test_a_paused_trigger_reads_no_file_before_it_is_resumed(watched: WatchedFolder) -> None:
    trigger = watched.store.triggers.get("default", "play", "arrived")
    assert trigger is not None
    watched.scan(1)
    watched.write("a.csv")
    watched.scan(1)
    paused = pause_trigger(trigger, watched.store.clock())
    watched.store.triggers.advance(paused)
    watched.scan(3)
    assert watched.firings() == []
    resumed = replace(trigger, edition=paused.written.edition + 1)
    watched.store.triggers.advance(Advance(paused.written, resumed))
    watched.scan(3)
    assert len(watched.inputs()) == 1


def test_filtered_and_rejected_files_have_one_record(tmp_path: Path) -> None:
    text = TEXT.replace("  input:", '  if: "{{ trigger.size > 1 }}"\n  input:').replace(
        "size: integer", "size: {type: integer, enum: [2]}"
    )
    watched = WatchedFolder(tmp_path, text)
    for size in (1, 2, 3):
        watched.write(f"{size}.csv", "x" * size)
    watched.scan(3)
    watched.restart()
    watched.scan(3)
    assert sorted(firing.outcome.value for firing in watched.firings()) == ["filtered", "rejected", "started"]


def test_a_new_version_evaluates_rejected_files_again(tmp_path: Path) -> None:
    watched = WatchedFolder(tmp_path, TEXT.replace("size: integer", "size: string"))
    watched.write("a.csv")
    watched.scan()
    watched.register(TEXT, "2")
    watched.scan(3)
    assert [firing.outcome.value for firing in watched.firings()] == ["rejected", "started"]


def test_a_key_tells_files_from_each_other(tmp_path: Path) -> None:
    watched = WatchedFolder(tmp_path, TEXT.replace("  folder:", '  key: "{{ trigger.name }}"\n  folder:'))
    watched.write("a.csv", "1")
    watched.write("sub/a.csv", "12")
    watched.scan()
    assert len(watched.inputs()) == 1
    bad = TEXT.replace("  folder:", '  key: "{{ [] }}"\n  folder:').replace("name: arrived", "name: bad")
    watched.register(bad, "2")
    watched.scan(3)
    firings = watched.store.triggers.firings("default", "play", "bad")[0]
    assert {firing.reason for firing in firings} == {"`key` must be a text or a number, not a list"}


def test_a_scan_is_bounded(
    watched: WatchedFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder_loop, "MAX_FIRINGS", 2)
    for number in range(5):
        watched.write(f"{number}.csv")
    watched.loop.scan_all()
    watched.monotonic.advance(3.0)
    assert [watched.loop.scan_all() for _ in range(3)] == [0.0, 0.0, CHECK_SECONDS]
    assert len(watched.inputs()) == 5
    monkeypatch.setattr(folder_loop, "MAX_ENTRIES", 4)
    watched.write("new.csv")
    watched.scan(3)
    assert len(watched.inputs()) == 5
    messages = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert messages == [
        "the folder of trigger arrived of play has over 4 entries and is not read: move files that were read"
    ]


def test_tenants_have_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_loop, "MAX_FIRINGS", 2)
    watched = WatchedFolder(tmp_path, rules="folder:in; small/folder:small")
    source, following = TEXT.split("input: {path: string")
    second = source.partition("- name: arrived")[2].replace("folder: in", "folder: in/second")
    watched.register(f"{source}- name: also{second}input: {{path: string{following}", version="2")
    watched.register(TEXT.replace("folder: in", "folder: small"), tenant="small")
    for number in range(3):
        watched.write(f"{number}.csv")
        watched.write(f"second/{number}.csv")
    watched.write("a.csv", folder=tmp_path / "small")
    watched.scan(1)
    fired: list[tuple[str, str]] = []

    def note(firer: Any, item: Any) -> Any:
        fired.append((firer.trigger.tenant, firer.trigger.name))
        return fire_item(firer, item)

    monkeypatch.setattr(folder_loop, "fire_item", note)
    assert watched.loop.scan_all() == 0.0
    assert sorted(fired) == [("default", "also"), ("default", "also"), ("small", "arrived")]
    fired.clear()
    # The other trigger of the tenant is next.
    watched.loop.scan_all()
    assert fired == [("default", "arrived")] * 2


def test_a_full_quota_delays_files(watched: WatchedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.write("a.csv")

    def refuse(firer: Any, item: Any) -> None:
        raise RejectedError("quota_exceeded", "too many branches")

    monkeypatch.setattr(folder_loop, "fire_item", refuse)
    watched.scan(3)
    assert watched.firings() == []
    monkeypatch.setattr(folder_loop, "fire_item", fire_item)
    watched.scan(2)
    assert len(watched.inputs()) == 1


def test_a_loop_continues_after_faults(
    watched: WatchedFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problems: list[Exception] = [StoreAwayError("away"), ValueError("wrong")]

    def fail(firer: Any, item: Any) -> None:
        if problems:
            raise problems.pop(0)
        fire_item(firer, item)

    monkeypatch.setattr(folder_loop, "fire_item", fail)
    monkeypatch.setattr(folder_loop, "SCAN_SECONDS", 0.001)
    watched.write("a.csv")
    loop = FolderLoop(
        watched.store, watched.loop._capabilities, threading.Event(), lambda: time.monotonic() * 1000
    )
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not watched.inputs() and time.monotonic() < deadline:
        time.sleep(0.01)
    loop._stopping.set()
    thread.join(30)
    assert len(watched.inputs()) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname != "INFO"] == [
        "the store failed; folders are read again: away",
        "trigger arrived of play failed; it is tried again",
    ]


def test_a_worker_of_a_service_reads_folders(watched: WatchedFolder) -> None:
    watched.write("a.csv")
    capabilities = watched.loop._capabilities
    assert not FolderLoop(watched.store, Capabilities(), threading.Event()).is_needed
    worker = Worker(watched.store, WorkerSettings(capabilities, threads=1))
    worker.start()
    try:
        deadline = time.monotonic() + 30
        while not watched.inputs() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert worker.wait_until_finished("default", watched.firings()[0].run_id, 30).status.is_final
    finally:
        worker.stop()


def test_rules_name_folders_below_the_root() -> None:
    rules = read_allowed_sources({"NOETL_TRIGGER_SOURCES": "folder:a/b\nfolder:./c/;acme/folder:."})
    assert rules.tenants(("folder",)) == ["acme", "default"]
    assert [rules.allows_folder("default", name) for name in ("a/b", "a/b/c", "a", "a/bc", "c")] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert rules.allows_folder("acme", "any")
    assert AllowedSources().tenants(("folder",)) == []
