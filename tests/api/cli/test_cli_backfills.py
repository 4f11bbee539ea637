"""The commands `noetl backfills …`, on a store and on a service."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from noetl.api.cli.display.backfill_table import format_backfill, format_backfills
from noetl.api.document.examples import RESPONSE_EXAMPLES
from tests.api.cli.conftest import Command
from tests.api.cli.test_cli_url import ServedStore
from tests.e2e.test_serve import run_service

pytestmark = pytest.mark.xdist_group("service of backfills")  # The fixture of the module is made once.

TEXT = """\
name: team/load
version: "1"
input: {day: {type: string}}
triggers:
  - {name: nightly, type: schedule, cron: "30 2 * * *", timezone: Europe/Berlin,
     input: {day: "{{ trigger.partition or trigger.local[:10] }}"}}
steps:
  - name: load
    run: [{action: fail, if: "{{ 'bad' in day }}", message: bad}, {action: set, set: {loaded: "{{ day }}"}}]
"""
NIGHTLY = "team/load/nightly"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        response = httpx.post(f"{url}/playbooks", json={"playbook": TEXT}, timeout=60)
        assert response.status_code == 201, response.text
        yield ServedStore(url, folder)


@pytest.fixture(params=["store", "service"])
def place(request: pytest.FixtureRequest, service: ServedStore) -> tuple[str, str]:
    """Option that names the store or the service."""
    return ("--store", service.store) if request.param == "store" else ("--url", service.url)


def wait_for_end(noetl: Command, backfill: str, place: tuple[str, str]) -> list[str]:
    """Return the lines of a backfill that has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = noetl("backfills", "show", backfill, *place).out.splitlines()
        if any(line.startswith("ended") for line in lines):
            return lines
        time.sleep(0.2)
    raise AssertionError(lines)


def test_a_backfill_runs_to_its_end(noetl: Command, place: tuple[str, str]) -> None:
    month = "2025-03" if place[0] == "--store" else "2025-04"
    started = noetl(
        "backfills", "start", NIGHTLY, "--from", f"{month}-01", "--to", f"{month}-04", "--limit", "2", *place
    )
    assert re.fullmatch(r"[0-9a-f]{24}\n", started.out), started.err
    backfill = started.out.strip()
    assert started.err == f"3 partitions in version 1: noetl backfills show {backfill}\n"
    lines = wait_for_end(noetl, backfill, place)
    assert lines[0] == f"{backfill}  team/load/nightly  version 1"
    assert lines[1] == "state    succeeded"
    assert re.fullmatch(
        rf"range    the times of the trigger, from 20\S+ to {month}-03T2[23]:00:00Z", lines[2]
    )
    assert "done     3 of 3" in lines
    assert "counts   3 started, 3 succeeded" in lines
    listed = noetl("backfills", "list", *place).out.splitlines()
    assert re.match(rf"{backfill}  team/load/nightly  succeeded  3 of 3 +0  20", listed[0])
    runs = noetl("runs", "list", "--tag", f"backfill={backfill}", "--json", *place).json["items"]
    assert len(runs) == 3


def test_failed_runs_of_a_list_are_retried(noetl: Command, place: tuple[str, str], folder: Path) -> None:
    name = place[0].strip("-")
    (folder / "list.yaml").write_text(f"- {name}-eu\n- {name}-bad\n")
    started = noetl("backfills", "start", NIGHTLY, "--partitions", "list.yaml", "--json", *place).json
    assert (started["partitions"], started["start_at"]) == (2, None)
    for options, counts in (
        (None, "2 started, 1 succeeded, 1 failed"),
        ((), "2 started, 1 succeeded, 1 failed"),
        (("--fresh",), "3 started, 1 succeeded, 1 failed"),
    ):
        if options is not None:
            retried = noetl("backfills", "retry", started["id"], *options, *place).out
            assert "state    running" in retried.splitlines()
        lines = wait_for_end(noetl, started["id"], place)
        assert lines[1:3] == ["state    failed", "range    a list"]
        assert f"counts   {counts}" in lines
        assert re.fullmatch(rf"failed   [0-9a-f]{{24}}  {name}-bad", lines[-1])


def test_a_backfill_is_paused_resumed_and_cancelled(noetl: Command, place: tuple[str, str]) -> None:
    options = ("--every", "1d", "--from", "2000-01-01", "--to", "2020-01-01", "--redo", "all")
    backfill = noetl("backfills", "start", NIGHTLY, *options, *place).out.strip()
    for command, state in (("pause", "paused"), ("resume", "running")):
        assert f"state    {state}" in noetl("backfills", command, backfill, *place).out.splitlines()
    cancelled = noetl("backfills", "cancel", backfill, "--runs", *place).out.splitlines()
    assert "state    cancelled" in cancelled
    assert noetl("backfills", "cancel", backfill, "--json", *place).json["state"] == "cancelled"
    other = noetl("backfills", "start", NIGHTLY, *options, *place).out.strip()
    noetl("backfills", "cancel", other, "--runs", *place)
    page = noetl("backfills", "list", "--limit", "1", *place)
    assert re.fullmatch(r"more backfills: --cursor \S+\n", page.err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("x", "--from", "2025-01-01"), "a trigger is named PLAYBOOK/NAME"),
        (("team/load/x", "--from", "2025-01-01", "--to", "2025-02-01"), "unknown trigger `x`"),
        ((NIGHTLY,), "a backfill needs `from` and `to`"),
        ((NIGHTLY, "--from", "2025-02-01", "--to", "2025-01-01"), "`from` must be before `to`"),
        ((NIGHTLY, "--from", "x", "--to", "2025-01-01"), "`from` must be a time"),
        ((NIGHTLY, "--every", "x"), "--every must be a duration of at least 1s, such as 1d, not x"),
        ((NIGHTLY, "--partitions", "none.yaml"), "cannot read none.yaml"),
        ((NIGHTLY, "--partitions", "object.yaml"), "object.yaml must be a list in YAML or JSON"),
        ((NIGHTLY, "--partitions", "broken.yaml"), "broken.yaml must be a list in YAML or JSON"),
        ((NIGHTLY, "--partitions", "twice.yaml"), "duplicate partition `a`"),
    ],
)
def test_a_wrong_start_is_refused(
    noetl: Command, place: tuple[str, str], folder: Path, options: tuple[str, ...], message: str
) -> None:
    (folder / "object.yaml").write_text("a: 1\n")
    (folder / "broken.yaml").write_text("- [a\n")
    (folder / "twice.yaml").write_text("[a, b, a]\n")
    refused = noetl("backfills", "start", *options, *place)
    assert refused.exit_code == 2
    assert message in refused.err


def test_an_unknown_backfill_is_reported(noetl: Command, place: tuple[str, str]) -> None:
    for command in ("show", "pause", "resume", "cancel", "retry"):
        refused = noetl("backfills", command, "x", *place)
        assert refused.exit_code == 2
        assert "unknown backfill `x`" in refused.err


def test_a_backfill_is_printed_with_its_runs() -> None:
    backfill = RESPONSE_EXAMPLES["Backfill"]
    assert format_backfills([], with_header=True) == []
    header, row = format_backfills([backfill], with_header=True)
    assert header[0] == "ID"
    assert row[1:5] == ("greet/nightly", "running", "3 of 30", "1")
    lines = format_backfill(backfill).splitlines()
    assert lines[-2:] == [
        "open     7c0b1f2ad1f04b0d9f1e2a3c  2026-01-04T01:30:00Z",
        "failed   8d1c2e3bd1f04b0d9f1e2a3c  2026-01-02T01:30:00Z",
    ]
