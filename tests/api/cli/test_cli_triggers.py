"""The commands `noetl triggers …`, on a store and on a service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from noetl.api.cli.display.trigger_table import format_details, format_firings, format_triggers
from noetl.api.document.examples import RESPONSE_EXAMPLES
from tests.api.cli.conftest import Command
from tests.api.cli.test_cli_url import ServedStore
from tests.e2e.test_serve import run_service

pytestmark = pytest.mark.xdist_group("service of triggers")  # The fixture of the module is made once.

TEXT = """\
name: team/load
version: "1"
input: {day: {type: string, default: none}, count: {type: integer, default: 1}}
triggers:
  - {name: nightly, type: schedule, cron: "30 2 * * *", timezone: Europe/Berlin, jitter: 10s, overlap: skip,
     if: "{{ true }}", input: {day: "{{ trigger.scheduled_at }}"}}
  - {name: ended, type: schedule, every: 1h, end: 2020-01-01T00:00:00Z, start: 2019-01-01T00:00:00Z}
steps:
  - name: load
    run: [{action: set, set: {loaded: "{{ input.day }}"}}]
"""
NIGHTLY = "team/load/nightly"
AFTER = """\
name: after
triggers: [{name: loaded, type: run, playbook: team/load, input: {day: "{{ trigger.result.loaded }}"}}]
input: {day: string}
steps: [{name: report, run: [{action: log, message: "{{ day }}"}]}]
"""

DEBOUNCED = """\
name: debounced
triggers: [{name: daily, type: schedule, every: 1d, start: 2090-01-01T00:00:00Z}]
debounce: {wait: 1h}
steps: [{name: report, run: [{action: log, message: x}]}]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        for text in (TEXT, HOOKED, AFTER, DEBOUNCED):
            response = httpx.post(f"{url}/playbooks", json={"playbook": text}, timeout=60)
            assert response.status_code == 201, response.text
        yield ServedStore(url, folder)


HOOKED = """\
name: hooked
version: "1"
input: {number: {type: integer, default: 0}}
triggers:
  - {name: sent, type: webhook, path: shop/sent, auth: {scheme: api_key}, key: "{{ trigger.body.key }}",
     answer: result, if: "{{ trigger.body.ok }}", input: {number: "{{ trigger.body.number }}"}}
  - {name: signed, type: webhook, path: shop/signed, method: PUT,
     auth: {scheme: hmac, secret: "{{ secrets.A }}", header: X-Sign}}
  - {name: after, type: run, playbook: team/load, status: [failed, timed_out]}
  - {name: arrived, type: folder, folder: orders/in, glob: "*.csv"}
steps:
  - name: keep
    run: [{action: set, set: {kept: "{{ input.number }}"}}]
"""


@pytest.fixture(params=["store", "service"])
def place(request: pytest.FixtureRequest, service: ServedStore) -> tuple[str, str]:
    """Option that names the store or the service."""
    return ("--store", service.store) if request.param == "store" else ("--url", service.url)


def test_triggers_are_listed(noetl: Command, place: tuple[str, str]) -> None:
    ended, nightly = noetl("triggers", "list", "--playbook", "team/load", *place).out.splitlines()
    assert re.match(r"team/load/ended    every 1h +-  ", ended)
    pattern = r"team/load/nightly  cron 30 2 \* \* \*, Europe/Berlin  20[-0-9]+T0[01]:30:0\dZ  in \d+ "
    assert re.match(pattern, nightly)
    first = noetl("triggers", "list", "--playbook", "team/load", "--limit", "1", *place)
    cursor = re.fullmatch(r"more triggers: --cursor (\S+)\n", first.err)
    assert cursor is not None
    page = noetl("triggers", "list", "--playbook", "team/load", "--cursor", cursor[1], "--json", *place).json
    assert [entry["name"] for entry in page["items"]] == ["nightly"]
    assert noetl("triggers", "list", "--playbook", "load", *place).err == "no triggers\n"


