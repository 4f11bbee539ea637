"""Firings of webhooks: one run for each key within the time that it is remembered."""

from __future__ import annotations

import hmac
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.engine import webhook_firing
from noetl.executor.engine.firing import MAX_CONFLICTS, Firer
from noetl.executor.engine.hand_firing import HandFiring, fire_by_hand
from noetl.executor.engine.webhook_firing import (
    BORDER_SECONDS,
    Delivery,
    MissingSecretError,
    RememberWindow,
    WebhookRequest,
    check_sender,
    find_webhook,
    perform_request,
    source_key,
    view_request,
)
from noetl.executor.errors import RejectedError, TriggerChangedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.triggers import FiringOutcome, LiveTrigger, firing_id, new_firing, pause_trigger
from noetl.executor.security.webhook_signatures import SignatureError, sign_standard
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.trigger_sources import WebhookAuth
from noetl.testing.run_harness import FakeClock, compile_text

START = 1_800_000_000.0
DAY = 86_400.0
SECRET = "whsec_c2VjcmV0LW9mLWEtc2VuZGVy"
TEXT = """
name: play
input: {{number: {{type: integer, default: 0}}}}
triggers:
- name: hook
  type: webhook
  path: hook
  auth: {auth}
  remember: {remember}
  {more}
steps:
- {{name: a, run: [{{action: log, message: "{{{{ input.number }}}}"}}]}}
"""

DEBOUNCE = "\ndebounce: {wait: 1s}"
"""What makes firings near a border require that the trigger is as it was read."""


