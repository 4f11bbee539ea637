"""Webhooks of a playbook: how they are written, what is reported, and what the plan has of them."""

from __future__ import annotations

import json

import pytest
from jsonschema_rs import Draft202012Validator

from noetl.executor.actions import catalogue
from noetl.planner.plan import Header, Trigger
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.planner.trigger_sources import RunEnd, Webhook, WebhookAuth
from noetl.testing.run_harness import compile_text
from tests.planner.findings import STEP, findings, hints, messages

KEY = "auth: {scheme: api_key}"
CHECKED = f"name: t, type: webhook, path: p, {KEY}"


def trigger(text: str, head: str = "") -> str:
    """Return a playbook with one trigger, whose keys are in the form of a flow mapping."""
    return f"{head}triggers:\n- {{{text}}}\n{STEP}"


def lower_trigger(text: str, head: str = "") -> Trigger:
    """Return the only trigger of the plan."""
    (lowered,) = compile_text(trigger(text, head)).header.triggers
    return lowered


def test_all_keys_are_lowered() -> None:
    text = (
        "name: paid, type: webhook, path: shop/paid, method: PUT, max_bytes: 512KiB,"
        " answer: result, wait: 5s, remember: 1h, key: '{{ trigger.body.id }}',"
        " if: '{{ trigger.query.ok }}', input: {day: x},"
        " auth: {scheme: hmac, secret: ['{{ secrets.NEW }}', '{{secrets.OLD}}'], header: X-Signature,"
        " prefix: 'sha=', algorithm: sha512, encoding: base64}"
    )
    auth = WebhookAuth("hmac", ("NEW", "OLD"), "X-Signature", "sha=", "sha512", "base64")
    assert lower_trigger(text, "input: {day: string}\n") == Trigger(
        "paid",
        "webhook",
        Webhook("shop/paid", auth, "PUT", 512 * 1024, "result", 5.0, 3600.0),
        {"day": "x"},
        "{{ trigger.query.ok }}",
        "{{ trigger.body.id }}",
        line=4,
    )


def test_defaults_are_lowered() -> None:
    auth = "auth: {scheme: stripe, secret: '{{ secrets.S }}'}"
    lowered = lower_trigger(f"name: t, type: webhook, path: p, {auth}")
    assert lowered.source == Webhook("p", WebhookAuth("stripe", ("S",)))
    assert (lowered.source.timing, lowered.key) == ((), None)


def test_the_tolerance_is_lowered() -> None:
    auth = "auth: {scheme: standard, secret: '{{ secrets.S }}', tolerance: 1m}"
    source = lower_trigger(f"name: t, type: webhook, path: p, {auth}").source
    assert isinstance(source, Webhook)
    assert source.auth.tolerance_seconds == 60.0


def test_a_run_trigger_is_lowered_with_its_key() -> None:
    text = "name: t, type: run, playbook: load, status: [failed, timed_out], key: '{{ trigger.workflow_id }}'"
    lowered = lower_trigger(text)
    assert (lowered.source, lowered.key) == (
        RunEnd("load", ("failed", "timed_out")),
        "{{ trigger.workflow_id }}",
    )


@pytest.mark.parametrize(
    "text", [CHECKED, "name: t, type: run, playbook: load", f"{CHECKED}, key: '{{{{ 1 }}}}'"]
)
def test_a_header_is_read_back_with_its_triggers(text: str) -> None:
    header = compile_text(trigger(text)).header
    assert Header.from_json(json.loads(json.dumps(header.to_json()))) == header


@pytest.mark.parametrize(
    ("size", "bytes_"), [("1", 1), ("1B", 1), ("10kB", 10_000), ("1.5KiB", 1536), ("5MiB", 5 * 1024**2)]
)
def test_a_size_has_a_unit(size: str, bytes_: int) -> None:
    source = lower_trigger(f"{CHECKED}, max_bytes: {size}").source
    assert isinstance(source, Webhook)
    assert source.max_bytes == bytes_


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "5.1MiB", "1GB", "1 MiB", "many", "true", "[1]"])
def test_a_wrong_size_is_reported(size: str) -> None:
    assert [code for code, _ in findings(trigger(f"{CHECKED}, max_bytes: {size}"))] == ["NP012"]


@pytest.mark.parametrize(
    ("secret", "is_right"),
    [
        ("'{{ secrets.A }}'", True),
        ("' {{secrets.A_1}} '", True),
        ("['{{ secrets.A }}']", True),
        ("plain-text-value", False),
        ("'x{{ secrets.A }}'", False),
        ("'{{ secrets.A }}{{ secrets.B }}'", False),
        ("'{{ secrets.A | upper }}'", False),
        ("\"{{ secrets['A'] }}\"", False),
        ("'{{ secrets }}'", False),
        ("'{{ environment.A }}'", False),
        ("''", False),
        ("5", False),
    ],
)
def test_a_secret_is_one_name(secret: str, *, is_right: bool) -> None:
    text = trigger(f"name: t, type: webhook, path: p, auth: {{scheme: github, secret: {secret}}}")
    assert {code for code, _ in findings(text)} == (set() if is_right else {"NP012"})


def test_a_misplaced_secret_is_not_shown() -> None:
    """The value may be a real secret, so no message has it."""
    text = trigger("name: t, type: webhook, path: p, auth: {scheme: github, secret: my-secret-value}")
    assert "my-secret-value" not in " ".join([*messages(text), *map(str, hints(text))])