def test_a_trigger_is_shown_with_its_next_firings(noetl: Command, place: tuple[str, str]) -> None:
    lines = noetl("triggers", "show", NIGHTLY, "-n", "2", *place).out.splitlines()
    assert lines[:7] == [
        "team/load/nightly  version 1",
        "schedule cron 30 2 * * *, Europe/Berlin",
        "jitter   10 s",
        "overlap  skip",
        "catch up last",
        "if       {{ true }}",
        'input    {"day":"{{ trigger.scheduled_at }}"}',
    ]
    firings = [line for line in lines if re.search(r"T02:30:00\+0[12]:00  in \d", line)]
    assert firings == lines[-2:]
    assert firings[0].startswith("next     ")
    ended = noetl("triggers", "show", "team/load/ended", *place).out.splitlines()
    assert "end      2020-01-01T00:00:00.000000Z" in ended
    assert ended[-1] == "next     it does not fire any more"
    assert noetl("triggers", "show", NIGHTLY, "--json", *place).json["line"] == 5


def test_a_firing_by_hand_says_that_it_joins_a_run(noetl: Command, place: tuple[str, str]) -> None:
    first, second = (noetl("triggers", "fire", "debounced/daily", *place) for _ in range(2))
    assert first.out == second.out
    third = noetl("triggers", "fire", "debounced/daily", "--json", *place).json
    assert second.err == f"{third['starts'] - 1} starts share this run\n"
    submitted = noetl("submit", "debounced", "--url", place[1]) if place[0] == "--url" else None
    assert submitted is None or submitted.err == f"{third['starts'] + 1} starts share this run\n"


def test_a_trigger_is_fired_by_hand(noetl: Command, place: tuple[str, str], folder: Path) -> None:
    (folder / "input.json").write_text(json.dumps({"day": "monday", "count": 2}))
    fired = noetl("triggers", "fire", NIGHTLY, "--input", "input.json", "-i", "day=01", *place)
    assert re.fullmatch(r"[0-9a-f]{24}\n", fired.out), fired.err
    shown = noetl("runs", "show", fired.out.strip(), *place).out
    assert re.search(r"^trigger  nightly  20[-0-9]+T[.:0-9]+Z$", shown, re.MULTILINE)
    history = noetl("triggers", "history", NIGHTLY, *place).out.splitlines()
    assert re.fullmatch(rf"\S+Z  \S+Z  started  {fired.out.strip()}", history[0])
    limited = noetl("triggers", "history", NIGHTLY, "--limit", "1", "--json", *place).json
    assert [firing["workflow_id"] for firing in limited["items"]] == [fired.out.strip()]
    again = noetl("triggers", "fire", NIGHTLY, "--json", *place).json
    assert again["workflow_id"] != fired.out.strip()
    listed = noetl("triggers", "list", *place).out
    assert re.search(rf"started by hand\s+{again['workflow_id']}", listed)
    assert f"started by hand  {again['workflow_id']}\n" in noetl("triggers", "show", NIGHTLY, *place).out
    assert re.search(
        "more firings: --cursor", noetl("triggers", "history", NIGHTLY, "--limit", "1", *place).err
    )
    assert noetl("triggers", "history", "team/load/ended", *place).err == "no firings\n"


def test_a_firing_at_an_instant_starts_one_run(noetl: Command, place: tuple[str, str]) -> None:
    # The store is that of the service, which is asked for another instant.
    number = 1 if place[0] == "--store" else 2
    instant = noetl("triggers", "show", NIGHTLY, "--json", *place).json["firings"][number]["local"]
    first, second = (noetl("triggers", "fire", NIGHTLY, "--at", instant, *place) for _ in range(2))
    assert re.fullmatch(r"[0-9a-f]{24}\n", first.out)
    assert (first.out, first.err) == (second.out, "")
    again = (
        rf"{NIGHTLY} has fired for {re.escape(instant)} before, and its run is [a-z]+; no run was started\n"
    )
    assert re.fullmatch(again, second.err)
    assert second.exit_code == 0
    refused = noetl("triggers", "fire", NIGHTLY, "--at", "2030-01-01T00:00", *place)
    assert refused.exit_code == 2
    problem = "trigger `nightly` does not fire at 2030-01-01T00:00:00Z; then it fires at 2030-01-01T01:30:00Z"
    assert f"{problem}, at 2030-01-01T02:30:00+01:00 in Europe/Berlin\n" in refused.err


