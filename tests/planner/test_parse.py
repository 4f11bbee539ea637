from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from noetl.planner.diagnostics.diagnostic import Diagnostic, Diagnostics
from noetl.planner.syntax import limits
from noetl.planner.syntax.limits import MAX_CASES, MAX_STEPS, MAX_TARGETS, MAX_TASKS
from noetl.planner.syntax.models import ActionEntry, Model, Playbook, TaskEntry
from noetl.planner.syntax.parser import MAX_SCHEMA_VIOLATIONS, ParsedPlaybook, parse_playbook
from noetl.planner.syntax.reader import Document, read_document


def parsed(text: str) -> tuple[ParsedPlaybook | None, Document, list[Diagnostic]]:
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    assert document is not None, list(diagnostics)
    result = parse_playbook(document, diagnostics)
    return result, document, list(diagnostics)


def good(text: str) -> Playbook:
    result, _, diagnostics = parsed(text)
    assert result is not None and not diagnostics, diagnostics
    assert result == ParsedPlaybook(result.playbook)
    return result.playbook


def only(text: str) -> Diagnostic:
    (diagnostic,) = parsed(text)[2]
    return diagnostic


def rest(text: str) -> ParsedPlaybook:
    result, _, diagnostics = parsed(text)
    assert result is not None and diagnostics
    return result


SMALL = "name: p\nsteps:\n- name: a\n  run: []\n"


def step(text: str) -> str:
    """A playbook whose step `a` has the given lines too, from line 4 on."""
    return "name: p\nsteps:\n- name: a\n" + "".join(f"  {line}\n" for line in text.splitlines())


# -- short forms and paths -------------------------------------------------------------------------------------------


def test_short_forms_are_written_out() -> None:
    playbook = good(
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


def constructs(model: Model) -> list[Model]:
    found = [model]
    for name in type(model).model_fields:
        held = getattr(model, name)
        for item in held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]:
            if isinstance(item, Model):
                found += constructs(item)
    return found