def test_at_most_five_secrets_are_valid() -> None:
    secrets = ", ".join(f"'{{{{ secrets.S{number} }}}}'" for number in range(6))
    text = trigger(f"name: t, type: webhook, path: p, auth: {{scheme: github, secret: [{secrets}]}}")
    assert [code for code, _ in findings(text)] == ["NP012"]


@pytest.mark.parametrize(
    ("text", "code", "source"),
    [
        (f"path: p, {KEY}, key: trigger.id", "NP407", "trigger.id"),
        (f"path: p, {KEY}, key: 'a{{{{ trigger.id }}}}'", "NP407", "'a{{ trigger.id }}'"),
        (f"path: p, {KEY}, key: '{{{{ trigger.nothing }}}}'", "NP815", "nothing"),
        (f"path: p, {KEY}, key: '{{{{ input.x }}}}'", "NP301", "input"),
        (f"path: p, {KEY}, key: '{{{{ trigger.x( }}}}'", "NP401", None),
        (f"path: p, {KEY}, if: '{{{{ trigger.scheduled_at }}}}'", "NP815", "scheduled_at"),
        (f"path: p, {KEY}, if: \"{{{{ trigger.headers['X-Kind'] == 'new' }}}}\"", "NP815", "X-Kind"),
        (f"path: p, {KEY}, key: '{{{{ trigger.headers.authorization }}}}'", "NP815", "authorization"),
        (
            f"path: p, {KEY}, key: \"{{{{ trigger.headers['x-hub-signature'] }}}}\"",
            "NP815",
            "x-hub-signature",
        ),
        (f"path: p, {KEY}, input: {{day: x}}", "NP810", "day"),
        (f"path: p, {KEY}, cron: '0 4 * * *'", "NP010", "cron"),
        (f"path: p, {KEY}, wait: 5s", "NP805", "wait"),
        (f"path: p, {KEY}, wait: 26s", "NP012", "26s"),
        (f"path: p, {KEY}, wait: 5s, answer: later", "NP012", "later"),
        ("path: p, auth: {scheme: none}", "NP812", "none"),
        (f"path: {'x' * 201}, {KEY}", "NP813", "x" * 201),
        (f"path: a/./b, {KEY}", "NP813", "a/./b"),
        (f"path: 'a%2Fb', {KEY}", "NP813", "'a%2Fb'"),
        ("path: p, auth: {scheme: hmac, secret: '{{ secrets.A }}', header: ''}", "NP011", "hmac"),
        ("path: p, auth: {scheme: hmac, secret: '{{ secrets.A }}', header: null}", "NP011", "hmac"),
        ("path: p, auth: {scheme: github, secret: null}", "NP012", "null"),
    ],
)
def test_a_mistake_is_marked(text: str, code: str, source: str | None) -> None:
    found = findings(trigger(f"name: t, type: webhook, {text}"))
    assert [entry for entry, _ in found] == [code]
    assert source is None or found == [(code, source)]


@pytest.mark.parametrize("name", ["''", "' x'", "'{{ 1 }}'", "'{{ trigger.body }}'"])
def test_a_run_trigger_awaits_a_name(name: str) -> None:
    text = f"name: t, type: run, playbook: {name}"
    assert findings(trigger(text)) == [("NP813", name)]
    assert hints(trigger(text)) == ["write a name such as `import`"]


def test_headers_that_a_request_may_have() -> None:
    key = "{{ trigger.headers['x-kind'] + trigger.headers.get('X-Kind', '') }}"
    assert findings(trigger(f'name: t, type: webhook, path: p, {KEY}, key: "{key}"')) == []


@pytest.mark.parametrize("path", ["a", "a/b-c/d_e.f", "..a", "x" * 200])
def test_a_path_has_segments(path: str) -> None:
    assert findings(trigger(f"name: t, type: webhook, path: {path}, {KEY}")) == []


def test_the_id_of_a_request_is_text() -> None:
    head = "input: {count: integer}\n"
    text = trigger(f"{CHECKED}, input: {{count: '{{{{ trigger.id }}}}'}}", head)
    assert [code for code, _ in findings(text)] == ["NP810"]
    assert findings(trigger(f"{CHECKED}, input: {{count: '{{{{ trigger.body.n }}}}'}}", head)) == []


def test_the_json_schema_describes_webhooks() -> None:
    validator = Draft202012Validator(build_json_schema(catalogue()))
    step = {"name": "a", "run": [{"action": "log", "message": "x"}]}

    def is_valid(**keys: object) -> bool:
        webhook = {"name": "t", "type": "webhook", "path": "p", "auth": {"scheme": "api_key"}, **keys}
        return validator.is_valid({"name": "play", "steps": [step], "triggers": [webhook]})

    assert is_valid()
    assert is_valid(max_bytes="1MiB", wait="5s", remember="1d", key="{{ trigger.id }}")
    assert is_valid(auth={"scheme": "github", "secret": "{{ secrets.A }}"})
    assert is_valid(auth={"scheme": "github", "secret": ["{{ secrets.A }}"]})
    assert not is_valid(max_bytes="many")
    assert not is_valid(auth={"scheme": "gitlab"})
    assert not is_valid(cron="0 4 * * *")
