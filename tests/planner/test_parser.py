from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.diagnostic import Diagnostic, Diagnostics
from noetl.planner.syntax import limits
from noetl.planner.syntax.limits import MAX_CASES, MAX_STEPS, MAX_TARGETS, MAX_TASKS
from noetl.planner.syntax.models import ActionEntry, Model, Playbook, TaskEntry
from noetl.planner.syntax.parser import MAX_SCHEMA_VIOLATIONS, ParsedPlaybook, parse_playbook
from noetl.planner.syntax.reader import Document, read_document
from tests.property_settings import examples


def parse_text(text: str) -> tuple[ParsedPlaybook | None, Document, list[Diagnostic]]:
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    assert document is not None, list(diagnostics)
    result = parse_playbook(document, catalogue(), diagnostics)
    return result, document, list(diagnostics)


def parse_valid(text: str) -> Playbook:
    result, _, diagnostics = parse_text(text)
    assert result is not None and not diagnostics, diagnostics
    assert result == ParsedPlaybook(result.playbook)
    return result.playbook


def only_diagnostic(text: str) -> Diagnostic:
    (diagnostic,) = parse_text(text)[2]
    return diagnostic


def parse_invalid(text: str) -> ParsedPlaybook:
    result, _, diagnostics = parse_text(text)
    assert result is not None and diagnostics
    return result


ANY_TYPE = "`string`, `integer`, `number`, `boolean`, `object`, `array` or `any`"
MINIMAL_PLAYBOOK = "name: p\nsteps:\n- name: a\n  run: []\n"


def with_step(text: str) -> str:
    """Return a playbook whose step `a` has these additional lines, from line 4 on."""
    return "name: p\nsteps:\n- name: a\n" + "".join(f"  {line}\n" for line in text.splitlines())


# -- short forms and paths -----------------------------------------------------------------------------------


def test_short_forms_are_expanded() -> None:
    playbook = parse_valid(
        "name: p\ninput: {a: integer, b: {type: string, default: x}}\nretry: 3\ntimeout: 500ms\n"
        "tasks:\n  t: [{action: log}]\n  u: {run: [t], parallel: true}\n"
        "steps:\n- name: s\n  run: [t]\n"
    )
    assert playbook.input is not None and playbook.retry is not None
    assert {name: declared.type for name, declared in playbook.input.items()} == {
        "a": "integer",
        "b": "string",
    }
    assert playbook.retry.attempts == 3
    assert playbook.timeout == 0.5
    assert [(task.name, task.parallel, len(task.run)) for task in playbook.tasks] == [
        ("t", False, 1),
        ("u", True, 1),
    ]


def find_constructs(model: Model) -> list[Model]:
    models = [model]
    for name in type(model).model_fields:
        value = getattr(model, name)
        for item in (
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        ):
            if isinstance(item, Model):
                models += find_constructs(item)
    return models


FULL_PLAYBOOK = """\
name: p
input: {i: integer, j: {type: any}}
retry: {attempts: 2}
tasks:
  t: [{action: log, retry: 2}, {task: u, loop: {items: []}}]
  u:
    run:
    - action: log
steps:
- name: s
  run:
  - t
  - {action: set, set: {x: 1}, loop: {items: "{{ y }}"}}
  rule:
  - case: default
    run: [{step: s}]
  loop: {items: [1]}
  repeat: {until: "{{ x }}", max: 2}
  retry: 2
"""


def value_at(document: Document, path: tuple[str | int, ...]) -> Any:
    value = document.data
    for part in path:
        value = value[part]
    return value


def test_each_construct_has_its_path() -> None:
    result, document, _ = parse_text(FULL_PLAYBOOK)
    assert result is not None
    paths = {construct.path for construct in find_constructs(result.playbook)}
    for path in paths:
        value_at(document, path)
    assert len(paths) == len(find_constructs(result.playbook)) == 19
    tasks = result.playbook.tasks
    assert [task.run_path for task in tasks] == [("tasks", "t"), ("tasks", "u", "run")]
    assert [entry.path for task in tasks for entry in task.run if not isinstance(entry, str)] == [
        ("tasks", "t", 0),
        ("tasks", "t", 1),
        ("tasks", "u", "run", 0),
    ]


