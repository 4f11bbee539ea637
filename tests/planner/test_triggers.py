"""Triggers of a playbook: how they are written, what is reported, and what the plan has of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import BranchPosition, Switch, SwitchState
from noetl.planner.plan import Header, Trigger
from noetl.planner.program.template_uses import MAX_CODE
from noetl.planner.schedules.schedule import LAST, CatchUp, Schedule
from noetl.planner.schedules.zone_names import find_zone, zone_names
from noetl.planner.syntax.instants import parse_instant
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.testing.run_harness import compile_text
from tests.planner.findings import STEP, diagnose, findings

INPUT = "input: {day: string, count: {type: integer, default: 1}, region: {enum: [eu, us], default: eu}}\n"
CHECKED = "type: schedule, every: 1h"


def trigger(text: str, head: str = "") -> str:
    """Return a playbook with one trigger, whose keys are in the form of a flow mapping."""
    return f"{head}triggers:\n- {{{text}}}\n{STEP}"


def lower_trigger(text: str, head: str = "") -> Trigger:
    """Return the only trigger of the plan."""
    (lowered,) = compile_text(trigger(text, head)).header.triggers
    return lowered


def test_all_keys_are_lowered() -> None:
    text = (
        "name: nightly, type: schedule, cron: '30 4 * * MON-FRI', timezone: Europe/Berlin, "
        "start: '2030-01-01', end: '2031-01-01T00:00:00Z', catch_up: {mode: all, within: 1d, limit: 100}, "
        "overlap: skip, jitter: 5m, input: {day: '{{ trigger.local }}'}, if: '{{ trigger.previous_at }}'"
    )
    zone = find_zone("Europe/Berlin")
    assert lower_trigger(text, "input: {day: string}\n") == Trigger(
        "nightly",
        "schedule",
        Schedule(
            "30 4 * * MON-FRI",
            None,
            "Europe/Berlin",
            parse_instant("2030-01-01", zone),
            parse_instant("2031-01-01T01:00:00", zone),
            CatchUp("all", 86_400.0, 100),
            300.0,
            "skip",
        ),
        {"day": "{{ trigger.local }}"},
        "{{ trigger.previous_at }}",
        line=4,
    )


def test_defaults_are_lowered() -> None:
    assert lower_trigger("name: t, type: schedule, every: 90s") == Trigger(
        "t", "schedule", Schedule(every_seconds=90.0, catch_up=LAST), line=3
    )


@pytest.mark.parametrize(
    ("text", "catch_up"),
    [("none", CatchUp("none")), ("last", LAST), ("all", CatchUp("all")), ("{mode: all}", CatchUp("all"))],
)
def test_catch_up_has_a_short_form(text: str, catch_up: CatchUp) -> None:
    assert lower_trigger(f"name: t, {CHECKED}, catch_up: {text}").schedule.catch_up == catch_up


def test_a_trigger_that_is_switched_off_has_a_false_condition() -> None:
    assert lower_trigger(f"name: t, {CHECKED}, if: false").condition == "{{ false }}"
    assert lower_trigger(f"name: t, {CHECKED}, if: true").condition is None


def test_a_header_is_read_back_with_its_triggers() -> None:
    header = compile_text(trigger(f"name: t, {CHECKED}, catch_up: all, jitter: 1s")).header
    assert Header.from_json(json.loads(json.dumps(header.to_json()))) == header


def test_a_plan_without_triggers_has_no_such_key() -> None:
    """The hashes of earlier versions stay."""
    assert "triggers" not in compile_text(STEP).to_json()
    assert compile_text(STEP).hash == compile_text(f"{STEP}triggers: []\n").hash
    assert compile_text(STEP).hash != compile_text(trigger(f"name: t, {CHECKED}")).hash


def test_a_run_continues_in_a_version_with_other_triggers() -> None:
    old = compile_text(trigger(f"name: t, {CHECKED}"))
    new = compile_text(trigger("name: u, type: schedule, cron: '0 4 * * *', if: '{{ trigger.local }}'"))
    state = SwitchState((BranchPosition("a", 9, {}),), {})
    verdict = may_continue(old, new, state, Switch(), catalogue())
    assert verdict.is_yes


@pytest.mark.parametrize(
    ("text", "code", "source"),
    [
        ("cron: '0 25 * * *'", "NP801", "'0 25 * * *'"),
        ("cron: '@daily'", "NP801", "'@daily'"),
        (f"cron: '{'1,' * 300}1 * * * *'", "NP801", f"'{'1,' * 300}1 * * * *'"),
        ("cron: '*/60 * * * *'", "NP801", "'*/60 * * * *'"),
        ("cron: '0 0 30 2 *'", "NP802", "'0 0 30 2 *'"),
        ("cron: '0 0 */30 2 MON#5'", "NP802", "'0 0 */30 2 MON#5'"),
        ("every: 1h, start: '2030-01-01', end: '2030-01-01'", "NP802", "'2030-01-01'"),
        ("cron: '0 0 1 1 *', end: '1970-01-01'", "NP802", "'1970-01-01'"),
        ("every: 1h, timezone: Berlin", "NP803", "Berlin"),
        ("every: 1h, timezone: localtime", "NP803", "localtime"),
        ("every: 1h, timezone: right/Europe/Berlin", "NP803", "right/Europe/Berlin"),
        ("every: 1h, cron: '0 4 * * *'", "NP804", "every"),
        ("cron: '0 8 13 * FRI'", "NP809", "'0 8 13 * FRI'"),
        ("every: 500ms", "NP012", "500ms"),
        ("every: 1h, jitter: 25h", "NP012", "25h"),
        ("every: 1h, catch_up: {mode: all, within: 31d}", "NP012", "31d"),
        ("every: 1h, catch_up: {mode: all, limit: 1001}", "NP012", "1001"),
        ("every: 1h, catch_up: newest", "NP012", "newest"),
        ("every: 1h, start: soon", "NP012", "soon"),
        ("every: 1h, end: '1969-12-31'", "NP012", "'1969-12-31'"),
        ("every: 1h, overlap: queue", "NP012", "queue"),
        ("every: 1h, input: [day]", "NP012", "[day]"),
        ("every: 1h, if: trigger.local", "NP407", "trigger.local"),
        ("every: 1h, if: '{{ trigger.body }}'", "NP815", "body"),
        ("every: 1h, if: '{{ input.day }}'", "NP301", "input"),
        ("every: 1h, if: '{{ secrets.KEY }}'", "NP301", "secrets"),
        ("every: 1h, if: '{{ trigger.local.x( }}'", "NP401", None),
        ("every: 1h, if: \"{{ trigger.local | regex_search('(') }}\"", "NP408", "'('"),
        ("every: 1h, tz: Europe/Berlin", "NP010", "tz"),
    ],
)
def test_a_mistake_is_marked(text: str, code: str, source: str | None) -> None:
    found = findings(trigger(f"name: t, type: schedule, {text}"))
    assert [entry for entry, _ in found] == [code]
    assert source is None or found == [(code, source)]


@pytest.mark.parametrize(
    "text",
    [
        "name: t, type: webhook",
        "name: t, type: schedule, cron: '0 4 * * *'",
        "name: t, type: schedule, every: 1s, jitter: 24h, catch_up: {mode: all, within: 30d, limit: 1000}",
        f"name: t, {CHECKED}, start: '2030-01-01T08:00', end: '2030-02-01T08:00+02:00'",
        "name: t, type: schedule, cron: '0 8 */2 * FRI'",
        "name: t, type: schedule, every: 1h, if: '{{ now() > 0 and uuid() and none != true }}'",
        "name: t, type: schedule, every: 1h, if: '{{ trigger.x | default(1) }}{% if trigger %}{% endif %}'",
    ],
)
def test_what_is_right_is_not_reported(text: str) -> None:
    expected = ["NP011"] * 2 if "webhook" in text else ["NP407"] if "{%" in text else []
    assert [code for code, _ in findings(trigger(text))] == expected


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [
        ("t", True),
        ("A-1_b.c", True),
        ("x" * 100, True),
        ("x" * 101, False),
        ("-a", False),
        ("a/b", False),
        ("fire", False),
    ],
)
def test_names(name: str, is_valid: bool) -> None:
    found = findings(trigger(f"name: {name}, {CHECKED}"))
    assert found == ([] if is_valid else [("NP813", name)])


def test_a_name_is_taken_once() -> None:
    entry = f"- {{name: t, {CHECKED}}}\n"
    (duplicate,) = diagnose(f"triggers:\n{entry}{entry}{STEP}")
    assert (duplicate.code, duplicate.span.line, duplicate.labels[0].span.line) == ("NP813", 3, 2)


@pytest.mark.parametrize("missing", ["timezone: Europe/Berlin", "", "cron: null", "cron: null, every: null"])
def test_a_trigger_has_a_timing(missing: str) -> None:
    assert [d.code for d in diagnose(trigger(f"name: t, type: schedule, {missing}"))] == ["NP804"]


def test_a_key_with_nothing_after_it_is_no_timing() -> None:
    assert not diagnose(trigger("name: t, type: schedule, cron: null, every: 1h"))


def test_an_invalid_timing_is_reported_once() -> None:
    """A timing that is wrong is not missing."""
    assert [d.code for d in diagnose(trigger("name: t, type: schedule, crom: '0 4 * * *'"))] == ["NP010"]
    assert [d.code for d in diagnose(trigger("name: t, type: schedule, every: [1]"))] == ["NP012"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("{day: x}", []),
        ("{day: x, count: 2, region: us}", []),
        ("{day: '{{ trigger.next_at }}', count: '{{ trigger.local[8:10] | int }}'}", []),
        ("{day: 'on {{ trigger.local }}'}", []),
        ("{day: x, region: '{{ trigger.local }}'}", []),
        ("{}", [("NP810", "t")]),
        ("{day: 1}", [("NP810", "1")]),
        ("{dya: x}", [("NP810", "t"), ("NP810", "dya")]),
        ("{day: x, count: two}", [("NP810", "two")]),
        ("{day: x, count: '{{ trigger.local }}'}", [("NP810", "'{{ trigger.local }}'")]),
        ("{day: x, count: 'a{{ trigger.local }}'}", [("NP810", "'a{{ trigger.local }}'")]),
        ("{day: x, region: de}", [("NP810", "de")]),
        ("{day: x, count: '{{ ( }}'}", [("NP401", "'{{ ( }}'")]),
    ],
)
def test_inputs(values: str, expected: list[tuple[str, str]]) -> None:
    found = findings(trigger(f"name: t, {CHECKED}, input: {values}", INPUT))
    assert [code for code, _ in found] == [code for code, _ in expected]
    if ("NP401", "'{{ ( }}'") not in expected:
        assert sorted(found) == sorted(expected)


def test_templates_in_lists_and_mappings_may_be_one_of_an_enum() -> None:
    head = "input: {x: {enum: [[1], {a: 1}]}}\n"
    for value in ("['{{ 1 }}']", "{a: '{{ 1 }}'}", "[1]"):
        assert findings(trigger(f"name: t, {CHECKED}, input: {{x: {value}}}", head)) == []
    for value in ("[2]", "{a: 2}"):
        (found,) = findings(trigger(f"name: t, {CHECKED}, input: {{x: {value}}}", head))
        assert found[0] == "NP810"


def test_inferred_inputs() -> None:
    steps = "steps: [{name: a, run: [{action: log, message: '{{ day }} {{ b | default(1) }}'}]}]\n"

    def codes(values: str, text: str = steps) -> list[str]:
        playbook = f"triggers: [{{name: t, {CHECKED}, input: {values}}}]\n{text}"
        return [code for code, _ in findings(playbook)]

    assert codes("{day: x, b: 1}") == codes("{day: x}") == []
    assert codes("{}") == ["NP810"]
    assert codes("{day: x, other: 1}") == ["NP810"]
    assert codes("{day: x, other: 1}", steps.replace("{{ day }}", "{{ day }} {{ input }}")) == []


def test_broken_inputs_cause_no_further_findings() -> None:
    found = findings(trigger(f"name: t, {CHECKED}, input: {{day: x}}", "input: [day]\n"))
    assert [code for code, _ in found] == ["NP012"]


def test_a_moved_firing_is_a_note() -> None:
    schedule = "type: schedule, cron: '*/20 2 * * *', timezone: Europe/Berlin"
    (note,) = diagnose(trigger(f"name: t, {schedule}, start: '2040-01-01'"))
    assert (note.code, note.severity.value) == ("NP807", "note")
    assert note.message == "there is no 02:00 on 2040-03-25 in `Europe/Berlin`: it fires at 03:00"
    assert diagnose(trigger(f"name: t, {schedule}, start: '2040-01-01', end: '2040-03-25'")) == []
    assert [d.code for d in diagnose(trigger(f"name: t, {schedule}"))] == ["NP807"]
    for cron in ("20 * * * *", "30 2 * * MON", "30 4 * * *"):
        assert diagnose(trigger(f"name: t, type: schedule, cron: '{cron}', timezone: Europe/Berlin")) == []


def test_names_of_triggers_are_not_inputs_of_runs() -> None:
    plan = compile_text(trigger(f"name: t, {CHECKED}, if: '{{{{ trigger.local }}}}'"))
    assert plan.header.inputs == {}
    assert [code for code, _ in findings(f"{INPUT}{STEP}output: {{x: '{{{{ trigger.local }}}}'}}")] == [
        "NP301"
    ]
    assert findings(f"{INPUT}{STEP}output: {{x: '{{{{ run.trigger.name }}}}'}}") == []


def test_templates_of_triggers_have_a_limit() -> None:
    values = ", ".join(f"x{n}: '{{{{ 1{'+1' * 2000} }}}}'" for n in range(MAX_CODE // 4_000 + 1))
    found = diagnose(trigger(f"name: t, {CHECKED}, input: {{{values}}}"))
    assert "NP701" in [finding.code for finding in found]


def test_a_playbook_has_at_most_30_triggers() -> None:
    entries = [f"- {{name: t{n}, {CHECKED}}}\n" for n in range(31)]
    assert diagnose(f"triggers:\n{''.join(entries[:30])}{STEP}") == []
    assert [d.code for d in diagnose(f"triggers:\n{''.join(entries)}{STEP}")] == ["NP701"]


@pytest.mark.parametrize(
    ("declared", "is_valid"),
    [
        ({"every": "1h"}, True),
        ({"every": 5, "catch_up": "none", "overlap": "skip", "if": False, "jitter": "5m"}, True),
        ({"cron": "0 4 * * *", "timezone": "UTC", "catch_up": {"mode": "all", "within": "1d"}}, True),
        ({"cron": "0 4 * * *", "start": "2030-01-01T00:00:00Z", "input": {"x": [1]}}, True),
        ({"every": "1h", "start": "soon"}, False),
        ({"every": "1h", "catch_up": "newest"}, False),
        ({"every": "1h", "catch_up": {"within": "1d"}}, False),
        ({"every": "1h", "unknown": 1}, False),
        ({"every": "1h", "type": "webhook"}, False),
    ],
)
def test_the_json_schema_knows_triggers(declared: dict[str, Any], is_valid: bool) -> None:
    validator = Draft202012Validator(build_json_schema(catalogue()))
    steps = [{"name": "a", "run": ["t"]}]
    playbook = {"name": "p", "triggers": [{"name": "t", "type": "schedule", **declared}], "steps": steps}
    assert validator.is_valid(playbook) is is_valid


def test_every_zone_of_the_list_exists() -> None:
    for name in zone_names():
        assert find_zone(name).key == name
    with pytest.raises(KeyError):
        find_zone("../Europe/Berlin")


def test_instants_without_an_offset_are_local_times() -> None:
    berlin = find_zone("Europe/Berlin")
    assert parse_instant("2030-07-01T12:00", berlin) == parse_instant("2030-07-01T10:00Z", berlin)
    assert parse_instant("2030-01-01", berlin) == parse_instant("2029-12-31T23:00:00+00:00", berlin)


def test_a_broken_trigger_does_not_hide_other_mistakes() -> None:
    found = compile_playbook(
        f"name: p\ntriggers: [{{name: t}}]\n{STEP}output: {{x: '{{{{ y }}}}'}}\n", catalogue()
    )
    assert [finding.code for finding in found.diagnostics] == ["NP011", "NP306"]
