"""The commands `noetl playbooks …`, on a store and on a service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.cli.conftest import Command
from tests.api.cli.test_cli_url import ServedStore
from tests.e2e.test_serve import run_service

pytestmark = pytest.mark.xdist_group("service of playbooks")  # The fixture of the module is made once.

FIRST = "name: team/NAME\nsteps: [{name: a, run: [{action: log, message: one}]}]\n"
SECOND = FIRST.replace("one", "two")
SCHEDULED = "triggers: [{name: nightly, type: schedule, every: 1d}]\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        yield ServedStore(url, folder)


@pytest.fixture(params=["store", "service"])
def place(request: pytest.FixtureRequest, service: ServedStore) -> tuple[str, str]:
    """Option that names the store or the service."""
    return ("--store", service.store) if request.param == "store" else ("--url", service.url)


@pytest.fixture
def name(place: tuple[str, str], request: pytest.FixtureRequest) -> str:
    """Name of a playbook that no other test has."""
    return f"{place[0][2:]}-{request.function.__name__}"


def write(name: str, text: str, folder: Path) -> str:
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    path.write_text(text.replace("NAME", name))
    return str(path)


def test_playbooks_are_registered(noetl: Command, place: tuple[str, str], name: str, tmp_path: Path) -> None:
    first, second = write(name, FIRST, tmp_path), write(name, SECOND + SCHEDULED, tmp_path)
    result = noetl("playbooks", "register", first, second, *place)
    assert result.out == f"team/{name}@1\nteam/{name}@2\n"
    assert result.err.splitlines() == [
        "registered",
        "registered; services and workers of the store fire its trigger from now on",
    ]
    again = noetl("playbooks", "register", second, "--json", *place)
    assert [entry["version"] for entry in again.json] == ["2"]
    assert noetl("playbooks", "register", second, *place).err == "registered before; nothing has changed\n"
    assert noetl("triggers", "list", "--playbook", f"team/{name}", *place).out.startswith(f"team/{name}/n")


def test_a_registration_names_the_triggers_that_have_no_firing_left(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    ended = "triggers:\n- {name: o, type: schedule, every: 1h, end: '2000-01-01'}\n"
    rare = "- {name: leap, type: schedule, cron: 0 0 29 2 *, end: '2023-01-01'}\n"
    daily = "- {name: nightly, type: schedule, every: 1d}\n"
    path = write(name, FIRST + ended + rare + daily, tmp_path)
    hint = "(write a later `end`, or remove the trigger)"
    lines = noetl("playbooks", "register", path, *place).err.splitlines()
    assert lines[0] == "registered; services and workers of the store fire 1 of its 3 triggers from now on"
    found = [re.sub(r":\d+: warning: ", ": ", line) for line in lines[1:]]
    assert found == [
        f"{path}:4: NP802 trigger `o` has no firing left before its end, 2000-01-01T00:00:00Z {hint}",
        f"{path}:5: NP802 trigger `leap` has no firing left before its end, 2023-01-01T00:00:00Z {hint}",
    ]
    for number, triggers in ((1, ended), (2, ended + rare)):
        noun = "its trigger has" if number == 1 else "its 2 triggers have"
        registered = noetl("playbooks", "register", write(name, SECOND + triggers, tmp_path), *place)
        assert registered.err.startswith(f"registered; {noun} no firing left\n")
    again = noetl("playbooks", "register", path, "--json", *place)
    assert [finding["code"] for finding in again.json[0]["diagnostics"]] == ["NP802", "NP802"]


def test_playbooks_are_listed_and_shown(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    noetl("playbooks", "register", write(name, FIRST, tmp_path), write(name, SECOND, tmp_path), *place)
    lines = noetl("playbooks", "list", "--name", f"team/{name}", *place).out.splitlines()
    assert [line.split()[:2] for line in lines] == [[f"team/{name}", "2"], [f"team/{name}", "1"]]
    assert re.search(r"  20[-0-9]+T[0-9:]+Z  \S", lines[0])
    page = noetl("playbooks", "list", "--limit", "1", "--name", f"team/{name}", *place)
    cursor = re.fullmatch(r"more playbooks: --cursor (\S+)\n", page.err)
    assert cursor is not None
    rest = noetl("playbooks", "list", "--name", f"team/{name}", "--cursor", cursor[1], "--json", *place)
    assert [entry["version"] for entry in rest.json["items"]] == ["1"]
    assert any(
        entry.startswith(f"team/{name} ") for entry in noetl("playbooks", "list", *place).out.splitlines()
    )
    assert noetl("playbooks", "show", f"team/{name}@1", *place).out == FIRST.replace("NAME", name)
    assert noetl("playbooks", "show", f"team/{name}", *place).out == SECOND.replace("NAME", name)
    shown = noetl("playbooks", "show", f"team/{name}", "--json", *place).json
    assert (shown["source"], shown["live_version"]) == (SECOND.replace("NAME", name), shown["version"])


def test_playbooks_are_compared(noetl: Command, place: tuple[str, str], name: str, tmp_path: Path) -> None:
    first = write(name, FIRST, tmp_path)
    noetl("playbooks", "register", first, *place)
    alone = noetl("playbooks", "diff", f"team/{name}", *place)
    assert alone.err == f"noetl: there is no version of team/{name} before 1; name a file or a version\n"
    noetl("playbooks", "register", write(name, SECOND, tmp_path), *place)
    result = noetl("playbooks", "diff", f"team/{name}", *place)
    assert result.exit_code == 1
    assert result.out.splitlines() == [
        f"--- team/{name}@1",
        f"+++ team/{name}@2",
        "@@ -1,2 +1,2 @@",
        f" name: team/{name}",
        "-steps: [{name: a, run: [{action: log, message: one}]}]",
        "+steps: [{name: a, run: [{action: log, message: two}]}]",
    ]
    noetl("playbooks", "promote", f"team/{name}@1", "--as", "stable", *place)
    old, new = [f"--- team/{name}@1", f"+++ team/{name}@2"], [f"--- team/{name}@2", f"+++ team/{name}@1"]
    for first_text, second_text, header in (
        ("@1", "2", old),
        ("@2", "1", new),
        ("", "1", new),
        ("@1", f"team/{name}@2", old),
        ("@2", f"team/{name}@stable", new),
        ("@stable", "live", old),
        ("@live", "stable", new),
    ):
        shown = noetl("playbooks", "diff", f"team/{name}{first_text}", second_text, *place)
        assert shown.out.splitlines()[:2] == header
    assert noetl("playbooks", "diff", f"team/{name}@live", *place).out == result.out
    with_file = noetl("playbooks", "diff", f"team/{name}", first, *place)
    assert with_file.out.splitlines()[:2] == [f"--- team/{name}@2", f"+++ {first}"]
    equal = noetl("playbooks", "diff", f"team/{name}@1", first, *place)
    assert (equal.exit_code, equal.out) == (0, "")


def test_versions_of_two_playbooks_are_compared(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    files = [write(name, FIRST, tmp_path), write(f"{name}-copy", FIRST, tmp_path)]
    noetl("playbooks", "register", *files, *place)
    copied = noetl("playbooks", "diff", f"team/{name}@1", f"team/{name}-copy@1", *place)
    assert copied.out.splitlines()[:2] == [f"--- team/{name}@1", f"+++ team/{name}-copy@1"]
    unknown = noetl("playbooks", "diff", f"team/{name}@1", f"team/{name}@9", *place)
    assert (unknown.exit_code, unknown.out) == (2, "")
    assert f"unknown version `9` of playbook `team/{name}`" in unknown.err
    neither = noetl("playbooks", "diff", f"team/{name}@1", "9", *place)
    assert neither.err == f"noetl: there is no file 9, and no version or alias `9` of `team/{name}`\n"
    no_file = noetl("playbooks", "diff", f"team/{name}@1", "reprt@2.yaml", *place)
    assert "cannot read reprt@2.yaml" in no_file.err


def test_a_version_is_promoted_and_live_follows_the_newest_again(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    playbook = f"team/{name}"
    files = [write(name, FIRST + SCHEDULED, tmp_path), write(name, SECOND, tmp_path)]
    noetl("playbooks", "register", *files, *place)
    promoted = noetl("playbooks", "promote", f"{playbook}@1", *place)
    assert promoted.err == f"live of {playbook} is version 1\n"
    assert noetl("triggers", "list", "--playbook", playbook, *place).out.startswith(f"{playbook}/nightly")
    staged = noetl("playbooks", "promote", f"{playbook}@2", "--as", "staging", "--json", *place)
    assert (staged.json["name"], staged.json["version"]) == ("staging", "2")
    listed = noetl("playbooks", "list", "--name", playbook, *place).out.splitlines()
    assert [line.split("  ")[-2:] for line in listed] == [["1 (pinned)", "staging=2"]] * 2
    shown = noetl("playbooks", "show", playbook, *place)
    assert shown.out == SECOND.replace("NAME", name)
    assert shown.err == f"version 2 of {playbook}; live is pinned to 1; aliases: staging=2\n"
    live = noetl("playbooks", "show", f"{playbook}@live", *place)
    assert live.out == (FIRST + SCHEDULED).replace("NAME", name)
    refused = noetl("playbooks", "remove", f"{playbook}@1", *place)
    assert f"`live` is an alias of version `1` of `{playbook}`; move or remove it first" in refused.err
    unpinned = noetl("playbooks", "unpin", playbook, *place)
    assert unpinned.err == f"live of {playbook} follows the newest version, which is 2\n"
    assert noetl("triggers", "list", "--playbook", playbook, *place).out == ""
    removed = noetl("playbooks", "unpin", f"{playbook}@staging", *place)
    assert removed.err == f"removed the alias staging of {playbook}\n"
    shown = noetl("playbooks", "show", playbook, *place)
    assert shown.err == f"version 2 of {playbook}; live is 2\n"


def test_wrong_promotions_are_refused(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    playbook = f"team/{name}"
    noetl("playbooks", "register", write(name, FIRST, tmp_path), *place)
    for arguments, message in (
        (("promote", playbook), f"name a version, such as {playbook}@1"),
        (("promote", f"{playbook}@9"), f"unknown version `9` of playbook `{playbook}`"),
        (("promote", f"{playbook}@1", "--as", "1"), "begin with a letter, not `1`"),
        (("unpin", playbook), f"`live` of playbook `{playbook}` follows the newest version already"),
        (("unpin", f"{playbook}@staging"), f"unknown alias `staging` of playbook `{playbook}`"),
        (("unpin", "unknown"), "unknown playbook `unknown`"),
    ):
        refused = noetl("playbooks", *arguments, *place)
        assert refused.exit_code != 0
        assert message in refused.err


def test_a_promotion_that_breaks_callers_is_refused(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    noetl("playbooks", "register", write(name, CALLED, tmp_path), write(name, CALLER, tmp_path), *place)
    assert noetl("playbooks", "promote", f"team/{name}@1", *place).exit_code == 0
    changed = write(name, CALLED.replace("day", "date"), tmp_path)
    assert noetl("playbooks", "register", changed, *place).out == f"team/{name}@2\n"
    for command in (("promote", f"team/{name}@2"), ("unpin", f"team/{name}")):
        refused = noetl("playbooks", *command, *place)
        assert refused.exit_code == 1
        assert "error[NP822]: line 5 of `" in refused.err
        assert f"team/{name}@2:2:" in refused.err
    assert noetl("playbooks", "promote", f"team/{name}@2", "--force", *place).exit_code == 0
    assert noetl("playbooks", "unpin", f"team/{name}", "--force", *place).exit_code == 0


def test_playbooks_are_removed(noetl: Command, place: tuple[str, str], name: str, tmp_path: Path) -> None:
    noetl("playbooks", "register", write(name, FIRST, tmp_path), write(name, SECOND, tmp_path), *place)
    unclear = noetl("playbooks", "remove", f"team/{name}", *place)
    assert unclear.err == f"noetl: name a version, such as team/{name}@1, or add --all for all versions\n"
    assert noetl("playbooks", "remove", f"team/{name}@2", *place).err == f"removed team/{name}@2\n"
    assert noetl("playbooks", "show", f"team/{name}", *place).out == FIRST.replace("NAME", name)
    assert noetl("playbooks", "remove", f"team/{name}", "--all", *place).err == f"removed team/{name}\n"
    removed = noetl("playbooks", "show", f"team/{name}", *place)
    assert removed.err == f"noetl: unknown playbook `team/{name}`\n"
    for command in (("remove", "--all"), ("diff",)):
        missing = noetl("playbooks", *command, f"team/{name}", *place)
        assert missing.err == f"noetl: unknown playbook `team/{name}`\n"


def test_a_wrong_playbook_registers_nothing(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    wrong = write(name, FIRST.replace("action: log", "action: logs"), tmp_path)
    result = noetl("playbooks", "register", write(name, FIRST, tmp_path), wrong, *place)
    assert result.exit_code == 1
    assert "unknown action type `logs`" in result.err
    assert noetl("playbooks", "show", f"team/{name}", *place).exit_code != 0


def test_a_store_is_created_by_the_first_registration(noetl: Command, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/new.db"
    assert noetl("playbooks", "list", "--store", store).exit_code != 0
    path = write("x", FIRST, tmp_path)
    assert noetl("playbooks", "register", path, "--store", store).out == "team/x@1\n"
    assert noetl("playbooks", "list", "--store", store).out.startswith("team/x  1  ")


def test_a_store_in_memory_is_refused(noetl: Command, tmp_path: Path) -> None:
    path = write("x", FIRST, tmp_path)
    result = noetl("playbooks", "register", path, "--store", "memory://")
    assert result.err.startswith("noetl: the store memory:// is lost with its process")


CALLED = "name: team/NAME\ninput: {day: string}\nsteps: [{name: a, run: [{action: log, message: one}]}]\n"
CALLER = """\
name: NAME-caller
steps:
  - name: a
    run:
      - action: workflow
        playbook: team/NAME
        input: {day: x}