def test_paths_stay_right_after_removed_and_renamed_parts() -> None:
    text = (
        "name: p\nsteps:\n- nonsense\n- nam: s\n"
        "  rul:\n  - 5\n  - {case: default, run: [{}, {step: x}, 5, z]}\n"
    )
    result, document, _ = parse_text(text)
    assert result is not None
    (only_step,) = result.playbook.steps
    assert only_step.name == "s" and only_step.path == ("steps", 1)
    (case,) = only_step.rule or []
    assert case.path == ("steps", 1, "rul", 1)
    assert value_at(document, case.path)["case"] == "default"
    # Removed entries keep their indexes, because the plain name after them has no path of its own.
    assert [entry if isinstance(entry, str) else entry.path for entry in case.run] == [
        "",
        ("steps", 1, "rul", 1, "run", 1),
        "",
        "z",
    ]
    assert result.broken_steps == {"s", ""}


# -- one violation each --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        # NP010
        (
            MINIMAL_PLAYBOOK + "nmae: x",
            "NP010 5:1-5:5",
            "unknown key `nmae` in the playbook",
            "did you mean `name`?",
        ),
        (MINIMAL_PLAYBOOK + "as_: x", "NP010 5:1-5:4", "unknown key `as_` in the playbook", None),
        (
            MINIMAL_PLAYBOOK + "finaly: a",
            "NP010 5:1-5:7",
            "unknown key `finaly` in the playbook",
            "did you mean `finally`?",
        ),
        (
            MINIMAL_PLAYBOOK + "finally_: a",
            "NP010 5:1-5:9",
            "unknown key `finally_` in the playbook",
            "did you mean `finally`?",
        ),
        (
            MINIMAL_PLAYBOOK + "apiversion: noetl.io/v1",
            "NP010 5:1-5:11",
            "unknown key `apiversion` in the playbook",
            "did you mean `apiVersion`?",
        ),
        (
            MINIMAL_PLAYBOOK + "vars: {}",
            "NP010 5:1-5:5",
            "unknown key `vars` in the playbook",
            "write `variables` for the first values of names",
        ),
        (
            with_step("run: []\nnext: b"),
            "NP010 5:3-5:7",
            "unknown key `next` in a step",
            "write the next step in `rule`",
        ),
        (
            with_step("run: []\nthen: b"),
            "NP010 5:3-5:7",
            "unknown key `then` in a step",
            "write the next step in `rule`",
        ),
        (
            with_step("run: []\nparalell: true"),
            "NP010 5:3-5:11",
            "unknown key `paralell` in a step",
            "did you mean `parallel`?",
        ),
        (
            with_step("run: []\nas: x"),
            "NP010 5:3-5:5",
            "unknown key `as` in a step",
            "save a result with `as` on an action of `run`",
        ),
        (
            with_step("rule: [{case: x, when: z}]"),
            "NP010 4:20-4:24",
            "unknown key `when` in a case",
            "write the guard as `case`",
        ),
        (
            with_step("rule: [{cas: x}]"),
            "NP010 4:11-4:14",
            "unknown key `cas` in a case",
            "did you mean `case`?",
        ),
        (
            with_step("run: [{task: t, wit: {}}]"),
            "NP010 4:19-4:22",
            "unknown key `wit` in a task call",
            "did you mean `with`?",
        ),
        (
            with_step("run: [{task: t, retry: 2}]"),
            "NP010 4:19-4:24",
            "unknown key `retry` in a task call",
            "write it on the actions of the task",
        ),
        (
            with_step("run: [{step: t, zzz: 2}]"),
            "NP010 4:19-4:22",
            "unknown key `zzz` in `{step: NAME}`",
            "use `step`",
        ),
        (
            with_step("run: [{acton: log}]"),
            "NP010 4:10-4:15",
            "unknown key `acton` in an entry of `run`",
            "did you mean `action`?",
        ),
        (
            with_step("run: []\nretry: {atempts: 2}"),
            "NP010 5:11-5:18",
            "unknown key `atempts` in `retry`",
            "did you mean `attempts`?",
        ),
        (
            with_step("run: [{action: x, retry: {times: 2}}]"),
            "NP010 4:29-4:34",
            "unknown key `times` in `retry`",
            "write `attempts`",
        ),
        (
            with_step("run: []\nloop: {items: [], over: x}"),
            "NP010 5:21-5:25",
            "unknown key `over` in `loop`",
            "write `items`",
        ),
        (
            MINIMAL_PLAYBOOK + "tasks: [{name: t, run: [], rule: []}]",
            "NP010 5:28-5:32",
            "unknown key `rule` in a task",
            "write `rule` on a step: a task leads to no step",
        ),
        (
            MINIMAL_PLAYBOOK + "tasks: {t: {run: [], zzz: 1}}",
            "NP010 5:22-5:25",
            "unknown key `zzz` in a task",
            "use `name`, `description`, `run` or `parallel`",
        ),
        (
            MINIMAL_PLAYBOOK + "tasks: {t: {run: [], name: u}}",
            "NP010 5:22-5:26",
            "`name` is not allowed: the key names task `t`",
            "remove `name`",
        ),
        (
            MINIMAL_PLAYBOOK + "input: {i: {typ: any}}",
            "NP010 5:13-5:16",
            "unknown key `typ` in an input",
            "did you mean `type`?",
        ),
        # NP011
        ("steps:\n- name: a\n  run: []\n", "NP011 1:1-1:6", "missing key `name` in the playbook", None),
        ("name: p\nsteps: []\n", "NP011 2:1-2:6", "`steps` must have at least one entry", None),
        ("name: p\nsteps:\n- run: []\n- name: b\n", "NP011 3:3-3:10", "missing key `name` in a step", None),
        (with_step("rule: [{run: [b]}]"), "NP011 4:10-4:20", "missing key `case` in a case", ...),
        (with_step("run: []\nloop: {as: x}"), "NP011 5:3-5:7", "missing key `items` in `loop`", None),
        (with_step("run: []\nrepeat: {until: x}"), "NP011 5:3-5:9", "missing key `max` in `repeat`", None),
        (
            with_step("run: [{url: x, as: z}]"),
            "NP011 4:9-4:24",
            "missing key `action` or `task` in an entry of `run`",
            "begin it with `action: TYPE`, and write the parameters next to it",
        ),
        (
            with_step("run:\n- http: {}"),
            "NP011 5:5-5:13",
            "missing key `action` or `task` in an entry of `run`",
            "if `http` is a type, write `action: http` and the parameters next to it",
        ),
        (MINIMAL_PLAYBOOK + "tasks: {t: {}}", "NP011 5:9-5:10", "missing key `run` in a task", None),
        (MINIMAL_PLAYBOOK + "tasks: [{name: t}]", "NP011 5:9-5:18", "missing key `run` in a task", None),
        # NP012
        ("[]", "NP012 1:1-1:3", "a playbook must be a mapping, not a list", ...),
        ("text", "NP012 1:1-1:5", "a playbook must be a mapping, not text", ...),
        ("", "NP012 1:1-1:1", "the playbook is empty", ...),
        (
            "name: 5\nsteps: [{name: a, run: []}]",
            "NP012 1:7-1:8",
            "`name` must be text, not the number 5",
            "quote the value",
        ),
        (
            "name: p\nsteps: {a: {run: []}}",
            "NP012 2:8-2:22",
            "`steps` must be a list, not a mapping",
            "begin each step with `- name: NAME`",
        ),
        ("name: p\nsteps:\n", "NP012 2:1-2:6", "`steps` must be a list, not nothing", ...),
        (
            MINIMAL_PLAYBOOK + "- b",
            "NP012 5:3-5:4",
            "a step must be a mapping, not text",
            "begin each step with `- name: NAME`",
        ),
        (
            MINIMAL_PLAYBOOK + "version: 1.0",
            "NP012 5:10-5:13",
            "`version` must be text, not the number 1.0",
            "quote the value",
        ),
        (
            MINIMAL_PLAYBOOK + "kind: Playbok",
            "NP012 5:7-5:14",
            "`kind` must be `Playbook`, not `Playbok`",
            "did you mean `Playbook`?",
        ),
        (
            MINIMAL_PLAYBOOK + "mode: [x]",
            "NP012 5:7-5:10",
            "`mode` must be `parallel` or `sequential`, not a list",
            None,
        ),
        (
            MINIMAL_PLAYBOOK + "environment:",
            "NP012 5:1-5:12",
            "`environment` must be a mapping, not nothing",
            "write a value after the key, or remove the key",
        ),
        (
            MINIMAL_PLAYBOOK + "input: {i: integr}",
            "NP012 5:12-5:18",
            f"`type` must be {ANY_TYPE}, not `integr`",
            "did you mean `integer`?",
        ),
        (
            MINIMAL_PLAYBOOK + "input: {i: [x]}",
            "NP012 5:12-5:15",
            "input `i` must be a type or a mapping, not a list",
            ...,
        ),
        (
            MINIMAL_PLAYBOOK + "input: {retry: [x]}",
            "NP012 5:16-5:19",
            "input `retry` must be a type or a mapping, not a list",
            "write a type, or a mapping such as `{type: string}`",
        ),
        (
            MINIMAL_PLAYBOOK + "input: {i: {enum: []}}",
            "NP012 5:13-5:17",
            "`enum` must have at least one entry",
            None,
        ),
        (MINIMAL_PLAYBOOK + "tasks: {t: x}", "NP012 5:12-5:13", "a task must be a mapping, not text", ...),
        (
            MINIMAL_PLAYBOOK + "tasks: {t: [5]}",
            "NP012 5:13-5:14",
            "an entry of `run` must be an action, a task or a name, not the number 5",
            ...,
        ),
        (
            with_step("run: {action: log}"),
            "NP012 4:8-4:21",
            "`run` must be a list, not a mapping",
            "begin each entry with `- `, or write the list in brackets",
        ),
        (
            with_step("run:\n- "),
            "NP012 5:3-5:4",
            "an entry of `run` must be an action, a task or a name, not nothing",
            ...,
        ),
        (
            with_step("run: []\nparallel: 'yes'"),
            "NP012 5:13-5:18",
            "`parallel` must be true or false, not text",
            "write `true`",
        ),
        (with_step("run: []\nmax_visits: 0"), "NP012 5:15-5:16", "`max_visits` must be at least 1", None),
        (
            with_step("run: []\nmax_visits: '3'"),
            "NP012 5:15-5:18",
            "`max_visits` must be a whole number, not text",
            "remove the quotes",
        ),
        (
            with_step("run: []\nmax_visits: 1.5"),
            "NP012 5:15-5:18",
            "`max_visits` must be a whole number, not the number 1.5",
            None,
        ),
        (
            with_step("run: []\njoin: al"),
            "NP012 5:9-5:11",
            "`join` must be `all`, `any` or `each`, not `al`",
            "did you mean `all`?",
        ),
        (
            with_step("run: []\nretry: x"),
            "NP012 5:10-5:11",
            "`retry` must be a number of attempts or a mapping, not text",
            "write a number of attempts, or a mapping such as `{attempts: 3, delay: 5s}`",
        ),
        (with_step("run: []\nretry: 0"), "NP012 5:10-5:11", "`retry` must be at least 1", None),
        (
            with_step("run: []\nretry: {attempts: 2000}"),
            "NP012 5:21-5:25",
            "`attempts` must be at most 1000",
            None,
        ),
        (
            with_step("run: []\nretry: {backoff: " + "9" * 400 + "}"),
            "NP012 5:20-5:420",
            f"`backoff` must be a number, not the number {'9' * 60}…",
            None,
        ),
        (
            with_step("run: []\ntimeout: 5 min"),
            "NP012 5:12-5:17",
            "`timeout` must be a duration, not `5 min`",
            ...,
        ),
        (
            with_step("run: []\ntimeout: -1"),
            "NP012 5:12-5:14",
            "`timeout` must be a duration, not the number -1",
            ...,
        ),
        (
            with_step("run: []\ntimeout: " + "9" * 400),
            "NP012 5:12-5:412",
            f"`timeout` must be a duration, not the number {'9' * 60}…",
            ...,
        ),
        (
            with_step("run: []\ntimeout: 40000d"),
            "NP012 5:12-5:18",
            "`timeout` must be a duration, not `40000d`",
            ...,
        ),
        (
            with_step("run: [{action: x, timeout: true}]"),
            "NP012 4:30-4:34",
            "`timeout` must be a duration, not true",
            ...,
        ),
        (
            with_step("run: [{action: x, if: [1]}]"),
            "NP012 4:25-4:28",
            "`if` must be text, true or false, not a list",
            None,
        ),
        (
            with_step("run: [{action: x, on_error: abort}]"),
            "NP012 4:31-4:36",
            "`on_error` must be `continue`, not `abort`",
            None,
        ),
        (
            with_step("run: [{action: x, loop: {items: 5}}]"),
            "NP012 4:35-4:36",
            "`items` must be text or a list, not the number 5",
            'write a list, or a template that gives one, such as `"{{ range(5) | list }}"`',
        ),
        (
            with_step("run: [{action: 5}]"),
            "NP012 4:18-4:19",
            "`action` must be text, not the number 5",
            "quote the value",
        ),
        (
            with_step("run: [{task: t, with: [x]}]"),
            "NP012 4:25-4:28",
            "`with` must be a mapping, not a list",
            None,
        ),
        (with_step("rule: [5]"), "NP012 4:10-4:11", "a case must be a mapping, not the number 5", ...),
        (
            with_step("rule: [{case: 5}]"),
            "NP012 4:17-4:18",
            "`case` must be text, true or false, not the number 5",
            "quote the value",
        ),
        (
            with_step("rule: [{case: x, run: b}]"),
            "NP012 4:25-4:26",
            "`run` must be a list, not text",
            "begin each entry with `- `, or write the list in brackets",
        ),
    ],
)
def test_each_violation_has_one_diagnostic(text: str, place: str, message: str, hint: Any) -> None:
    diagnostic = only_diagnostic(text)
    span = diagnostic.span
    assert f"{diagnostic.code} {span.line}:{span.column}-{span.end_line}:{span.end_column}" == place
    assert diagnostic.message == message
    assert diagnostic.hint == hint or (hint is ... and diagnostic.hint)


