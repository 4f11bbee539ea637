"""The commands `noetl limits …`, on a store and on a service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from noetl.api.cli.display.limit_table import format_queue
from tests.api.cli.conftest import Command
from tests.api.cli.test_cli_url import ServedStore
from tests.e2e.test_serve import run_service

pytestmark = pytest.mark.xdist_group("service of limits")  # The fixture of the module is made once.

PLAYBOOK = """\
name: user
steps: [{name: load, concurrency: {use: closed}, run: [{action: log, message: hello}]}]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        yield ServedStore(url, folder)


@pytest.fixture(params=["store", "service"])
def place(request: pytest.FixtureRequest, service: ServedStore) -> tuple[str, str]:
    """Option that names the store or the service."""
    return ("--store", service.store) if request.param == "store" else ("--url", service.url)


def test_a_limit_is_made_listed_and_removed(noetl: Command, place: tuple[str, str]) -> None:
    assert (
        "limit api: at most 5 steps at once"
        in noetl("limits", "set", "api", "5", "--of", "steps", *place).err
    )
    assert noetl("limits", "list", *place).out.split() == ["api", "steps", "5", "0", "0"]
    page = json.loads(noetl("limits", "list", "--json", *place).out)
    assert page["items"][0]["units"] == 5
    shown = noetl("limits", "show", "api", *place)
    assert (shown.out, "limit api: 0 of 5 held, 0 waiting" in shown.err) == ("", True)
    single = noetl("limits", "set", "api", "1", "--of", "steps", *place)
    assert single.err == "limit api: at most 1 step at once\n"
    other_kind = noetl("limits", "set", "api", "1", "--of", "runs", *place)
    assert (other_kind.exit_code, "is of steps, not of runs" in other_kind.err) == (2, True)
    changed = noetl("limits", "set", "api", "0", "--of", "steps", "--json", *place)
    assert json.loads(changed.out)["units"] == 0
    assert "limit api is removed" in noetl("limits", "remove", "api", *place).err
    assert "no limits" in noetl("limits", "list", "--in-use", *place).err
    for command in ("show", "remove"):
        failed = noetl("limits", command, "api", *place)
        assert "unknown limit `api`; " in failed.err
        assert "; `noetl limits list --in-use` lists those of playbooks and steps" in failed.err


def test_an_unknown_limit_has_a_pointer_to_those_that_exist(noetl: Command, tmp_path: Path) -> None:
    place = ("--store", f"sqlite:///{tmp_path}/store.db")
    for number in range(7):
        noetl("limits", "set", f"api-{number}", "5", "--of", "steps", *place)
    pointer = "; `noetl limits list --in-use` lists those of playbooks and steps"
    for name, hint in {
        "api-22": "did you mean `api-2`?",
        "mail": "limits: `api-0`, `api-1`, `api-2`, `api-3`, `api-4` and 2 more",
    }.items():
        for command in ("show", "remove"):
            failed = noetl("limits", command, name, *place)
            assert (failed.exit_code, failed.out) != (0, "")
            assert f"unknown limit `{name}`; {hint}{pointer}" in failed.err


def test_a_rate_is_made_and_listed(noetl: Command, place: tuple[str, str]) -> None:
    made = noetl("limits", "set", "calls", "--rate", "100/1m", "--of", "steps", *place)
    assert "limit calls: at most 100 per 1m, of steps" in made.err
    assert noetl("limits", "list", *place).out.split() == ["calls", "steps", "100", "per", "1m", "0", "0"]
    assert json.loads(noetl("limits", "list", "--json", *place).out)["items"][0]["per"] == 60.0
    assert "0 of 100 per 1m taken, 0 reserved for later" in noetl("limits", "show", "calls", *place).err
    assert "is a rate" in noetl("limits", "set", "calls", "5", "--of", "steps", *place).err
    noetl("limits", "remove", "calls", *place)
    for size in (["5", "--rate", "5/1m"], []):
        failed = noetl("limits", "set", "calls", *size, "--of", "steps", *place)
        assert failed.err.endswith("; write `UNITS` or `--rate UNITS/TIME`\n")
    failed = noetl("limits", "set", "calls", "--rate", "5/1ms", "--of", "steps", *place)
    assert failed.err == "noetl: `--rate` is `5/1ms`: the window must be from `1s` to `31d`\n"
    failed = noetl("limits", "set", "api", "--rate", "5", "--of", "steps", *place)
    assert failed.err == "noetl: `--rate` is `5`: a rate must be a number and a time, such as `100/1m`\n"


def test_a_wrong_name_is_refused(noetl: Command, place: tuple[str, str]) -> None:
    failed = noetl("limits", "set", "a b", "1", "--of", "runs", *place)
    assert "the name of a limit must be 1 to 64 letters" in failed.err


def test_a_limit_of_all_tenants_is_made_in_a_store(noetl: Command, tmp_path: Path) -> None:
    place = ("--store", f"sqlite:///{tmp_path}/store.db")
    set_limit = ("limits", "set", "api", "2", "--of", "steps")
    assert "at most 2 steps at once in all tenants" in noetl(*set_limit, "--shared", *place).err
    assert noetl("limits", "list", *place).out.split() == ["api", "steps", "2", "0", "0", "all"]
    assert "0 of 2 held, 0 waiting, shared by all tenants" in noetl("limits", "show", "api", *place).err
    assert "limit `api` is shared by all tenants" in noetl(*set_limit, *place).err
    assert "limit `api` is shared by all tenants" in noetl("limits", "remove", "api", *place).err
    assert "limit api is removed" in noetl("limits", "remove", "api", "--shared", *place).err
    noetl("limits", "set", "api", "2", "--of", "runs", *place)
    refused = noetl("limits", "remove", "api", "--shared", *place).err
    assert "unknown limit `api`; no limit was set" in refused


