"""The secrets that are searched: all of them in logs and local runs, those of a tenant in what it owns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from noetl.executor.channels.sender import Sender
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import DeliveryFailure
from noetl.executor.model.events import Event
from noetl.executor.model.run import Claim, Run, RunStatus, Visit, VisitStatus
from noetl.executor.runtime.json_logs import _JsonLines
from noetl.executor.runtime.lease_keeper import LeaseKeeper
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities
from noetl.executor.security.log_redaction import redact_log_records
from noetl.executor.security.redaction import MASK, RevealedSecrets, redact, redacting_for
from noetl.executor.security.secret_sources import register_secret_variables
from noetl.executor.stores.interface import Store
from tests.redaction import forget_secrets

SECRET = "correct-horse-battery"


@pytest.fixture(autouse=True)
def secret_of_acme(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_secrets(monkeypatch)
    register_secret_variables({"NOETL_TENANT_SECRET_acme__TOKEN": SECRET})


def test_all_secrets_are_searched_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    redact_log_records()
    with redacting_for("zoo"):
        logging.getLogger("noetl.test").warning("it is %s", SECRET)
        line = _JsonLines().format(logging.makeLogRecord({"msg": "x", "fields": {"value": SECRET}}))
    assert "it is ***" in caplog.text and SECRET not in caplog.text
    assert MASK in line and SECRET not in line


@pytest.mark.parametrize(("tenant", "expected"), [("acme", MASK), ("zoo", SECRET)])
def test_the_failure_of_a_channel_is_searched_for_the_secrets_of_its_tenant(
    monkeypatch: pytest.MonkeyPatch, tenant: str, expected: str
) -> None:
    monkeypatch.setattr(
        Sender, "_send", lambda *_: DeliveryFailure(f"it said {SECRET}", is_away=False), raising=True
    )
    channel = Channel(tenant, "ops", "webhook", "https://example.com", 1.0)
    with redacting_for("zoo"):
        failure = Sender().send(channel, cast("Any", None), 1.0)
    assert failure is not None and failure.reason == f"it said {expected}"


@pytest.mark.parametrize(
    ("capabilities", "tenant", "expected"),
    [
        (Capabilities(), "acme", MASK),
        (Capabilities(), "zoo", SECRET),
        (local_run_capabilities(Path()), "default", MASK),
    ],
)
def test_events_of_a_renewal_are_searched_for_the_secrets_of_their_run(
    capabilities: Capabilities, tenant: str, expected: str
) -> None:
    written: list[Event] = []

    class RenewedQueue:
        def renew(self, visit: Visit, until: float, events: Any = (), already_written: int = 0) -> bool:
            written.extend(events)
            return True

    class Work(VisitExecutor):
        def __init__(self) -> None:
            object.__setattr__(self, "capabilities", capabilities)

        def execute(self, claim: Claim, cancelled: object = None, events: Any = None) -> None:
            events.append(Event("x", 0.0, payload={"text": SECRET}))
            # The thread of the leases writes events while the visit is executed.
            (held,) = lease_keeper._active()
            renewal = threading.Thread(target=lease_keeper._renew, args=(held, held.events))
            renewal.start()
            renewal.join()

    store = type("RenewingStore", (), {"queue": RenewedQueue()})()
    lease_keeper = LeaseKeeper(cast("Store", store), 30.0, lambda: 0.0)
    run = Run("r", tenant, "p", None, "h", RunStatus.RUNNING, "service", "q", {}, {}, {}, (), None, 0.0)
    visit = Visit("v", "r", "s", VisitStatus.RUNNING, 1, {}, fence=1)
    lease_keeper.execute(Work(), Claim(run, visit))
    assert [event.payload for event in written] == [{"text": expected}]


def test_a_search_is_built_again_only_if_its_own_secrets_change(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = RevealedSecrets()
    for tenant in ("acme", "zoo"):
        secrets.add(f"secret-of-{tenant}", tenant)
    built = count_builds(monkeypatch, lambda: secrets.add("another-of-zoo", "zoo"))
    with redacting_for("acme"):
        assert secrets.redact("secret-of-acme") == MASK  # A secret of another tenant is added meanwhile.
        assert secrets.redact("secret-of-acme") == MASK
        assert len(built) == 1
        secrets.add("second-of-acme", "acme")
        assert secrets.redact("second-of-acme") == MASK
    assert len(built) == 2


def test_a_search_without_a_secret_that_is_added_meanwhile_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = RevealedSecrets()
    secrets.add("first-of-acme", "acme")
    count_builds(monkeypatch, lambda: secrets.add("second-of-acme", "acme"))
    with redacting_for("acme"):
        assert secrets.redact("first-of-acme") == MASK
        assert secrets.redact("second-of-acme") == MASK


def test_a_thread_may_redact_a_log_while_it_builds_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection of garbage may run code of a library that logs."""
    secrets = RevealedSecrets()
    secrets.add("first-of-acme", "acme")
    count_builds(monkeypatch, lambda: secrets.redact("a text of a log"))
    with redacting_for("acme"):
        assert secrets.redact("first-of-acme") == MASK


def count_builds(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> list[tuple[str, ...]]:
    """Return a list that gets the values of each search that is built. Call `meanwhile` in the first one."""
    from noetl.executor.security import redaction

    built: list[tuple[str, ...]] = []

    class Search(redaction._SecretSearch):
        def __init__(self, values: tuple[str, ...]) -> None:
            super().__init__(values)
            built.append(values)
            if len(built) == 1:
                meanwhile()

    monkeypatch.setattr(redaction, "_SecretSearch", Search)
    return built


def test_a_local_run_searches_all_secrets() -> None:
    """Commands inherit the environment there, with the secrets of all tenants."""
    with redacting_for(local_run_capabilities(Path()).redacted_tenant("default")):
        assert redact(SECRET) == MASK
    with redacting_for(Capabilities().redacted_tenant("default")):
        assert redact(SECRET) == SECRET