# -- limits --------------------------------------------------------------------------------------------------


def test_at_most_10_000_steps_are_allowed() -> None:
    lines = ["name: p", "steps:", *(f"- {{name: s{n}, run: []}}" for n in range(MAX_STEPS))]
    assert len(parse_valid("\n".join(lines)).steps) == MAX_STEPS
    diagnostic = only_diagnostic("\n".join([*lines, "- {name: more, run: []}"]))
    assert (diagnostic.code, diagnostic.span.line) == ("NP701", MAX_STEPS + 3)


def test_at_most_100_cases_are_allowed() -> None:
    lines = ["name: p", "steps:", "- name: a", "  rule:", *["  - {case: x}"] * MAX_CASES]
    parse_valid("\n".join(lines))
    diagnostic = only_diagnostic("\n".join([*lines, "  - {case: more}"]))
    assert (diagnostic.code, diagnostic.span.line, diagnostic.span.column) == ("NP701", MAX_CASES + 5, 5)


def test_at_most_1_000_targets_are_allowed() -> None:
    lines = [
        "name: p",
        "steps:",
        "- name: a",
        "  rule:",
        "  - case: x",
        "    run:",
        *["    - b"] * MAX_TARGETS,
    ]
    parse_valid("\n".join(lines))
    diagnostic = only_diagnostic("\n".join([*lines, "    - more"]))
    assert (diagnostic.code, diagnostic.span.line, diagnostic.span.column) == ("NP701", MAX_TARGETS + 7, 7)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("steps: [{name: a, run: [", "]}]\n"),
        ("steps: [{name: a}]\ntasks: [{name: t, run: [", "]}]\n"),
        ("steps: [{name: a}]\ntasks: {t: [", "]}\n"),
        ("steps: [{name: a}]\ntasks: {t: {run: [", "]}}\n"),
    ],
)
def test_at_most_1_000_entries_of_a_run_are_allowed(before: str, after: str) -> None:
    parse_valid(f"name: p\n{before}{'b, ' * MAX_TARGETS}{after}")
    diagnostic = only_diagnostic(f"name: p\n{before}{'b, ' * MAX_TARGETS}more{after}")
    assert (diagnostic.code, diagnostic.span.end_column - diagnostic.span.column) == ("NP701", len("more"))