def test_a_rate_of_all_tenants_is_made_in_a_store(noetl: Command, tmp_path: Path) -> None:
    place = ("--store", f"sqlite:///{tmp_path}/store.db")
    set_rate = ("limits", "set", "api", "--rate", "100/1m", "--of", "steps", "--shared", *place)
    assert "limit api: at most 100 per 1m, of steps in all tenants" in noetl(*set_rate).err
    listed = noetl("limits", "list", *place).out.split()
    assert listed == ["api", "steps", "100", "per", "1m", "0", "0", "all"]
    shown = noetl("limits", "show", "api", *place).err
    assert "limit api: 0 of 100 per 1m taken, 0 reserved for later, shared by all tenants" in shown
    refused = noetl("limits", "set", "api", "--rate", "5/1m", "--of", "steps", *place).err
    assert "limit `api` is shared by all tenants" in refused
    assert "is a rate" in noetl("limits", "set", "api", "5", "--of", "steps", "--shared", *place).err
    assert "limit api is removed" in noetl("limits", "remove", "api", "--shared", *place).err


def test_a_limit_of_all_tenants_needs_a_store(noetl: Command, service: ServedStore) -> None:
    for command in (("set", "all", "2", "--of", "steps"), ("remove", "all")):
        refused = noetl("limits", *command, "--shared", "--url", service.url)
        assert "a service does not change limits of all tenants" in refused.err
    assert "unknown limit `all`" in noetl("limits", "show", "all", "--store", service.store).err


def test_a_step_that_a_full_limit_left_out_is_shown(
    noetl: Command, service: ServedStore, tmp_path: Path
) -> None:
    noetl("limits", "set", "full", "0", "--of", "steps", "--url", service.url)
    (tmp_path / "user.yaml").write_text(PLAYBOOK.replace("use: closed", "use: full, when_full: skip"))
    run = noetl("submit", str(tmp_path / "user.yaml"), "--url", service.url).out.strip()
    noetl("runs", "watch", run, "--url", service.url)
    for place in (("--url", service.url), ("--store", service.store)):
        assert "load was left out, because limit `full` was full\n" in noetl("runs", "show", run, *place).out
        shown = noetl("runs", "show", run, "--step", "load", *place).out
        assert "  was left out, because limit `full` was full\n" in shown
        assert ">left out<" in noetl("runs", "graph", run, "-f", "svg", *place).out


def test_what_waits_is_shown(noetl: Command, service: ServedStore, tmp_path: Path) -> None:
    place = ("--url", service.url)
    noetl("limits", "set", "closed", "0", "--of", "steps", *place)
    (tmp_path / "user.yaml").write_text(PLAYBOOK)
    run = noetl("submit", str(tmp_path / "user.yaml"), *place).out.strip()
    while not (queue := json.loads(noetl("limits", "show", "closed", "--json", *place).out))["items"]:
        pass
    assert [use["workflow_id"] for use in queue["items"]] == [run]
    assert noetl("limits", "show", "closed", *place).out.split()[::6] == [run, "waits"]
    status = noetl("runs", "show", run, *place)
    assert "load waits for limit `closed`, next" in status.out + status.err
    failed = noetl("limits", "remove", "closed", *place)
    assert "limit `closed` is in use" in failed.err
    noetl("limits", "set", "closed", "1", "--of", "steps", *place)
    while json.loads(noetl("limits", "show", "closed", "--json", *place).out)["items"]:
        pass


def test_a_limit_that_a_playbook_names_is_removed_only_by_force(
    noetl: Command, place: tuple[str, str], tmp_path: Path
) -> None:
    noetl("limits", "set", "named", "1", "--of", "steps", *place)
    (tmp_path / "user.yaml").write_text(PLAYBOOK.replace("closed", "named"))
    noetl("playbooks", "register", str(tmp_path / "user.yaml"), *place)
    refused = noetl("limits", "remove", "named", *place)
    assert (refused.exit_code, "is named by step `load` of `user@" in refused.err) == (2, True)
    assert "limit named is removed" in noetl("limits", "remove", "named", "--force", *place).err
    noetl("playbooks", "remove", "user", *place)


def test_a_limit_is_removed_if_playbooks_find_another_one_with_its_name(
    noetl: Command, tmp_path: Path
) -> None:
    place = ("--store", f"sqlite:///{tmp_path}/store.db")
    set_limit = ("limits", "set", "closed", "2", "--of", "steps")
    (tmp_path / "user.yaml").write_text(PLAYBOOK)
    noetl(*set_limit, *place)
    noetl("playbooks", "register", str(tmp_path / "user.yaml"), *place)
    noetl(*set_limit, "--shared", *place)
    assert noetl("limits", "remove", "closed", *place).exit_code == 0
    refused = noetl("limits", "remove", "closed", "--shared", *place)
    assert "limit `closed` is named by step `load` of `user@1`; change" in refused.err
    assert noetl("limits", "remove", "closed", "--shared", "--force", *place).exit_code == 0


def test_what_uses_a_rate_has_no_priority() -> None:
    use = {
        "workflow_id": "r",
        "visit": None,
        "units": 1,
        "flow": "f",
        "priority": None,
        "held_at": "2026-01-31T09:30:00.000000Z",
        "queued_at": None,
        "begins_at": None,
    }
    shown = {
        is_rate: format_queue([use], is_rate=is_rate, with_header=False)[0][5] for is_rate in (True, False)
    }
    assert shown == {True: "-", False: "first"}
