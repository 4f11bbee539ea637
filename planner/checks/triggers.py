"""Checks of triggers: names, schedules, and the inputs of their runs (NP801 to NP815, and NP301).

A template of a trigger is evaluated before there is a run. It reads `trigger`, and calls `now` and `uuid`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from noetl.planner.catalogue import Kind
from noetl.planner.checks.references import infer_inputs
from noetl.planner.dataflow.narrowing import handles_undefined
from noetl.planner.diagnostics.diagnostic import Label, Span, suggest
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words
from noetl.planner.kinds import describe_kind_of, is_of_kind
from noetl.planner.plan import Input
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.instants import parse_instant
from noetl.planner.syntax.models import (
    InputDeclaration,
    RunTriggerDeclaration,
    ScheduleDeclaration,
    TriggerDeclaration,
)
from noetl.planner.syntax.names import MAX_NAME_LENGTH, RESERVED_TRIGGER_NAMES, is_valid_name
from noetl.planner.templates.template import TemplateProblem, has_template, parse_template
from noetl.planner.trigger_sources import is_credential_header

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from noetl.planner.schedules.cron import Cron
    from noetl.planner.schedules.schedule import Schedule

TRIGGER_ATTRIBUTES: Mapping[str, frozenset[str]] = {
    "schedule": frozenset({"scheduled_at", "previous_at", "next_at", "local", "partition"}),
    "webhook": frozenset({"method", "headers", "query", "body", "id"}),
    "run": frozenset({"workflow_id", "status", "result", "error"}),
    "folder": frozenset({"path", "name", "size"}),
    "queue": frozenset({"id", "body", "attributes", "receives"}),
    "s3": frozenset({"bucket", "object", "size", "version"}),
    "event": frozenset({"source", "detail_type", "detail"}),
}
"""The attributes of `trigger` in templates, by the type of the trigger."""

_TEXT_ATTRIBUTES = frozenset(
    {
        *("scheduled_at", "local", "method", "id", "workflow_id", "status", "path", "name"),
        *("bucket", "object", "source", "detail_type"),
    }
)
"""The attributes whose values are always text."""

READABLE_NAMES = ("trigger", "now", "uuid")
"""What templates of a trigger read."""

_CHECKED_DAYS = 3 * 366
"""How far ahead a time is looked for that the zone does not have."""

_CONSTANTS = frozenset({"none", "true", "false"})
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME_LENGTH - 1}}}")


def check_triggers(program: Program) -> None:
    """Report triggers that cannot fire, or whose runs cannot start."""
    first: dict[str, Span] = {}
    for trigger in program.playbook.triggers:
        _check_name(program, trigger, first)
        if isinstance(trigger, ScheduleDeclaration):
            _check_schedule(program, trigger)
        elif isinstance(trigger, RunTriggerDeclaration):
            _check_awaited_name(program, trigger)
        _check_inputs(program, trigger)
    types = {trigger.path: trigger.type for trigger in program.playbook.triggers}
    for use in program.trigger_uses:
        _check_reads(program, use, types[use.path[:2]])


def _check_name(program: Program, trigger: TriggerDeclaration, first: dict[str, Span]) -> None:
    path = (*trigger.path, "name")
    if not _NAME.fullmatch(trigger.name):
        message = (
            f"name of a trigger must be 1 to {MAX_NAME_LENGTH} letters, digits, `_`, `-` or `.`, "
            "and start with a letter or digit"
        )
        intended = re.sub("[^A-Za-z0-9_.-]+", "-", trigger.name).strip("-_.")
        hint = f"write `{intended}`" if _NAME.fullmatch(intended) else "write a name such as `nightly`"
        program.report("NP813", message, path, hint)
    elif trigger.name in RESERVED_TRIGGER_NAMES:
        message = f"name of a trigger cannot be `{trigger.name}`, which is a part of addresses"
        program.report("NP813", message, path, f"rename it to `{trigger.name}-runs`")
    elif trigger.name in first:
        labels = [Label(first[trigger.name], "first definition")]
        program.report("NP813", f"duplicate trigger `{trigger.name}`", path, "rename one of them", labels)
    first.setdefault(trigger.name, program.document.span(path))


def _check_awaited_name(program: Program, trigger: RunTriggerDeclaration) -> None:
    if has_template(trigger.playbook) or not is_valid_name(trigger.playbook):
        message = "`playbook` must be the name of a playbook, without a template"
        program.report("NP813", message, (*trigger.path, "playbook"), "write a name such as `import`")


def _check_schedule(program: Program, trigger: ScheduleDeclaration) -> None:
    _check_timing(program, trigger)
    zone = _find_zone(program, trigger)
    cron = None if trigger.cron is None else _read_cron(program, trigger)
    if zone is None or (cron is None and trigger.interval is None):
        return
    if trigger.cron is None or trigger.interval is None:
        _check_firings(program, trigger, zone, cron)


def _check_timing(program: Program, trigger: ScheduleDeclaration) -> None:
    """Check that a trigger has one of `cron` and `every`. A key whose value is invalid counts."""
    number = len({"cron", "every"} & program.document.written_keys(trigger.path))
    if number == 2:
        message = f"trigger `{abbreviate(trigger.name)}` has both `cron` and `every`"
        program.report("NP804", message, (*trigger.path, "every"), "remove one of them", key=True)
    elif trigger.cron is None and trigger.interval is None and number == 0:
        message = f"trigger `{abbreviate(trigger.name)}` has neither `cron` nor `every`"
        hint = "add a line such as `cron: 30 2 * * MON-FRI` or `every: 10m`"
        program.report("NP804", message, trigger.path, hint)


def _find_zone(program: Program, trigger: ScheduleDeclaration) -> ZoneInfo | None:
    from noetl.planner.schedules.zone_names import find_zone, zone_names

    try:
        return find_zone(trigger.timezone)
    except KeyError:
        city = trigger.timezone.replace(" ", "_").casefold()
        named = sorted(name for name in zone_names() if city in (name.casefold(), _city(name)))
        hint = suggest(trigger.timezone, named[0]) if named else None
        hint = hint or program.diagnostics.did_you_mean(trigger.timezone, zone_names())
        hint = hint or "write the name of a zone, such as `Europe/Berlin`"
        message = f"unknown time zone `{abbreviate(trigger.timezone)}`"
        program.report("NP803", message, (*trigger.path, "timezone"), hint)
        return None


def _city(name: str) -> str:
    return name.rpartition("/")[2].casefold()


def _read_cron(program: Program, trigger: ScheduleDeclaration) -> Cron | None:
    from noetl.planner.schedules.cron import Cron, CronError, NoDateError, find_long_step

    path = (*trigger.path, "cron")
    assert trigger.cron is not None
    try:
        cron = Cron(trigger.cron)
    except NoDateError:
        hint = "choose a day that one of its months has"
        program.report("NP802", "`cron` never matches: none of its months has the day", path, hint)
        return None
    except CronError as problem:
        program.report("NP801", f"`cron` is invalid: {problem}", path, problem.hint)
        return None
    if (long_step := find_long_step(cron.text)) is not None:
        program.report("NP801", f"`cron` is invalid: {long_step}", path, long_step.hint)
        return None
    if cron.day_or_weekday:
        message = "`cron` matches a date if its day matches, or if its weekday does"
        program.report(
            "NP809", message, path, "if both must match, write `*` for one of them and test it in `if`"
        )
    return cron


def _check_firings(program: Program, trigger: ScheduleDeclaration, zone: ZoneInfo, cron: Cron | None) -> None:
    """Report a trigger without an instant from `start` to `end`, and the next firing that its zone moves."""
    from noetl.planner.schedules.schedule import Schedule

    start, end = (
        None if text is None else parse_instant(text, zone) for text in (trigger.start, trigger.end)
    )
    schedule = Schedule(trigger.cron, trigger.interval, trigger.timezone, start, end)
    if schedule.next_after((start or 0.0) - 1) is not None:
        if cron is not None and not cron.is_hourly:
            _report_moved_firing(program, trigger, schedule, cron)
        return
    if end is None:
        hint = "change the day, the month or the weekday"
        program.report("NP802", "`cron` never matches: there is no such date", (*trigger.path, "cron"), hint)
        return
    message = f"trigger `{abbreviate(trigger.name)}` never fires: it ends before its first time"
    hint = "write a later `end`" if start is None else "write a later `end`, or an earlier `start`"
    program.report("NP802", message, (*trigger.path, "end"), hint)


def _report_moved_firing(
    program: Program, trigger: ScheduleDeclaration, schedule: Schedule, cron: Cron
) -> None:
    """Report the next time of a trigger that its zone does not have."""
    from noetl.planner.schedules.zone import find_gaps
    from noetl.planner.schedules.zone_names import find_zone

    now = datetime.now(UTC).timestamp()
    first = datetime.fromtimestamp(max(now, schedule.start_at or now), UTC).replace(minute=0, second=0)
    for gap in find_gaps(find_zone(trigger.timezone), first.replace(microsecond=0), _CHECKED_DAYS):
        missing = next(cron.matches_from(gap.first), gap.end)
        is_over = schedule.end_at is not None and gap.instant.timestamp() >= schedule.end_at
        if missing >= gap.end or is_over:
            continue
        message = (
            f"there is no {missing:%H:%M} on {missing:%Y-%m-%d} in `{trigger.timezone}`: "
            f"it fires at {gap.end:%H:%M}"
        )
        hint = "choose a time that every day has, if this matters"
        program.report("NP807", message, (*trigger.path, "cron"), hint)
        return


def _check_inputs(program: Program, trigger: TriggerDeclaration) -> None:
    """Report inputs that are unknown, missing or of another kind, as a start of a run would."""
    if "input" in program.lost_names:
        return
    declared = program.playbook.input
    if declared is None:
        inferred = infer_inputs(program)
        is_open = any(("input",) in use.template.reads for use in program.uses)
        known: Mapping[str, InputDeclaration | None] = dict.fromkeys(inferred)
        required = {name for name, item in inferred.items() if item.required}
    else:
        known, is_open = declared, False
        required = {name for name, item in declared.items() if "default" not in item.model_fields_set}
    for name, value in trigger.input.items():
        path = (*trigger.path, "input", name)
        declaration = known.get(name)
        if name not in known and not is_open:
            hint = program.diagnostics.did_you_mean(name, known) or "declare it under `input`"
            program.report("NP810", f"unknown input `{abbreviate(name)}`", path, hint, key=True)
        elif declaration is not None and (problem := find_mismatch(declaration, value)) is not None:
            hint = _hint_of_mismatch(declaration, value)
            program.report("NP810", f"input `{abbreviate(name)}` {problem}", path, hint)
    for name in required - trigger.input.keys():
        message = f"trigger `{abbreviate(trigger.name)}` has no input `{abbreviate(name)}`"
        hint = "add it to the `input` of the trigger, or give it a `default`"
        program.report("NP810", message, (*trigger.path, "name"), hint)


def find_mismatch(declared: InputDeclaration | Input, value: Any) -> str | None:
    """Return the problem of a value whose kind is known before a firing, or None."""
    if isinstance(value, str) and has_template(value):
        is_text = _is_always_text(value)
        return (
            f"must be of type {declared.type}, not text" if is_text and declared.type not in _TEXTS else None
        )
    if not is_of_kind(value, Kind(declared.type)):
        return f"must be of type {declared.type}, not {describe_kind_of(value)}"
    if declared.enum is not None and value not in declared.enum and not _contains_template(value):
        return "must be one of `enum`"
    return None


def _hint_of_mismatch(declared: InputDeclaration, value: Any) -> str:
    """Return what may be written instead of a value that does not fit."""
    if declared.enum is not None and is_of_kind(value, Kind(declared.type)):
        words = [abbreviate(str(item)) for item in declared.enum[:_MAX_SHOWN_VALUES]]
        more = ["…"] if len(declared.enum) > _MAX_SHOWN_VALUES else []
        return f"write one of {', '.join(as_code(words) + more)}, or add the value to `enum`"
    if declared.type == "string" and isinstance(value, int | float):
        return "write it in quotes"
    return f"write a value of type {declared.type}, or change the `type` of the input"


_MAX_SHOWN_VALUES = 5
"""How many values of an `enum` a hint has."""

_TEXTS = ("string", "any")
_TEXT_ACCESSES = frozenset((name,) for name in _TEXT_ATTRIBUTES)


def _is_always_text(source: str) -> bool:
    """Return whether a template returns text whenever it is evaluated."""
    try:
        template = parse_template(source)
    except TemplateProblem:
        return False
    access = template.access_path
    is_text = access is not None and access[0] == "trigger" and access[1:] in _TEXT_ACCESSES
    return not template.is_expression or is_text


def _contains_template(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_contains_template, value.values()))
    if isinstance(value, list):
        return any(map(_contains_template, value))
    return isinstance(value, str) and has_template(value)


def _check_reads(program: Program, use: TemplateUse, trigger_type: str) -> None:
    """Report the names and the attributes that a template of a trigger cannot read."""
    for access, offset in use.template.reads.items():
        name = access[0]
        if name == "trigger":
            _check_attribute(program, use, access, offset, TRIGGER_ATTRIBUTES[trigger_type])
            if trigger_type == "webhook":
                _check_request_header(program, use, access, offset)
        elif name not in READABLE_NAMES and name not in _CONSTANTS:
            message = f"`{name}` cannot be read in a trigger, which is evaluated before there is a run"
            hint = program.diagnostics.did_you_mean(name, READABLE_NAMES)
            hint = hint or f"read {join_words(as_code(READABLE_NAMES))}"
            span = program.document.text_span(use.path, offset, offset + len(name))
            program.diagnostics.add("NP301", message, span, hint)


def _check_attribute(
    program: Program, use: TemplateUse, access: tuple[str, ...], offset: int, attributes: frozenset[str]
) -> None:
    if len(access) == 1 or access[1] in attributes:
        return
    name = access[1]
    if handles_undefined(use.template, "trigger", name):
        return
    hint = program.diagnostics.did_you_mean(name, attributes)
    hint = hint or f"attributes: {', '.join(as_code(sorted(attributes)))}"
    start = max(use.template.source.find(name, offset + len("trigger")), 0)
    span = program.document.text_span(use.path, start, start + len(name))
    program.diagnostics.add("NP815", f"`trigger` has no attribute `{name}`", span, hint)


def _check_request_header(program: Program, use: TemplateUse, access: tuple[str, ...], offset: int) -> None:
    """Report a header that `trigger.headers` never has."""
    if len(access) < 3 or access[1] != "headers":
        return
    name = access[2]
    if handles_undefined(use.template, *access[:3]):
        return
    if is_credential_header(name.lower()):
        problem = "credentials and signatures are left out"
        hint = "remove it: `auth` says how the sender is recognised"
    elif name != name.lower():
        problem = "its names are in lower case"
        hint = f"did you mean `{abbreviate(name.lower().replace('_', '-'))}`?"
    else:
        return
    start = max(use.template.source.find(name, offset + len("trigger.headers")), 0)
    span = program.document.text_span(use.path, start, start + len(name))
    program.diagnostics.add("NP815", f"`trigger.headers` has no `{abbreviate(name)}`: {problem}", span, hint)