@pytest.mark.parametrize("task", ["t%d: []", "- {name: t%d, run: []}"])
def test_at_most_10_000_tasks_are_allowed(task: str) -> None:
    lines = ["name: p", "steps: [{name: a}]", "tasks:", *(f"  {task % n}" for n in range(MAX_TASKS))]
    assert len(parse_valid("\n".join(lines)).tasks) == MAX_TASKS
    diagnostic = only_diagnostic("\n".join([*lines, f"  {task % MAX_TASKS}"]))
    assert (diagnostic.code, diagnostic.span.line) == ("NP701", MAX_TASKS + 4)


def test_the_sum_of_all_cases_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ALL_CASES", 100)
    rule = "[" + "{case: x}, " * 50 + "]"
    steps = [f"- {{name: s{n}, rule: {rule}}}" for n in range(4)]
    parse_valid("\n".join(["name: p", "steps:", *steps[:2]]))
    diagnostic = only_diagnostic("\n".join(["name: p", "steps:", *steps]))
    assert (diagnostic.code, diagnostic.span.line, diagnostic.message) == (
        "NP701",
        5,
        "playbook has more than 100 cases",
    )


def test_the_sum_of_all_entries_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ALL_ENTRIES", 3)
    text = "name: p\ntasks: {t: [x]}\nsteps:\n- {name: a, run: [t], rule: [{case: x, run: [b]}]}\n"
    parse_valid(text)
    diagnostic = only_diagnostic(text + "- {name: b, run: [t, t]}\n- {name: c, run: [t]}\n")
    assert (diagnostic.code, diagnostic.span.line, diagnostic.span.column) == ("NP701", 5, 19)