class HookedPlaybook:
    """A store with a registered playbook that has one webhook, and its clock."""

    def __init__(
        self, more: str = "", *, remember: str = "1d", auth: str = "{scheme: api_key}", now: float = START
    ) -> None:
        self.store = MemoryStore()
        self.clock = FakeClock(now)
        self.register(more, remember=remember, auth=auth)

    def register(self, more: str = "", *, remember: str, auth: str = "{scheme: api_key}") -> None:
        """Register another version."""
        plan = compile_text(TEXT.format(auth=auth, remember=remember, more=more))
        self.store.plans.save(plan)
        playbook = RegisteredPlaybook("default", "play", None, plan.hash, self.clock())
        self.store.registry.register(playbook, triggers=plan.header.triggers)

    def firer(self) -> Firer:
        found = find_webhook(self.store, "default", "hook", self.clock())
        assert found is not None
        return found

    def send(self, body: bytes = b"{}", value: Any = None, **headers: str) -> Delivery:
        """Send a request, with underscores for hyphens in the names of its headers."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        request = WebhookRequest("POST", named, {}, body, value)
        return perform_request(self.firer(), request, self.clock)

    def firings(self) -> list[Any]:
        return self.store.triggers.firings("default", "play", "hook")[0][::-1]


def test_a_repeat_gets_the_first_answer() -> None:
    service = HookedPlaybook()
    first = service.send()
    assert (first.outcome, first.is_repeat) == (FiringOutcome.STARTED, False)
    for _ in range(23):
        service.clock.advance(3600)
        again = service.send()
        assert (again.run_id, again.is_repeat) == (first.run_id, True)
    assert [firing.run_id for firing in service.firings()] == [first.run_id]
    assert service.send(b"other").run_id != first.run_id


def test_the_same_request_starts_another_run_when_it_is_forgotten() -> None:
    service = HookedPlaybook()
    runs = []
    for _ in range(5):
        runs.append(service.send().run_id)
        service.clock.advance(DAY - 1)
        assert service.send().run_id == runs[-1]
        service.clock.advance(1)
    assert len(set(runs)) == 5


@pytest.mark.parametrize("remember", ["3h", "2d", "7d"])
def test_a_version_that_remembers_for_another_time_knows_earlier_requests(remember: str) -> None:
    service = HookedPlaybook(remember="1d")
    first = service.send()
    service.clock.advance(3600)
    service.register(remember=remember)
    service.clock.advance(3600)
    again = service.send()
    assert (again.run_id, again.is_repeat) == (first.run_id, True)
    # The shorter of both times counts.
    service.clock.advance((3600 if remember == "3h" else DAY - 7200) - 1)
    assert service.send().run_id == first.run_id
    service.clock.advance(1)
    assert service.send().run_id != first.run_id


def test_versions_that_return_to_an_earlier_time_know_all_requests() -> None:
    service = HookedPlaybook(remember="1d")
    runs = [service.send(b"0").run_id]
    for number, remember in enumerate(("2d", "3d", "1d"), 1):
        service.clock.advance(60)
        service.register(remember=remember)
        service.register("max_bytes: 1KiB", remember=remember)
        runs.append(service.send(str(number).encode()).run_id)
    assert [service.send(str(number).encode()).run_id for number in range(4)] == runs
    assert [seconds for seconds, _ in service.firer().trigger.earlier_windows] == [2 * DAY, 3 * DAY]
    service.clock.advance(3 * DAY)
    service.register(remember="1d")
    assert service.firer().trigger.earlier_windows == ()


def test_earlier_commits_read_a_webhook_that_has_remembered_for_another_time() -> None:
    service = HookedPlaybook(remember="1d")
    plain = service.firer().trigger.to_json()
    service.register(remember="2d")
    trigger = service.firer().trigger
    assert trigger.earlier_windows == ((DAY, START),)
    stored = trigger.to_json()
    # They refuse a row with other names, and compare the first word of `timing`.
    assert stored.keys() == plain.keys()
    assert stored["timing"].split()[0] == trigger.timing
    assert LiveTrigger.from_json(stored) == trigger
    named = stored | {"timing": trigger.timing, "earlier_windows": [[DAY, START]]}
    assert LiveTrigger.from_json(named) == trigger


@pytest.mark.parametrize("scheme", ["standard", "stripe"])
def test_a_recorded_request_starts_no_second_run_while_its_signed_time_is_accepted(scheme: str) -> None:
    auth = f"{{scheme: {scheme}, secret: '{{{{ secrets.HOOK }}}}', tolerance: 5m}}"
    service = HookedPlaybook(remember="1m", auth=auth)
    first = service.send(webhook_id="msg_1")
    service.clock.advance(2 * 300 - 1)
    assert service.send(webhook_id="msg_1").run_id == first.run_id
    service.clock.advance(1)
    assert service.send(webhook_id="msg_1").run_id != first.run_id


@given(
    pauses=st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=30),
    start=st.floats(0, 120, allow_nan=False),
)
def test_no_two_runs_of_a_key_start_within_its_time(pauses: list[float], start: float) -> None:
    service = HookedPlaybook(remember="1m", now=START + start)
    started: list[float] = []
    for pause in pauses:
        if not service.send().is_repeat:
            started.append(service.clock())
        service.clock.advance(pause)
    assert all(later - earlier >= 60 for earlier, later in pairwise(started))


@given(now=st.floats(0, 1e9, allow_nan=False), later=st.floats(0, 600, allow_nan=False))
def test_processes_in_two_windows_know_that_they_are_near_their_border(now: float, later: float) -> None:
    window = RememberWindow("key", DAY)
    if window.number_at(now) != window.number_at(now + later):
        assert window.is_near_border(now)
        assert window.is_near_border(now + later)


def test_two_processes_at_the_border_of_windows_start_one_run() -> None:
    """One has read that there is no run, and writes its own after the other."""
    service = HookedPlaybook()
    request = WebhookRequest("POST", {}, {}, b"{}", None)
    key = source_key(WebhookAuth("api_key"), request)
    window = RememberWindow(new_firing(service.firer().trigger, key, START).id, DAY)
    border = next(
        START + second
        for second in range(int(DAY))
        if window.number_at(START + second) != window.number_at(START)
    )
    service.clock.advance(border - 1 - START)
    early = service.firer()
    service.clock.advance(2)
    late = service.send()
    assert (late.outcome, late.is_repeat) == (FiringOutcome.STARTED, False)
    delivery = perform_request(early, request, service.clock)
    assert (delivery.run_id, delivery.is_repeat) == (late.run_id, True)
    assert len(service.firings()) == 1
    # Only a schedule has its last run.
    assert service.firer().trigger.last_run is None


def test_a_request_that_joins_a_run_of_its_border_names_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it named the run that it would have started, which does not exist."""
    service = HookedPlaybook(remember="1m")
    monkeypatch.setattr(webhook_firing, "_find_earlier", lambda *_: None)
    monkeypatch.setattr(RememberWindow, "border_name", lambda *_: "border")
    first = service.send()
    monkeypatch.setattr(RememberWindow, "number_at", lambda *_: 7)
    again = service.send()
    assert (again.run_id, again.is_repeat) == (first.run_id, True)
    assert again.run_id is not None
    assert service.store.runs.get("default", again.run_id) is not None