def test_a_firing_at_the_end_of_a_run_starts_one_run(noetl: Command, place: tuple[str, str]) -> None:
    run = noetl("triggers", "fire", NIGHTLY, "-i", "day=monday", *place).out.strip()
    noetl("runs", "watch", run, *place)
    fired = [noetl("triggers", "fire", "after/loaded", "--run", run, *place) for _ in range(2)]
    [started] = {result.out for result in fired}
    assert f"after/loaded has fired for the end of run {run} before" in fired[1].err
    assert f"trigger  loaded  after run {run}\n" in noetl("runs", "show", started.strip(), *place).out
    unnamed = noetl("triggers", "fire", "after/loaded", *place)
    assert "trigger `loaded` fires at the end of a run: name a run of `team/load`" in unnamed.err
    other = noetl("triggers", "fire", NIGHTLY, "--run", run, *place)
    assert "trigger `nightly` awaits no runs, so it takes no run" in other.err


def test_a_trigger_is_paused_and_resumed(noetl: Command, place: tuple[str, str]) -> None:
    assert noetl("triggers", "pause", NIGHTLY, *place).err == f"trigger {NIGHTLY} is paused\n"
    assert noetl("triggers", "pause", NIGHTLY, "--json", *place).json["paused"] is True
    assert "  paused  " in noetl("triggers", "list", *place).out
    assert "state    paused\n" in noetl("triggers", "show", NIGHTLY, *place).out
    resumed = noetl("triggers", "resume", NIGHTLY, "--catch-up", "last", *place)
    assert re.fullmatch(rf"trigger {NIGHTLY} fires next at \S+Z\n", resumed.err)
    assert noetl("triggers", "resume", NIGHTLY, "--json", *place).json["paused"] is False
    ended = noetl("triggers", "resume", "team/load/ended", *place)
    assert ended.err == "trigger team/load/ended does not fire any more\n"


def test_wrong_commands_are_refused(noetl: Command, place: tuple[str, str]) -> None:
    for arguments, message in (
        (("show", "nightly"), "a trigger is named PLAYBOOK/NAME, such as close_month/nightly, not nightly"),
        (("show", "team/load/none"), "unknown trigger `none` of playbook `team/load`"),
        (("fire", NIGHTLY, "--at", "soon"), "--at must be a time such as 2026-01-31T09:00Z, not soon"),
        (
            ("fire", NIGHTLY, "--at", "0001-01-01"),
            "--at must be a time such as 2026-01-31T09:00Z, not 0001-01-01",
        ),
    ):
        result = noetl("triggers", *arguments, *place)
        assert (result.exit_code, result.err) == (2, f"noetl: {message}\n")


def test_a_store_and_a_service_contradict_each_other(noetl: Command, service: ServedStore) -> None:
    result = noetl("triggers", "list", "--url", service.url, "--store", service.store)
    assert result.err == "noetl: --store contradicts --url; name a store or a service\n"


def test_tables_for_persons_have_a_header() -> None:
    listed = RESPONSE_EXAMPLES["TriggerPage"]["items"]
    header, row = format_triggers(listed, 0.0, with_header=True)
    assert (header[0], row[0]) == ("TRIGGER", "greet/nightly")
    assert format_triggers([{**listed[0], "last_by": "backfill"}], 0.0, with_header=False)[0][4] == (
        "started by a backfill"
    )
    firing = RESPONSE_EXAMPLES["FiringPage"]["items"][0]
    missed = {**firing, "outcome": "missed", "count": 12, "workflow_id": None, "reason": "no process"}
    assert format_firings([missed], with_header=True) == [
        ("SCHEDULED", "FIRED", "OUTCOME", "RUN", "REASON"),
        ("2026-01-30T01:30:00Z", "2026-01-30T01:30:00Z", "missed 12", "-", "no process"),
    ]
    assert format_firings([], with_header=True) == []


def test_a_firing_that_is_due_is_now() -> None:
    details = RESPONSE_EXAMPLES["TriggerDetails"]
    assert format_details(details, 4e9).splitlines()[-1].endswith("  now")
    assert format_details({**details, "paused": True}, 0.0).count("paused") == 1