# -- recovery ------------------------------------------------------------------------------------------------


def test_all_violations_are_reported_at_once() -> None:
    _, _, diagnostics = parse_text(
        "name: p\nversion: 3\nmode: paralel\ntimout: 5s\ninput: {i: integr}\ntasks: {t: {}}\nsteps:\n"
        "- name: a\n  next: b\n  run: [{acton: log, timeout: 5 s}, 5]\n- name: b\n  parallel: 'no'\n"
        "  rule: [{cse: x}]\n- run: []\n"
    )
    assert [(d.code, d.span.line, d.span.column) for d in diagnostics] == [
        ("NP012", 2, 10),
        ("NP012", 3, 7),
        ("NP010", 4, 1),
        ("NP012", 5, 12),
        ("NP011", 6, 9),
        ("NP010", 9, 3),
        ("NP010", 10, 10),
        ("NP012", 10, 31),
        ("NP012", 10, 37),
        ("NP012", 12, 13),
        ("NP010", 13, 11),
        ("NP011", 14, 3),
    ]


def test_a_misspelt_key_is_renamed_to_the_intended_key() -> None:
    result = parse_invalid("name: p\nsteps:\n- nmae: a\n  runs: [{acton: set, set: {x: 1}}]\n")
    (only_step,) = result.playbook.steps
    (entry,) = only_step.run or []
    assert isinstance(entry, ActionEntry)
    assert (only_step.name, entry.action, entry.parameters) == ("a", "set", {"set": {"x": 1}})
    assert entry.path == ("steps", 0, "runs", 0)
    assert not result.broken_steps and not result.lost_names