def test_other_requests_near_the_border_do_not_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one request of a busy sender in twenty was refused, as each of them changed the trigger."""
    service = HookedPlaybook(remember="1m")
    early, request = service.firer(), WebhookRequest("POST", {}, {}, b"early", None)
    later = service.send(b"later")
    monkeypatch.setattr(webhook_firing, "MAX_CONFLICTS", 1)
    delivery = perform_request(early, request, service.clock)
    assert (delivery.outcome, delivery.is_repeat) == (FiringOutcome.STARTED, False)
    assert delivery.run_id != later.run_id
    assert len(service.firings()) == 2


def test_many_processes_at_once_start_one_run() -> None:
    service = HookedPlaybook()
    with ThreadPoolExecutor(8) as pool:
        deliveries = list(pool.map(lambda _: service.send(), range(40)))
    assert len({delivery.run_id for delivery in deliveries}) == 1
    assert sum(not delivery.is_repeat for delivery in deliveries) == 1


def test_a_trigger_that_always_changes_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    service = HookedPlaybook(DEBOUNCE, remember="1m")

    def refuse(*_: Any) -> None:
        raise TriggerChangedError("changed")

    monkeypatch.setattr(service.store.runs, "fire", refuse)
    with pytest.raises(RejectedError, match="changed meanwhile"):
        service.send()


def test_there_is_no_pause_after_the_last_try(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("noetl.executor.engine.firing.time.sleep", pauses.append)
    service = HookedPlaybook(DEBOUNCE, remember="1m")

    def refuse(*_: Any) -> None:
        raise TriggerChangedError("changed")

    monkeypatch.setattr(service.store.runs, "fire", refuse)
    with pytest.raises(RejectedError, match="changed meanwhile"):
        service.send()
    assert len(pauses) == MAX_CONFLICTS - 1


def test_a_condition_and_an_input_decide() -> None:
    more = "if: '{{ trigger.body.ok }}'\n  input: {number: '{{ trigger.body.number }}'}"
    service = HookedPlaybook(more)
    assert service.send(b"0", value={"ok": False}).outcome is FiringOutcome.FILTERED
    started = service.send(value={"ok": True, "number": 5})
    assert started.run_id is not None
    run = service.store.runs.get("default", started.run_id)
    assert run is not None
    assert run.input == {"number": 5}
    assert run.trigger is not None
    assert run.trigger["type"] == "webhook"
    rejected = service.send(b"[]", value={"ok": True, "number": "x"})
    assert (rejected.outcome, rejected.run_id) == (FiringOutcome.REJECTED, None)
    assert "number" in (rejected.reason or "")
    outcomes = {str(firing.outcome) for firing in service.firings()}
    assert outcomes == {"filtered", "started", "rejected"}


@pytest.mark.parametrize("value", [None, {"key": None}, {"key": "x" * 1025}, {"key": []}])
def test_a_key_without_a_value_rejects_the_request(value: Any) -> None:
    service = HookedPlaybook("key: '{{ trigger.body.key }}'")
    assert service.send(value=value).outcome is FiringOutcome.REJECTED
    assert [firing.outcome for firing in service.firings()] == ["rejected"]


def test_a_key_may_be_any_text() -> None:
    service = HookedPlaybook(r"""key: '{{ "\ud800" }}' """)
    assert service.send(b"1").run_id == service.send(b"2").run_id


def test_a_key_replaces_that_of_the_request() -> None:
    service = HookedPlaybook("key: '{{ trigger.body.key }}'")
    first = service.send(b"1", {"key": "a"})
    assert service.send(b"2", {"key": "a"}).run_id == first.run_id
    assert service.send(b"1", {"key": "b"}).run_id != first.run_id


@pytest.mark.parametrize(
    ("scheme", "headers", "value", "key"),
    [
        ("github", {"x-github-delivery": "d"}, {"id": "x"}, "body"),
        ("hmac", {"idempotency-key": "d"}, {"id": "x"}, "body"),
        ("stripe", {}, {"id": "evt_1"}, "id evt_1"),
        ("stripe", {}, {"id": 5}, "body"),
        ("stripe", {}, ["id"], "body"),
        ("standard", {"webhook-id": "msg_1"}, {"id": "x"}, "id msg_1"),
        ("api_key", {"idempotency-key": "k"}, None, "id k"),
        ("none", {"idempotency-key": "k"}, None, "id k"),
        ("api_key", {"idempotency-key": ""}, None, "body"),
        ("api_key", {"idempotency-key": "k" * 1025}, None, f"id {sha256(b'k' * 1025).hexdigest()}"),
    ],
)
def test_what_is_signed_tells_requests_apart(
    scheme: Any, headers: dict[str, str], value: Any, key: str
) -> None:
    found = source_key(WebhookAuth(scheme), WebhookRequest("POST", headers, {}, b"body", value))
    assert found == key or (key == "body" and found.startswith("body ") and len(found) == 69)


@pytest.mark.parametrize("scheme", ["github", "stripe", "standard", "hmac", "api_key", "none"])
def test_the_query_tells_unsigned_requests_apart(scheme: Any) -> None:
    def key_of(**query: str) -> str:
        return source_key(WebhookAuth(scheme), WebhookRequest("POST", {}, query, b"", None))

    assert key_of(id="1", at="2") == key_of(at="2", id="1")
    keys = {key_of(), key_of(id="1"), key_of(id="2"), key_of(id="1", at="2")}
    assert len(keys) == (4 if scheme in ("api_key", "none") else 1)


def test_templates_see_no_credentials() -> None:
    names = [
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "x-api_key",
        "x-auth-key",
        "x-goog-iap-jwt-assertion",
        "cf-access-jwt-assertion",
        "x-amzn-oidc-data",
        "x-gitlab-token",
        "x-my-sign",
        "x-hub-signature",
        "x-amz-security-token",
        "webhook-id",
        "x-session-id",
        "x-auth-request-email",
    ]
    auth = WebhookAuth("hmac", header="X-My-Sign")
    view = view_request(auth, WebhookRequest("PUT", dict.fromkeys(names, "x"), {"a": "1"}, b"", None), "id 7")
    assert view == {
        "method": "PUT",
        "headers": {"webhook-id": "x", "x-session-id": "x", "x-auth-request-email": "x"},
        "query": {"a": "1"},
        "body": None,
        "id": "7",
    }


def test_the_sender_is_checked_with_the_secrets_of_the_tenant(caplog: pytest.LogCaptureFixture) -> None:
    auth = "{scheme: standard, secret: ['{{ secrets.NEW }}', '{{ secrets.OLD }}']}"
    firer = HookedPlaybook(auth=auth).firer()
    headers = sign_standard(SECRET, "msg", START, b"{}")
    check_sender(firer, headers, b"{}", {"NOETL_SECRET_OLD": SECRET})
    assert "NEW" in caplog.text
    with pytest.raises(SignatureError):
        check_sender(firer, headers, b"[]", {"NOETL_SECRET_OLD": SECRET})
    with pytest.raises(MissingSecretError):
        check_sender(firer, headers, b"{}", {})
    with pytest.raises(MissingSecretError):
        check_sender(firer, headers, b"{}", {"NOETL_SECRET_OLD": "whsec_"})


@pytest.mark.parametrize(("scheme", "wrong"), [("standard", "whsec_no base64"), ("github", "")])
def test_a_wrong_secret_of_a_list_leaves_the_others_valid(
    scheme: str, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    auth = f"{{scheme: {scheme}, secret: ['{{{{ secrets.NEW }}}}', '{{{{ secrets.OLD }}}}']}}"
    firer = HookedPlaybook(auth=auth).firer()
    digest = hmac.digest(SECRET.encode(), b"{}", "sha256").hex()
    headers = sign_standard(SECRET, "msg", START, b"{}") | {"x-hub-signature-256": f"sha256={digest}"}
    environ = {"NOETL_SECRET_NEW": wrong, "NOETL_SECRET_OLD": SECRET}
    check_sender(firer, headers, b"{}", environ)
    assert "`NEW`" in caplog.text
    with pytest.raises(SignatureError):
        check_sender(firer, headers, b"[]", environ)


def test_a_scheme_without_signatures_is_not_checked_by_them() -> None:
    check_sender(HookedPlaybook().firer(), {}, b"{}", {})


def test_a_trigger_that_is_removed_meanwhile_is_reported() -> None:
    service = HookedPlaybook(DEBOUNCE, remember="1m")
    firer = service.firer()
    service.store.registry.unregister("default", "play", "1", now=START)
    with pytest.raises(RejectedError, match="changed meanwhile"):
        perform_request(firer, WebhookRequest("POST", {}, {}, b"{}", None), service.clock)


def test_a_run_that_another_process_starts_meanwhile_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    service = HookedPlaybook()
    first = service.send()
    # The other process has not committed when this one reads the runs.
    monkeypatch.setattr(service.store.runs, "summary", lambda *_: None)
    again = service.send()
    assert (again.run_id, again.is_repeat) == (first.run_id, True)
    assert len(service.firings()) == 1


def test_a_record_that_cannot_be_written_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    service = HookedPlaybook(f"if: '{{{{ false }}}}'\n{DEBOUNCE}", remember="1m")
    advance, tries = service.store.triggers.advance, iter((False, True))
    monkeypatch.setattr(service.store.triggers, "advance", lambda changed: next(tries) and advance(changed))
    assert service.send().outcome is FiringOutcome.FILTERED
    assert len(service.firings()) == 1


@pytest.mark.parametrize(("data", "number"), [({"body": {"number": 4}}, 4), (None, 0)])
def test_a_firing_by_hand_has_the_data_of_its_request(data: dict[str, Any] | None, number: int) -> None:
    service = HookedPlaybook("input: {number: '{{ (trigger.body or {}).number | default(0) }}'}")
    trigger = service.firer().trigger
    run, is_new = fire_by_hand(service.store, trigger, HandFiring("k", data=data), service.clock())
    assert (run.input, is_new) == ({"number": number}, True)
    assert run.id == firing_id("default", "play", "hook", "manual k")


def test_an_unknown_path_has_no_webhook() -> None:
    service = HookedPlaybook()
    assert find_webhook(service.store, "default", "other", START) is None
    assert find_webhook(service.store, "other", "hook", START) is None


def test_a_change_of_the_trigger_lets_a_request_at_the_border_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = HookedPlaybook(DEBOUNCE, remember="1m")
    firer = service.firer()
    service.store.triggers.advance(pause_trigger(firer.trigger, START))
    request = WebhookRequest("POST", {}, {}, b"{}", None)
    assert perform_request(firer, request, service.clock).outcome is FiringOutcome.STARTED
    assert BORDER_SECONDS > 60
    monkeypatch.setattr(webhook_firing, "MAX_CONFLICTS", 0)
    with pytest.raises(RejectedError):
        perform_request(firer, request, service.clock)