def test_triggers_of_all_types_are_listed(noetl: Command, place: tuple[str, str]) -> None:
    rows = [
        line.split("  ")
        for line in noetl("triggers", "list", "--playbook", "hooked", *place).out.splitlines()
    ]
    shown = {row[0]: [cell.strip() for cell in row if cell.strip()][1] for row in rows}
    assert shown == {
        "hooked/after": "after team/load: failed, timed_out",
        "hooked/arrived": "folder orders/in, *.csv",
        "hooked/sent": "POST shop/sent, api_key",
        "hooked/signed": "PUT shop/signed, hmac",
    }


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "sent",
            ["path     shop/sent", "scheme   api_key", "answer   result within 10 s", "key      {{ trigger"],
        ),
        ("signed", ["method   PUT", "secrets  A", "header   X-Sign", "size     at most 1,048,576 bytes"]),
        ("after", ["after    team/load", "status   failed, timed_out"]),
        ("arrived", ["folder   orders/in", "files    *.csv", "settle   2 s"]),
    ],
)
def test_a_trigger_is_shown_by_the_parts_of_its_type(
    noetl: Command, place: tuple[str, str], name: str, lines: list[str]
) -> None:
    shown = noetl("triggers", "show", f"hooked/{name}", *place).out
    assert [line for line in lines if line not in shown] == []
    assert "\nnext" not in shown
    assert "schedule" not in shown


def test_a_webhook_is_fired_by_hand_with_a_request(
    noetl: Command, place: tuple[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"body": {"number": 7, "key": "k", "ok": False}}), "utf-8")
    run_id = noetl("triggers", "fire", "hooked/sent", "--data", str(file), *place).out.strip()
    history = noetl("triggers", "history", "hooked/sent", *place).out
    assert run_id in history
    shown = noetl("triggers", "show", "hooked/sent", *place).out
    assert f"started by hand  {run_id}" in shown
    unreadable = noetl("triggers", "fire", "hooked/sent", *place)
    assert unreadable.err.endswith("`number` is undefined in none; the firing has no `data`\n")
    refused = noetl("triggers", "fire", NIGHTLY, "--data", str(file), *place)
    assert "takes no data" in refused.err
    assert "not fire at times" in noetl("triggers", "fire", "hooked/sent", "--at", "2040-01-01", *place).err


def test_a_request_by_hand_is_read_from_standard_input(noetl: Command, place: tuple[str, str]) -> None:
    fire = ("triggers", "fire", "hooked/sent", "--data", "-", *place)
    request = json.dumps({"body": {"number": 7, "key": "k", "ok": False}})
    fired = noetl(*fire, stdin=request)
    assert (fired.exit_code, fired.err) == (0, "")
    assert fired.out.strip() in noetl("triggers", "history", "hooked/sent", *place).out
    assert noetl(*fire, stdin="[]").err == 'noetl: standard input must hold an object such as {"body": {}}\n'
    assert noetl(*fire, stdin="{").err.startswith("noetl: standard input is not JSON: ")


def test_misspelt_parts_of_a_request_by_hand_are_refused(noetl: Command, place: tuple[str, str]) -> None:
    fire = ("triggers", "fire", "hooked/sent", "--data", "-", *place)
    refused = noetl(*fire, stdin='{"boddy": {}}')
    assert refused.err.endswith("unknown key `boddy` in `data`; did you mean `body`?\n")
    refused = noetl(*fire, stdin='{"path": {}}')
    assert refused.err.endswith("the keys are `body`, `headers`, `id`, `method` and `query`\n")


def test_a_webhook_is_paused_and_resumed(noetl: Command, place: tuple[str, str]) -> None:
    assert "is paused" in noetl("triggers", "pause", "hooked/signed", *place).err
    assert "paused" in noetl("triggers", "list", "--playbook", "hooked", *place).out
    resumed = noetl("triggers", "resume", "hooked/signed", *place).err
    assert resumed == "trigger hooked/signed fires again: PUT shop/signed, hmac\n"