def test_a_key_is_not_renamed_to_an_existing_key() -> None:
    result = parse_invalid(with_step("run: []\nrnu: [x]\nruns: [y]"))
    assert result.playbook.steps[0].run == []


def test_removed_parts_are_recorded() -> None:
    result = parse_invalid(
        "name: p\nsteps:\n- name: a\n  rule: 5\n"
        "- name: b\n  run: [{as: x}, {set: {y: 1}, loop: {as: z}}, {task: t, with: 5}]\n"
        "- {name: c, loop: {as: row}}\n- {run: [{action: log, as: w}]}\n- name: d\n"
        "tasks:\n  t: {}\n  u: 5\n  v: [5]\n  w: []\ninput: {i: 5, j: any}\nenvironment: 5\n"
    )
    assert [item.name for item in result.playbook.steps] == ["a", "b", "c", "d"]
    assert [item.name for item in result.playbook.tasks] == ["v", "w"]
    assert result.broken_steps - {""} == {"a", "b", "c"}
    assert result.broken_tasks - {""} == {"t", "u", "v"}
    assert result.lost_names == {"x", "y", "z", "args", "row", "loop", "item", "w", "i", "environment"}


def test_only_invalid_parts_are_removed() -> None:
    result = parse_invalid(
        with_step(
            "run: [{action: http, timeout: x, as: z}, {task: t, retry: 3}]\nretry: {attempts: 2, delay: x}"
        )
    )
    (only_step,) = result.playbook.steps
    action, call = only_step.run or []
    assert isinstance(action, ActionEntry) and action.as_ == "z" and action.timeout is None
    assert isinstance(call, TaskEntry) and call.task == "t"
    assert only_step.retry is not None and only_step.retry.attempts == 2


