"""A disk that is full while a run is active: it is reported, and no commit is lost."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from tests.e2e.processes import start_noetl

SECONDS = 60.0
STEPS = 12
FITS = 4
"""Number of steps whose results fit on the disk, at most."""


@pytest.fixture
def small_disk() -> Iterator[None]:
    """A limit for the size of files that this process and its children write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FITS * 200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def chain() -> str:
    lines = ["name: large", "steps:"]
    for step in range(STEPS):
        rule = f", rule: [{{case: default, run: [s{step + 1}]}}]" if step + 1 < STEPS else ""
        lines.append(
            f"- {{name: s{step}, run: [{{action: set, set: {{x: \"{{{{ '{step}' * 100000 }}}}\"}}}}]{rule}}}"
        )
    return "\n".join([*lines, 'output: {last: "{{ x | length }}"}'])


def test_a_run_resumes_when_the_disk_has_space_again(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "large.yaml").write_text(chain())
    request.getfixturevalue("small_disk")
    running = start_noetl(tmp_path, "run", "large.yaml", "-q", NOETL_LEASE_SECONDS="5")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    message = running.communicate(timeout=SECONDS)[1]
    assert running.returncode == 2, message
    assert message.rstrip().endswith("Set the store with NOETL_STORE or --store.")
    assert "Traceback" not in message
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db")
    ((run,), _) = store.runs.find(RunFilter())
    before = [event.step for event in store.runs.events(run.id) if event.type == "step.completed"]
    assert 0 < len(before) < STEPS
    store.close()
    resumed = start_noetl(tmp_path, "runs", "resume", run.id, "-q")
    assert resumed.communicate(timeout=SECONDS)[0] == '{\n  "last": 200000\n}\n'
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db")
    completed = [event.step for event in store.runs.events(run.id) if event.type == "step.completed"]
    assert completed == [f"s{step}" for step in range(STEPS)]
    store.close()