"""
AFTER = (
    "name: NAME-after\ntriggers: [{name: t, type: run, playbook: NAME-caller}]\n" + FIRST.partition("\n")[2]
)


def test_a_playbook_that_does_not_fit_is_refused(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    caller = write(name, CALLER, tmp_path)
    refused = noetl("playbooks", "register", caller, *place)
    assert (refused.exit_code, refused.out) == (1, "")
    lines = refused.err.splitlines()
    assert [line for line in lines if not line.startswith("  = help: ")] == [
        f"error[NP817]: unknown playbook `team/{name}`",
        f" --> {caller}:6:19",
        "  |",
        f"6 |         playbook: team/{name}",
        "  |" + " " * 19 + "^" * len(f"team/{name}"),
        "  |",
        "",
        f"noetl: 1 error in {caller}",
    ]
    assert noetl("playbooks", "register", caller, "--force", *place).out == f"{name}-caller@1\n"
    changed = write(name, CALLED.replace("day", "date"), tmp_path)
    noetl("playbooks", "register", write(name, CALLED, tmp_path), *place)
    broken = noetl("playbooks", "register", changed, *place)
    assert broken.exit_code == 1
    assert f"error[NP822]: line 5 of `{name}-caller@1` would break" in broken.err
    assert noetl("playbooks", "register", changed, "--force", *place).out == f"team/{name}@2\n"


def test_used_playbooks_are_registered_first(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    texts = (AFTER, CALLER, CALLED, CALLED.replace("one", "two"))
    files = [write(name, text, tmp_path) for text in texts]
    result = noetl("playbooks", "register", *files, *place)
    assert result.out.split() == [f"team/{name}@1", f"team/{name}@2", f"{name}-caller@1", f"{name}-after@1"]


def test_playbooks_that_use_each_other_keep_their_order(
    noetl: Command, place: tuple[str, str], name: str, tmp_path: Path
) -> None:
    call = "{action: workflow, playbook: NAME-TO, if: '{{ run.id }}'}"
    text = f"name: NAME-FROM\nsteps: [{{name: a, run: [{call}]}}]\n"
    files = [
        write(name, text.replace("FROM", caller).replace("TO", called), tmp_path)
        for caller, called in (("a", "b"), ("b", "a"))
    ]
    assert f"unknown playbook `{name}-b`" in noetl("playbooks", "register", *files, *place).err
    result = noetl("playbooks", "register", "--force", *files, *place)
    assert result.out.split() == [f"{name}-a@1", f"{name}-b@1"]