def test_a_name_after_a_removed_entry_keeps_its_index() -> None:
    result = parse_invalid(with_step("rule: [{case: default, run: [5, b, 6]}]"))
    (case,) = result.playbook.steps[0].rule or []
    assert case.run == ["", "b"]
    assert "" in result.broken_steps and "" in result.broken_tasks


def test_at_most_1_000_violations_are_reported() -> None:
    steps = "".join(f"- {{name: s{n}, run: [{'5, ' * 1000}]}}\n" for n in range(3))
    result, _, diagnostics = parse_text(f"name: p\nsteps:\n{steps}")
    assert result is None
    *reported, last = diagnostics
    assert len(reported) == MAX_SCHEMA_VIOLATIONS
    assert (last.code, last.message) == ("NP902", "2,000 more findings are not shown")


def test_violations_in_an_aliased_value_are_counted_once() -> None:
    aliases = "".join(f"- {{name: s{n}, run: *r}}\n" for n in range(20))
    _, _, diagnostics = parse_text(f"name: p\nsteps:\n- {{name: a, run: &r [{'5, ' * 100}]}}\n{aliases}")
    assert [d.code for d in diagnostics] == ["NP012"] * 100


def test_violations_in_an_aliased_value_are_reported_once() -> None:
    text = "name: p\nsteps:\n- {name: a, run: &r [{action: x, timeout: soon}, 5]}\n- {name: b, run: *r}\n"
    result, document, diagnostics = parse_text(text)
    assert [d.code for d in diagnostics] == ["NP012", "NP012"]
    assert result is not None
    assert [len(item.run or []) for item in result.playbook.steps] == [1, 1]
    assert document.data["steps"][0]["run"] == [{"action": "x", "timeout": "soon"}, 5]


@pytest.mark.parametrize(
    "text", ["name: p\n", "steps: []\n", "steps: x\n", "steps: [x]\n", "name: p\nsteps: [{run: []}]\n"]
)
def test_a_playbook_without_valid_steps_is_not_parsed(text: str) -> None:
    result, _, diagnostics = parse_text(text)
    assert result is None and diagnostics


# -- never raises --------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        "name",
        "steps",
        "tasks",
        "run",
        "rule",
        "case",
        "action",
        "task",
        "step",
        "with",
        "as",
        "if",
        "retry",
        "loop",
        "items",
        "repeat",
        "until",
        "max",
        "input",
        "type",
        "enum",
        "timeout",
        "parallel",
        "output",
        "nmae",
        "rnu",
        "acton",
        "next",
        "str",
        "bool",
        "as_",
        "set",
    ]
)
VALUES = st.sampled_from([None, True, 0, 3, 1.5, 10**390, "x", "a", "5s", "all", "default", ""])
DATA = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=30,
)
STEPS = st.lists(
    st.fixed_dictionaries({"name": VALUES}, optional={"run": DATA, "rule": DATA, "rnu": DATA, "loop": DATA})
)
PLAYBOOKS = st.fixed_dictionaries(
    {"steps": STEPS | DATA}, optional={"name": DATA, "tasks": DATA, "input": DATA, "retry": DATA}
)


@given(PLAYBOOKS | DATA)
@example({"name": "p", "steps": [{"name": "a", "rnu": [], "runs": []}]})
@example({"name": "p", "steps": [{"name": "a", "run": [{"acton": 1, "action_": 2}]}]})
@example({"name": "p", "tasks": {"": {"name": 5}}, "steps": [{"name": "a"}]})
@examples(10)
def test_no_data_raises_an_exception(data: Any) -> None:
    result, document, diagnostics = parse_text(json.dumps(data))
    assert result is not None or diagnostics
    assert result is None or diagnostics or result == ParsedPlaybook(result.playbook)
    for construct in find_constructs(result.playbook) if result is not None else ():
        value_at(document, construct.path)
    assert not any("Input should" in d.message or "pydantic" in d.message for d in diagnostics)
