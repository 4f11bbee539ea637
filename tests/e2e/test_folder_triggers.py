"""Files of a folder that several services and workers read, while they are killed."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from tests.e2e.processes import start_silently

KILLS = 5
FILES_PER_KILL = 8
COMMANDS = (("serve", "--port", "0"), ("worker",))
TEXT = """
name: import
triggers:
  - {name: arrived, type: folder, folder: in, settle: 500ms, input: {path: "{{ trigger.path }}"}}
input: {path: string}
steps:
  - name: a
    run:
    - {action: file, read: "{{ input.path }}", as: text}
    - {action: set, set: {content: "{{ text }}"}}
output: {content: "{{ content }}"}
"""


@pytest.mark.timeout(300)
def test_killed_processes_start_one_run_for_each_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store' / 'noetl.db'}"
    folder = tmp_path / "files" / "in"
    folder.mkdir(parents=True)
    (tmp_path / "store").mkdir()
    settings = {
        "NOETL_STORE": url,
        "NOETL_FILES_ROOT": str(tmp_path / "files"),
        "NOETL_TRIGGER_SOURCES": "folder:in",
        "NOETL_LEASE_SECONDS": "2",
        "NOETL_WORKERS": "2",
    }

    def start(command: tuple[str, ...]) -> subprocess.Popen[str]:
        return start_silently(tmp_path, *command, **settings)

    store = open_store(url)
    create_services(store, catalogue()).playbooks.register(TEXT)
    processes = [start(command) for command in COMMANDS]
    try:
        victims, written = random.Random(7), set()
        for kill in range(KILLS):
            for number in range(FILES_PER_KILL):
                path = folder / f"{kill}-{number}.txt"
                path.write_text(path.name)
                written.add(path.name)
            time.sleep(2)
            position = victims.randrange(len(COMMANDS))
            processes[position].kill()
            processes[position].wait()
            processes[position] = start(COMMANDS[position])
        while True:
            runs = store.runs.find(RunFilter("default", playbook="import", limit=1000))[0]
            if len(runs) >= len(written) and all(run.status.is_final for run in runs):
                break
            assert processes[1].poll() is None
            time.sleep(0.2)
        results = [store.runs.get("default", run.id) for run in runs]
        contents = Counter(run.result["content"] for run in results if run is not None and run.result)
        assert contents == dict.fromkeys(written, 1)
        firings, _ = store.triggers.firings("default", "import", "arrived", limit=1000)
        assert {firing.run_id for firing in firings} == {run.id for run in runs}
    finally:
        for process in processes:
            process.kill()
            process.wait()
        store.close()
