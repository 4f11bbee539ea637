"""The commands `noetl channels …` and `noetl notifications …`, on a store and on a service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from noetl.api.cli.display.channel_table import format_channels, format_members, format_notifications
from noetl.api.document.examples import RESPONSE_EXAMPLES
from tests.api.cli.conftest import Command
from tests.api.cli.test_cli_url import ServedStore
from tests.e2e.test_serve import run_service
from tests.http_server import find_free_port

pytestmark = pytest.mark.xdist_group("service of channels")  # The fixture of the module is made once.

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
FAILING = """\
name: load
notify: {failed: held}
steps: [{name: load, run: [{action: fail, message: no rows}]}]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        address = {"url": f"http://127.0.0.1:{find_free_port()}/secret"}
        assert httpx.put(f"{url}/channels/held", json=address, timeout=60).status_code == 201
        assert httpx.post(f"{url}/channels/held/pause", timeout=60).status_code == 200
        for _ in range(2):
            run = httpx.post(
                f"{url}/workflows/run", json={"playbook": FAILING}, headers={"Prefer": "wait=20"}, timeout=60
            )
            assert run.json()["status"] == "failed", run.text
        yield ServedStore(url, folder)


@pytest.fixture(params=["store", "service"])
def place(request: pytest.FixtureRequest, service: ServedStore) -> tuple[str, str]:
    """Option that names the store or the service."""
    return ("--store", service.store) if request.param == "store" else ("--url", service.url)


def test_a_channel_is_added_listed_paused_and_removed(noetl: Command, place: tuple[str, str]) -> None:
    added = noetl("channels", "add", "ops", "--target", "https://a.test/x", "--on", "failed, late", *place)
    assert re.fullmatch(r"whsec_\S{44}\n", added.out)
    assert added.err.startswith("channel ops sends to https://a.test/…\n")
    again = noetl("channels", "add", "ops", "--target", "https://b.test", "--secret", SECRET, *place)
    assert (again.out, again.err) == ("", "channel ops sends to https://b.test\n")
    bus = noetl("channels", "add", "bus", "--target", "default", "--type", "eventbridge", "--json", *place)
    assert bus.json["secret"] is None
    lines = noetl("channels", "list", *place).out.splitlines()
    assert [line.split() for line in lines] == [
        ["bus", "eventbridge", "default", "-", "ok"],
        ["held", "webhook", lines[1].split()[2], "-", "paused"],
        ["ops", "webhook", "https://b.test", "-", "ok"],
    ]
    assert len(noetl("channels", "list", "--json", *place).json["items"]) == 3
    assert "url           https://b.test\n" in noetl("channels", "show", "ops", *place).out
    assert noetl("channels", "show", "ops", "--json", *place).json["signed"] is True
    assert noetl("channels", "pause", "ops", *place).err == "channel ops is paused\n"
    assert noetl("channels", "pause", "ops", "--json", *place).json["paused"] is True
    assert noetl("channels", "resume", "ops", *place).err == "channel ops is not paused\n"
    assert noetl("channels", "resume", "ops", "--json", *place).json["paused"] is False
    for name in ("ops", "bus"):
        assert noetl("channels", "remove", name, *place).err == f"channel {name} is removed\n"
    missing = noetl("channels", "show", "ops", *place)
    assert (missing.exit_code, "unknown channel `ops`" in missing.err) == (2, True)
    assert noetl("channels", "remove", "ops", *place).exit_code == 2


def test_a_channel_that_does_not_work_is_reported(noetl: Command, place: tuple[str, str]) -> None:
    for options in ((), ("--json",)):
        result = noetl("channels", "test", "held", *options, *place)
        assert result.exit_code == 2
        assert "channel held does not work: `" in result.err


def test_notifications_are_listed_sent_again_and_discarded(noetl: Command, place: tuple[str, str]) -> None:
    listed = noetl("notifications", "list", "--json", *place).json["items"]
    entry = next(item for item in listed if item["channel"] == "held")
    rows = noetl("notifications", "list", *place).out
    assert f"{entry['id']}  held  failed  load" in rows
    limited = noetl("notifications", "list", "--limit", "1", *place)
    assert ("--cursor" in limited.err) == (len(listed) > 1)
    assert noetl("notifications", "list", "--state", "undelivered", *place).err == "no notifications\n"
    assert (
        f"workflow id   {entry['workflow_id']}\n" in noetl("notifications", "show", entry["id"], *place).out
    )
    assert noetl("notifications", "show", entry["id"], "--json", *place).json["event"] == "failed"
    retried = noetl("notifications", "retry", entry["id"], *place)
    assert retried.err == f"notification {entry['id']} to held is due now\n"
    assert noetl("notifications", "retry", entry["id"], "--json", *place).json["attempts"] == 0
    discarded = noetl("notifications", "discard", entry["id"], *place)
    assert discarded.err == f"notification {entry['id']} is removed\n"
    missing = noetl("notifications", "discard", entry["id"], *place)
    assert (missing.exit_code, "unknown notification" in missing.err) == (2, True)


def test_a_store_without_channels_says_so(noetl: Command, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/new.db"
    assert noetl("channels", "add", "ops", "--target", "https://a.test", "--store", store).exit_code == 0
    assert noetl("channels", "remove", "ops", "--store", store).exit_code == 0
    assert noetl("channels", "list", "--store", store).err == "no channels\n"


def test_persons_see_headers_and_states() -> None:
    channel = {**RESPONSE_EXAMPLES["Channel"], "retry_at": "2026-01-30T01:35:05.000000Z"}
    refused = {**RESPONSE_EXAMPLES["Channel"], "paused": True, "paused_reason": "`a` answered 410 Gone"}
    header, failing, paused = format_channels([channel, refused], with_header=True)
    assert header[0] == "CHANNEL"
    assert failing[-1] == "fails, next attempt 2026-01-30T01:35:05Z"
    assert paused[-1] == "paused: `a` answered 410 Gone"
    assert format_channels([], with_header=True) == []
    rows = format_notifications([RESPONSE_EXAMPLES["Notification"]], with_header=True)
    assert (rows[0][0], rows[1][-1]) == ("NOTIFICATION", "`hooks.example.com` answered 503")
    assert "events        failed, late\n" in format_members(channel)