WHOLE = """\
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


def at(document: Document, path: tuple[str | int, ...]) -> Any:
    value = document.data
    for part in path:
        value = value[part]
    return value


def test_each_construct_knows_where_it_stands() -> None:
    result, document, _ = parsed(WHOLE)
    assert result is not None
    paths = {construct.path for construct in constructs(result.playbook)}
    for path in paths:
        at(document, path)
    assert len(paths) == len(constructs(result.playbook)) == 19
    tasks = result.playbook.tasks
    assert [task.run_path for task in tasks] == [("tasks", "t"), ("tasks", "u", "run")]
    assert [entry.path for task in tasks for entry in task.run if not isinstance(entry, str)] == [
        ("tasks", "t", 0),
        ("tasks", "t", 1),
        ("tasks", "u", "run", 0),
    ]


def test_paths_hold_when_something_before_was_left_out_or_misspelt() -> None:
    text = "name: p\nsteps:\n- nonsense\n- nam: s\n  rul:\n  - 5\n  - {case: default, run: [{}, {step: x}, 5, z]}\n"
    result, document, _ = parsed(text)
    assert result is not None
    (only_step,) = result.playbook.steps
    assert only_step.name == "s" and only_step.path == ("steps", 1)
    (case,) = only_step.rule or []
    assert case.path == ("steps", 1, "rul", 1)
    assert at(document, case.path)["case"] == "default"
    # Broken entries keep their places, because the name after them has no path of its own.
    assert [entry if isinstance(entry, str) else entry.path for entry in case.run] == [
        "",
        ("steps", 1, "rul", 1, "run", 1),
        "",
        "z",
    ]
    assert result.broken_steps == {"s", ""}


# -- one mistake each ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        # NP010
        (SMALL + "nmae: x", "NP010 5:1-5:5", "the playbook has no key `nmae`", "did you mean `name`?"),
        (SMALL + "as_: x", "NP010 5:1-5:4", "the playbook has no key `as_`", None),
        (SMALL + "finaly: a", "NP010 5:1-5:7", "the playbook has no key `finaly`", "did you mean `finally`?"),
        (SMALL + "finally_: a", "NP010 5:1-5:9", "the playbook has no key `finally_`", "did you mean `finally`?"),
        (SMALL + "apiversion: noetl.io/v1", "NP010 5:1-5:11", "the playbook has no key `apiversion`", "did you mean `apiVersion`?"),
        (SMALL + "vars: {}", "NP010 5:1-5:5", "the playbook has no key `vars`", "first values of names are `variables`"),
        (step("run: []\nnext: b"), "NP010 5:3-5:7", "a step has no key `next`", "what comes next is written in `rule`"),
        (step("run: []\nthen: b"), "NP010 5:3-5:7", "a step has no key `then`", "what comes next is written in `rule`"),
        (step("run: []\nparalell: true"), "NP010 5:3-5:11", "a step has no key `paralell`", "did you mean `parallel`?"),
        (step("run: []\nas: x"), "NP010 5:3-5:5", "a step has no key `as`", "a result is saved by `as` on an action of `run`"),
        (step("rule: [{case: x, when: z}]"), "NP010 4:20-4:24", "a case has no key `when`", "the guard of a case is its `case`"),
        (step("rule: [{cas: x}]"), "NP010 4:11-4:14", "a case has no key `cas`", "did you mean `case`?"),
        (step("run: [{task: t, wit: {}}]"), "NP010 4:19-4:22", "a call of a task has no key `wit`", "did you mean `with`?"),
        (step("run: [{task: t, retry: 2}]"), "NP010 4:19-4:24", "a call of a task has no key `retry`", "write it on the actions of the task"),
        (step("run: [{step: t, zzz: 2}]"), "NP010 4:19-4:22", "`{step: NAME}` has no key `zzz`", "it takes `step`"),
        (step("run: [{acton: log}]"), "NP010 4:10-4:15", "an entry of `run` has no key `acton`", "did you mean `action`?"),
        (step("run: []\nretry: {atempts: 2}"), "NP010 5:11-5:18", "`retry` has no key `atempts`", "did you mean `attempts`?"),
        (step("run: [{action: x, retry: {times: 2}}]"), "NP010 4:29-4:34", "`retry` has no key `times`", "write `attempts`"),
        (step("run: []\nloop: {items: [], over: x}"), "NP010 5:21-5:25", "`loop` has no key `over`", "write `items`"),
        (SMALL + "tasks: [{name: t, run: [], rule: []}]", "NP010 5:28-5:32", "a task has no key `rule`", "tasks do not lead anywhere: `rule` belongs to a step"),
        (SMALL + "tasks: {t: {run: [], zzz: 1}}", "NP010 5:22-5:25", "a task has no key `zzz`", "it takes `name`, `description`, `run` and `parallel`"),
        (SMALL + "tasks: {t: {run: [], name: u}}", "NP010 5:22-5:26", "the name of the task is its key, `t`", None),
        (SMALL + "input: {i: {typ: any}}", "NP010 5:13-5:16", "an input has no key `typ`", "did you mean `type`?"),
        # NP011
        ("steps:\n- name: a\n  run: []\n", "NP011 1:1-1:6", "the playbook needs `name`", None),
        ("name: p\nsteps: []\n", "NP011 2:1-2:6", "`steps` needs at least one entry", None),
        ("name: p\nsteps:\n- run: []\n- name: b\n", "NP011 3:3-3:10", "a step needs `name`", None),
        (step("rule: [{run: [b]}]"), "NP011 4:10-4:20", "a case needs `case`", None),
        (step("run: []\nloop: {as: x}"), "NP011 5:3-5:7", "`loop` needs `items`", None),
        (step("run: []\nrepeat: {until: x}"), "NP011 5:3-5:9", "`repeat` needs `max`", None),
        (step("run: [{url: x, as: z}]"), "NP011 4:9-4:24", "an entry of `run` needs `action:` or `task:`", "begin it with `action: TYPE`, and write the parameters beside it"),
        (step("run:\n- http: {}"), "NP011 5:5-5:13", "an entry of `run` needs `action:` or `task:`", "if `http` is a type, write `action: http` and the parameters beside it"),
        (SMALL + "tasks: {t: {}}", "NP011 5:9-5:10", "a task needs `run`", None),
        (SMALL + "tasks: [{name: t}]", "NP011 5:9-5:18", "a task needs `run`", None),
        # NP012
        ("[]", "NP012 1:1-1:3", "a playbook is a mapping, not a list", ...),
        ("text", "NP012 1:1-1:5", "a playbook is a mapping, not text", ...),
        ("", "NP012 1:1-1:1", "the playbook is empty", ...),
        ("name: 5\nsteps: [{name: a, run: []}]", "NP012 1:7-1:8", "`name` takes text, not the number 5", "write it in quotes"),
        ("name: p\nsteps: {a: {run: []}}", "NP012 2:8-2:22", "`steps` takes a list, not a mapping", "begin each step with `- name: NAME`"),
        ("name: p\nsteps:\n", "NP012 2:1-2:6", "`steps` takes a list, not nothing", ...),
        (SMALL + "- b", "NP012 5:3-5:4", "a step is a mapping, not text", None),
        (SMALL + "version: 1.0", "NP012 5:10-5:13", "`version` takes text, not the number 1.0", "write it in quotes"),
        (SMALL + "kind: Playbok", "NP012 5:7-5:14", "`kind` takes `Playbook`, not `Playbok`", "did you mean `Playbook`?"),
        (SMALL + "mode: [x]", "NP012 5:7-5:10", "`mode` takes `parallel` or `sequential`, not a list", None),
        (SMALL + "environment:", "NP012 5:1-5:12", "`environment` takes a mapping, not nothing", "write a value after the key, or leave the key out"),
        (SMALL + "input: {i: integr}", "NP012 5:12-5:18", "`type` takes `string`, `integer`, `number`, `boolean`, `object`, `array` or `any`, not `integr`", "did you mean `integer`?"),
        (SMALL + "input: {i: [x]}", "NP012 5:12-5:15", "the input `i` is a type or a mapping, not a list", None),
        (SMALL + "input: {i: {enum: []}}", "NP012 5:13-5:17", "`enum` needs at least one entry", None),
        (SMALL + "tasks: {t: x}", "NP012 5:12-5:13", "a task is a mapping, not text", None),
        (SMALL + "tasks: {t: [5]}", "NP012 5:13-5:14", "an entry of `run` is an action, a task or a name, not the number 5", ...),
        (step("run: {action: log}"), "NP012 4:8-4:21", "`run` takes a list, not a mapping", "begin each entry with `- `, or write the list in brackets"),
        (step("run:\n- "), "NP012 5:3-5:4", "an entry of `run` is an action, a task or a name, not nothing", ...),
        (step("run: []\nparallel: 'yes'"), "NP012 5:13-5:18", "`parallel` takes true or false, not text", "write `true`"),
        (step("run: []\nmax_visits: 0"), "NP012 5:15-5:16", "`max_visits` is at least 1", None),
        (step("run: []\nmax_visits: '3'"), "NP012 5:15-5:18", "`max_visits` takes a whole number, not text", "write it without quotes"),
        (step("run: []\nmax_visits: 1.5"), "NP012 5:15-5:18", "`max_visits` takes a whole number, not the number 1.5", None),
        (step("run: []\njoin: al"), "NP012 5:9-5:11", "`join` takes `all`, `any` or `each`, not `al`", "did you mean `all`?"),
        (step("run: []\nretry: x"), "NP012 5:10-5:11", "`retry` takes a number of attempts or a mapping, not text", None),
        (step("run: []\nretry: 0"), "NP012 5:10-5:11", "`retry` is at least 1", None),
        (step("run: []\nretry: {attempts: 2000}"), "NP012 5:21-5:25", "`attempts` is at most 1000", None),
        (step("run: []\nretry: {backoff: " + "9" * 400 + "}"), "NP012 5:20-5:420", f"`backoff` takes a number, not the number {'9' * 60}…", None),
        (step("run: []\ntimeout: 5 min"), "NP012 5:12-5:17", "`timeout` takes a duration, not `5 min`", ...),
        (step("run: []\ntimeout: -1"), "NP012 5:12-5:14", "`timeout` takes a duration, not the number -1", ...),
        (step("run: []\ntimeout: " + "9" * 400), "NP012 5:12-5:412", f"`timeout` takes a duration, not the number {'9' * 60}…", ...),
        (step("run: []\ntimeout: 40000d"), "NP012 5:12-5:18", "`timeout` takes a duration, not `40000d`", ...),
        (step("run: [{action: x, timeout: true}]"), "NP012 4:30-4:34", "`timeout` takes a duration, not true", ...),
        (step("run: [{action: x, if: [1]}]"), "NP012 4:25-4:28", "`if` takes text, true or false, not a list", None),
        (step("run: [{action: x, on_error: abort}]"), "NP012 4:31-4:36", "`on_error` takes `continue`, not `abort`", None),
        (step("run: [{action: x, loop: {items: 5}}]"), "NP012 4:35-4:36", "`items` takes text or a list, not the number 5", "write it in quotes"),
        (step("run: [{action: 5}]"), "NP012 4:18-4:19", "`action` takes text, not the number 5", "write it in quotes"),
        (step("run: [{task: t, with: [x]}]"), "NP012 4:25-4:28", "`with` takes a mapping, not a list", None),
        (step("rule: [5]"), "NP012 4:10-4:11", "a case is a mapping, not the number 5", None),
        (step("rule: [{case: 5}]"), "NP012 4:17-4:18", "`case` takes text, true or false, not the number 5", "write it in quotes"),
        (step("rule: [{case: x, run: b}]"), "NP012 4:25-4:26", "`run` takes a list, not text", "begin each entry with `- `, or write the list in brackets"),
    ],
)  # fmt: skip
def test_one_mistake_is_one_diagnostic(text: str, place: str, message: str, hint: Any) -> None:
    found = only(text)
    span = found.span
    assert f"{found.code} {span.line}:{span.column}-{span.end_line}:{span.end_column}" == place
    assert found.message == message
    assert found.hint == hint or (hint is ... and found.hint)


# -- limits ----------------------------------------------------------------------------------------------------------


def test_10_000_steps_and_no_more() -> None:
    lines = ["name: p", "steps:", *(f"- {{name: s{n}, run: []}}" for n in range(MAX_STEPS))]
    assert len(good("\n".join(lines)).steps) == MAX_STEPS
    found = only("\n".join([*lines, "- {name: more, run: []}"]))
    assert (found.code, found.span.line) == ("NP701", MAX_STEPS + 3)


def test_100_cases_and_no_more() -> None:
    lines = ["name: p", "steps:", "- name: a", "  rule:", *["  - {case: x}"] * MAX_CASES]
    good("\n".join(lines))
    found = only("\n".join([*lines, "  - {case: more}"]))
    assert (found.code, found.span.line, found.span.column) == ("NP701", MAX_CASES + 5, 5)


def test_1_000_targets_and_no_more() -> None:
    lines = [
        "name: p",
        "steps:",
        "- name: a",
        "  rule:",
        "  - case: x",
        "    run:",
        *["    - b"] * MAX_TARGETS,
    ]
    good("\n".join(lines))
    found = only("\n".join([*lines, "    - more"]))
    assert (found.code, found.span.line, found.span.column) == ("NP701", MAX_TARGETS + 7, 7)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("steps: [{name: a, run: [", "]}]\n"),
        ("steps: [{name: a}]\ntasks: [{name: t, run: [", "]}]\n"),
        ("steps: [{name: a}]\ntasks: {t: [", "]}\n"),
        ("steps: [{name: a}]\ntasks: {t: {run: [", "]}}\n"),
    ],
)
def test_1_000_entries_of_a_run_and_no_more(before: str, after: str) -> None:
    good(f"name: p\n{before}{'b, ' * MAX_TARGETS}{after}")
    found = only(f"name: p\n{before}{'b, ' * MAX_TARGETS}more{after}")
    assert (found.code, found.span.end_column - found.span.column) == ("NP701", len("more"))


@pytest.mark.parametrize("task", ["t%d: []", "- {name: t%d, run: []}"])
def test_10_000_tasks_and_no_more(task: str) -> None:
    lines = ["name: p", "steps: [{name: a}]", "tasks:", *(f"  {task % n}" for n in range(MAX_TASKS))]
    assert len(good("\n".join(lines)).tasks) == MAX_TASKS
    found = only("\n".join([*lines, f"  {task % MAX_TASKS}"]))
    assert (found.code, found.span.line) == ("NP701", MAX_TASKS + 4)


def test_100_000_cases_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ALL_CASES", 100)
    rule = "[" + "{case: x}, " * 50 + "]"
    steps = [f"- {{name: s{n}, rule: {rule}}}" for n in range(4)]
    good("\n".join(["name: p", "steps:", *steps[:2]]))
    found = only("\n".join(["name: p", "steps:", *steps]))
    assert (found.code, found.span.line, found.message) == ("NP701", 5, "a playbook has at most 100 cases")


def test_100_000_entries_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ALL_ENTRIES", 3)
    text = "name: p\ntasks: {t: [x]}\nsteps:\n- {name: a, run: [t], rule: [{case: x, run: [b]}]}\n"
    good(text)
    found = only(text + "- {name: b, run: [t, t]}\n- {name: c, run: [t]}\n")
    assert (found.code, found.span.line, found.span.column) == ("NP701", 5, 19)


# -- what remains ----------------------------------------------------------------------------------------------------


def test_ten_mistakes_are_ten_diagnostics() -> None:
    _, _, diagnostics = parsed(
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


def test_a_misspelt_key_is_read_as_the_one_it_was_meant_to_be() -> None:
    result = rest("name: p\nsteps:\n- nmae: a\n  runs: [{acton: set, set: {x: 1}}]\n")
    (only_step,) = result.playbook.steps
    (entry,) = only_step.run or []
    assert isinstance(entry, ActionEntry)
    assert (only_step.name, entry.action, entry.parameters) == ("a", "set", {"set": {"x": 1}})
    assert entry.path == ("steps", 0, "runs", 0)
    assert not result.broken_steps and not result.lost_names


def test_a_key_is_not_renamed_to_one_that_is_there() -> None:
    result = rest(step("run: []\nrnu: [x]\nruns: [y]"))
    assert result.playbook.steps[0].run == []


def test_what_is_left_out_is_told() -> None:
    result = rest(
        "name: p\nsteps:\n- name: a\n  rule: 5\n- name: b\n  run: [{as: x}, {set: {y: 1}, loop: {as: z}}, {task: t, with: 5}]\n"
        "- {name: c, loop: {as: row}}\n- {run: [{action: log, as: w}]}\n- name: d\n"
        "tasks:\n  t: {}\n  u: 5\n  v: [5]\n  w: []\ninput: {i: 5, j: any}\nenvironment: 5\n"
    )
    assert [item.name for item in result.playbook.steps] == ["a", "b", "c", "d"]
    assert [item.name for item in result.playbook.tasks] == ["v", "w"]
    assert result.broken_steps - {""} == {"a", "b", "c"}
    assert result.broken_tasks - {""} == {"t", "u", "v"}
    assert result.lost_names == {"x", "y", "z", "args", "row", "loop", "item", "w", "i", "environment"}


def test_only_what_is_wrong_is_left_out() -> None:
    result = rest(
        step("run: [{action: http, timeout: x, as: z}, {task: t, retry: 3}]\nretry: {attempts: 2, delay: x}")
    )
    (only_step,) = result.playbook.steps
    action, call = only_step.run or []
    assert isinstance(action, ActionEntry) and action.as_ == "z" and action.timeout is None
    assert isinstance(call, TaskEntry) and call.task == "t"
    assert only_step.retry is not None and only_step.retry.attempts == 2


def test_a_name_after_a_broken_entry_keeps_its_place() -> None:
    result = rest(step("rule: [{case: default, run: [5, b, 6]}]"))
    (case,) = result.playbook.steps[0].rule or []
    assert case.run == ["", "b"]
    assert "" in result.broken_steps and "" in result.broken_tasks


def test_more_than_a_thousand_mistakes_are_not_all_told() -> None:
    steps = "".join(f"- {{name: s{n}, run: [{'5, ' * 1000}]}}\n" for n in range(3))
    result, _, diagnostics = parsed(f"name: p\nsteps:\n{steps}")
    assert result is None
    *shown, last = diagnostics
    assert len(shown) == MAX_SCHEMA_VIOLATIONS
    assert (last.code, last.message) == ("NP902", "2,000 more findings are not shown")


def test_mistakes_in_something_shared_are_counted_once() -> None:
    aliases = "".join(f"- {{name: s{n}, run: *r}}\n" for n in range(20))
    _, _, diagnostics = parsed(f"name: p\nsteps:\n- {{name: a, run: &r [{'5, ' * 100}]}}\n{aliases}")
    assert [d.code for d in diagnostics] == ["NP012"] * 100


def test_a_mistake_in_something_shared_is_one_mistake() -> None:
    text = "name: p\nsteps:\n- {name: a, run: &r [{action: x, timeout: soon}, 5]}\n- {name: b, run: *r}\n"
    result, document, diagnostics = parsed(text)
    assert [d.code for d in diagnostics] == ["NP012", "NP012"]
    assert result is not None
    assert [len(item.run or []) for item in result.playbook.steps] == [1, 1]
    assert document.data["steps"][0]["run"] == [{"action": "x", "timeout": "soon"}, 5]


@pytest.mark.parametrize(
    "text", ["name: p\n", "steps: []\n", "steps: x\n", "steps: [x]\n", "name: p\nsteps: [{run: []}]\n"]
)
def test_without_steps_there_is_no_playbook(text: str) -> None:
    result, _, diagnostics = parsed(text)
    assert result is None and diagnostics


# -- never raises ----------------------------------------------------------------------------------------------------

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
@settings(max_examples=1500, deadline=None)
def test_no_data_raises(data: Any) -> None:
    result, document, diagnostics = parsed(json.dumps(data))
    assert result is not None or diagnostics
    assert result is None or diagnostics or result == ParsedPlaybook(result.playbook)
    for construct in constructs(result.playbook) if result is not None else ():
        at(document, construct.path)
    assert not any("Input should" in d.message or "pydantic" in d.message for d in diagnostics)
