"""Registration of playbooks that use others, over the service and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from noetl.api.service import registered_plans
from noetl.api.service.aliases import MAX_NAMED_CALLERS
from noetl.api.service.errors import PlaybookError
from noetl.api.service.registered_plans import StoredPlaybooks
from noetl.api.service.services import TenantServices, create_services
from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.precedence import ACCOUNTS
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from tests.api.responses import assert_problem

QUIET = "steps: [{name: a, run: [{action: log, message: x}]}]\n"
IMPORT = """\
name: import
input: {day: string}
steps: [{name: a, run: [{action: set, set: {rows: 1}}]}]
output: {rows: "{{ rows }}"}
"""
CALLER = """\
name: caller
steps:
  - name: a
    run:
      - {action: workflow, playbook: import, input: {day: x}, as: loaded}
      - {action: log, message: "{{ loaded.rows }}"}
"""


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/noetl.db"
    opened = open_store(url)
    yield opened
    opened.close()


@pytest.fixture
def services(store: Store) -> TenantServices:
    return create_services(store, catalogue())


def refused_codes(services: TenantServices, text: str, *, is_forced: bool = False) -> list[str]:
    """Return the codes of the findings about a refused playbook."""
    with pytest.raises(PlaybookError) as refusal:
        services.playbooks.register(text, is_forced=is_forced)
    return [found.code for found in refusal.value.diagnostics]


def awaiting(name: str, playbook: str, condition: str = "") -> str:
    return f"name: {name}\ntriggers: [{{name: t, type: run, playbook: {playbook}{condition}}}]\n{QUIET}"


def test_a_playbook_must_fit_those_that_it_uses(services: TenantServices) -> None:
    assert refused_codes(services, CALLER) == ["NP817"]
    services.playbooks.register(IMPORT)
    assert refused_codes(services, CALLER.replace("loaded.rows", "loaded.lines")) == ["NP818"]
    assert services.playbooks.register(CALLER)[1]
    assert not services.playbooks.register(CALLER)[1]
    versioned = CALLER.replace("playbook: import", "playbook: import, version: '1'")
    assert refused_codes(services, versioned.replace("'1'", "'2'")) == ["NP817"]
    assert services.playbooks.register(versioned)[1]


def test_callers_must_fit_a_new_version(services: TenantServices) -> None:
    services.playbooks.register(IMPORT)
    services.playbooks.register(CALLER)
    changed = IMPORT.replace("output: {rows", "output: {lines")
    assert refused_codes(services, changed) == ["NP822"]
    assert services.playbooks.find("import").items[0].version == "1"
    entry, is_new = services.playbooks.register(changed, is_forced=True)
    assert (entry.version, is_new) == ("2", True)
    assert not services.playbooks.register(changed)[1]
    assert services.playbooks.register(IMPORT)[1]


def test_a_version_that_is_registered_is_not_checked_again(services: TenantServices) -> None:
    versioned = "version: '7'\n" + CALLER
    services.playbooks.register(IMPORT)
    services.playbooks.register(versioned)
    services.playbooks.unregister("import")
    assert not services.playbooks.register(versioned)[1]
    assert refused_codes(services, CALLER) == ["NP817"]


def test_playbooks_must_not_lead_to_each_other_without_end(services: TenantServices) -> None:
    services.playbooks.register(f"name: b\n{QUIET}")
    services.playbooks.register(awaiting("a", "b"))
    for is_forced in (False, True):
        assert refused_codes(services, awaiting("b", "a"), is_forced=is_forced) == ["NP816"]
    assert services.playbooks.register(awaiting("b", "a", ", if: '{{ now() }}'"))[1]
    again = CALLER.replace("playbook: import", "playbook: caller")
    assert refused_codes(services, again, is_forced=True) == ["NP819"]


def test_only_some_playbooks_are_searched(
    services: TenantServices, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcde":
        services.playbooks.register(f"name: {name}\n{QUIET}")
    services.playbooks.register(IMPORT)
    services.playbooks.register(CALLER.replace("name: caller", "name: z"))
    monkeypatch.setattr(registered_plans, "_PAGE_SIZE", 2)
    stored = StoredPlaybooks(store, services.tenant)
    assert list(stored.names()) == ["a", "b", "c", "d", "e", "import", "z"]
    assert [found.header.name for found in stored.live_versions()] == list(stored.names())
    assert list(stored.versions("a")) == ["1"]
    monkeypatch.setattr(registered_plans, "MAX_CALLERS", 6)
    assert services.playbooks.register(IMPORT.replace("output: {rows", "output: {lines"))[1]


def register_lost(services: TenantServices, store: Store, text: str) -> None:
    """Register a playbook whose plan was deleted."""
    header = services.compiler.plan(text).header
    lost = RegisteredPlaybook(services.tenant, header.name, header.version, "0" * 64, 0.0)
    store.registry.register(lost, triggers=header.triggers)


@pytest.mark.parametrize("is_forced", [False, True])
def test_a_damaged_playbook_does_not_stop_others(
    services: TenantServices, store: Store, caplog: pytest.LogCaptureFixture, is_forced: bool
) -> None:
    services.playbooks.register(IMPORT)
    services.playbooks.register(CALLER)
    register_lost(services, store, awaiting("broken", "import"))
    for text in (
        IMPORT.replace("output: {rows", "output: {other: 1, rows"),
        CALLER.replace("name: caller", "name: user").replace("playbook: import", "playbook: broken"),
        awaiting("end", "import"),
        awaiting("broken", "import") + "output: {x: 1}\n",
    ):
        assert services.playbooks.register(text, is_forced=is_forced)[1]
    assert "playbook broken is left out of the checks of a registration" in caplog.text
    register_lost(services, store, "version: 'z'\n" + CALLER)
    changed = IMPORT.replace("output: {rows", "output: {lines")
    assert is_forced or services.playbooks.register(changed)[1]


def test_a_promotion_is_checked_and_a_registration_behind_it_is_not(services: TenantServices) -> None:
    services.playbooks.register(IMPORT)
    services.playbooks.register(CALLER)
    services.aliases.put("import", "live", "1")
    assert services.playbooks.register(IMPORT.replace("output: {rows", "output: {lines"))[1]
    for change in (
        lambda: services.aliases.put("import", "live", "2"),
        lambda: services.aliases.remove("import", "live"),
    ):
        with pytest.raises(PlaybookError) as refusal:
            change()
        assert [found.code for found in refusal.value.diagnostics] == ["NP822"]
    assert services.aliases.get("import", "live").version == "1"
    assert services.aliases.put("import", "stable", "2")[1]
    assert services.aliases.put("import", "live", "2", is_forced=True)[0].version == "2"
    assert services.aliases.put("import", "live", "2")[0].version == "2"
    assert services.aliases.put("import", "live", "1")[0].version == "1"
    live = services.aliases.remove("import", "live", is_forced=True)
    assert live is not None
    assert (live.version, live.pinned) == ("2", False)


def test_calls_follow_the_live_version_and_aliases(services: TenantServices) -> None:
    services.playbooks.register(IMPORT)
    services.playbooks.register(IMPORT.replace("{day: string}", "{date: string}"))
    assert set(refused_codes(services, CALLER)) == {"NP818"}
    aliased = CALLER.replace("playbook: import", "playbook: import, alias: stable")
    assert refused_codes(services, aliased) == ["NP817"]
    services.aliases.put("import", "stable", "1")
    assert services.playbooks.register(aliased)[1]
    services.aliases.put("import", "live", "1")
    assert services.playbooks.register(CALLER)[1]


def test_an_alias_that_is_called_is_not_removed(services: TenantServices) -> None:
    services.playbooks.register(IMPORT)
    services.aliases.put("import", "stable", "1")
    services.aliases.put("import", "other", "1")
    aliased = CALLER.replace("playbook: import", "playbook: import, alias: stable")
    names = [f"caller{number}" for number in range(MAX_NAMED_CALLERS + 1)]
    for name in names:
        services.playbooks.register(aliased.replace("name: caller", f"name: {name}"))
    services.playbooks.register(awaiting("end", "import"))
    with pytest.raises(RejectedError) as refusal:
        services.aliases.remove("import", "stable")
    places = ", ".join(f"line 5 of `{name}@1`" for name in names[:-1])
    message = f"alias `stable` of `import` is called in {places} and 1 more;"
    assert refusal.value.reason == "alias_in_use"
    assert refusal.value.message == f"{message} change the callers first, or force the removal"
    assert services.aliases.remove("import", "other") is None
    assert services.aliases.remove("import", "stable", is_forced=True) is None


def test_a_playbook_that_calls_its_own_alias_counts(services: TenantServices) -> None:
    services.playbooks.register(IMPORT)
    services.aliases.put("import", "stable", "1")
    call = "{action: workflow, playbook: import, alias: stable, input: {day: x}, if: '{{ input.day }}'}"
    services.playbooks.register(IMPORT.replace("run: [", f"run: [{call}, "))
    with pytest.raises(RejectedError, match="is called in line 3 of `import@2`; change the callers first"):
        services.aliases.remove("import", "stable")


def test_callers_are_live_versions(services: TenantServices) -> None:
    services.playbooks.register(IMPORT)
    services.playbooks.register(CALLER)
    services.aliases.put("caller", "live", "1")
    services.playbooks.register(f"name: caller\n{QUIET}")
    assert refused_codes(services, IMPORT.replace("output: {rows", "output: {lines")) == ["NP822"]
    services.aliases.remove("caller", "live")
    assert services.playbooks.register(IMPORT.replace("output: {rows", "output: {lines"))[1]


def test_other_tenants_do_not_count(store: Store) -> None:
    services = create_services(store, catalogue())
    services.playbooks.register(IMPORT)
    assert refused_codes(services.for_tenant("other"), CALLER) == ["NP817"]


@pytest.mark.anyio
async def test_the_problem_has_the_findings(http: httpx.AsyncClient) -> None:
    response = await http.post("/playbooks", json={"playbook": CALLER})
    assert_problem(response, 422, "invalid-playbook")
    (found,) = response.json()["diagnostics"]
    assert (found["code"], found["line"], found["column"], found["end_column"]) == ("NP817", 5, 38, 44)
    assert (found["severity"], found["hint"]) == ("error", "register it first")
    assert response.json()["detail"] == (
        "The playbook has 1 error; nothing was started or stored. "
        "Line 5: unknown playbook `import` (register it first)."
    )
    forced = await http.post("/playbooks?force=true", json={"playbook": CALLER})
    assert forced.status_code == 201
    await http.post("/playbooks", json={"playbook": IMPORT})
    broken = await http.post("/playbooks", json={"playbook": IMPORT.replace("day: string", "date: string")})
    assert [found["code"] for found in broken.json()["diagnostics"]] == ["NP822", "NP822"]


@pytest.mark.anyio
async def test_a_registration_is_checked_with_the_credit_of_its_tenant(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def pause() -> None:
        threads.append(ACCOUNTS.find("default").threads)

    monkeypatch.setattr(registered_plans, "wait_for_slice", pause)
    await http.post("/playbooks", json={"playbook": IMPORT})
    assert (await http.post("/playbooks", json={"playbook": CALLER})).status_code == 201
    assert set(threads) == {1}


@pytest.mark.anyio
async def test_a_long_playbook_is_checked(http: httpx.AsyncClient) -> None:
    comment = "# long\n" * 2000
    response = await http.post("/playbooks", json={"playbook": comment + CALLER})
    assert [(found["code"], found["line"]) for found in response.json()["diagnostics"]] == [("NP817", 2005)]
