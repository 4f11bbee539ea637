"""The command `noetl check`, and unreadable input of all commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noetl.executor import extras

Command = Callable[..., Any]

GOOD = "name: good\nsteps:\n  - name: greet\n    run: [{action: log, message: hello}]\n"
BAD = "name: bad\nsteps:\n  - name: greet\n    rule: [{case: default, run: [nowhere]}]\n"
MISTAKES = """\
name: many
verison: "1"
input: {region: string}
tasks:
  - name: notify
    run: [{action: log, message: hi, levle: info}]
steps:
  - name: greet
    timeout: soon
    run: [{action: htpp, url: "https://api.example.com"}]
    rule:
      - case: "{{ region == 'eu' }}"
        run: [notfy]
      - case: eventually
        run: [notify]
      - case: default
        run: [count]
  - name: count
    run: [{action: log, message: "{{ regoin }}"}, {action: log, message: "{{ region | uper }}"}]
  - name: count
    run: [{action: shell, command: "echo '{{ region }}'"}]
  - name: tidy
    run: [{action: http, method: GET}]
"""


def test_a_good_playbook_has_no_findings(noetl: Command, folder: Path) -> None:
    Path("good.yaml").write_text(GOOD)
    outcome = noetl("check", "good.yaml")
    assert (outcome.exit_code, outcome.out, outcome.err) == (0, "", "no findings in good.yaml\n")
    assert list(folder.iterdir()) == [folder / "good.yaml"]


CALLER = """\
name: caller
steps:
  - name: a
    run:
      - {action: workflow, playbook: by-stem, input: {size: many, colr: red}, as: made}
      - {action: workflow, playbook: by name, version: "2"}
      - {action: workflow, playbook: elsewhere, input: {x: 1}}
      - {action: workflow, playbook: good, alias: stable, input: {x: 1}}
      - {action: workflow, playbook: bad, input: {x: 1}}
      - {action: workflow, playbook: twice, input: {x: 1}}
      - {action: log, message: "{{ made.sum }}"}
"""
CALLED = "name: NAME\nversion: '2'\ninput: {size: integer, color: {type: string, default: blue}}\n"


def test_calls_are_compared_with_the_files_that_a_run_would_take(noetl: Command, folder: Path) -> None:
    called = CALLED + GOOD.removeprefix("name: good\n") + "output: {total: 1}\n"
    for file, text in {
        "caller.yaml": CALLER,
        "by-stem.yaml": called.replace("NAME", "other"),
        "any.yml": called.replace("NAME", "by name"),
        "good.yaml": GOOD,
        "bad.yaml": BAD,
        "one.yaml": GOOD.replace("good", "twice"),
        "two.yaml": GOOD.replace("good", "twice"),
    }.items():
        Path(file).write_text(text)
    outcome = noetl("check", "caller.yaml", "--format", "concise")
    assert outcome.exit_code == 1
    named = "by name@2"
    assert [line.partition(": error: ")[2] for line in outcome.err.splitlines()] == [
        "NP818 input `size` of `by-stem` must be of type integer, not text (write what `by-stem` declares)",
        "NP818 `by-stem` has no input `colr` (did you mean `color`?)",
        f"NP818 `{named}` requires the input `size` (add it to `input`, or give it a `default` in `{named}`)",
        "NP818 result of `by-stem` has no entry `sum` (entries: `total`)",
    ]
    assert noetl("check", "-", stdin=Path("caller.yaml").read_text()).exit_code == 0
    noetl("check", "--fix", "caller.yaml")
    assert "color: red" in Path("caller.yaml").read_text()


CIRCLES = {
    "a.yaml": "name: a\nsteps: [{name: s, run: [{action: workflow, playbook: b}]}]\n",
    "b.yaml": "name: b\nsteps: [{name: s, run: [{action: workflow, playbook: a}]}]\n",
    "own.yaml": "name: own\nsteps: [{name: s, run: [{action: workflow, playbook: own}]}]\n",
    "first.yaml": "triggers: [{name: t, type: run, playbook: second}]\n" + GOOD.replace("good", "first"),
    "second.yaml": "triggers: [{name: t, type: run, playbook: first}]\n" + GOOD.replace("good", "second"),
    # What was the first one once is not what its name stands for, so it closes no circle.
    "earlier.yaml": "triggers: [{name: t, type: run, playbook: third}]\n" + GOOD.replace("good", "first"),
    "third.yaml": "triggers: [{name: t, type: run, playbook: first}]\n" + GOOD.replace("good", "third"),
    "broken.yaml": "triggers: [{name: t, type: run, playbook: third}]\n" + BAD,
    "ending.yaml": "name: ending\nsteps: [{name: s, run: [{action: workflow, playbook: good, if: false}]}]\n",
}


def test_circles_of_the_files_in_a_folder_are_found(noetl: Command, folder: Path) -> None:
    for file, text in CIRCLES.items():
        (folder / file).write_text(text)
    found = {
        file: [line.partition(" error: ")[2].partition(" (")[0] for line in outcome.err.splitlines()]
        for file in CIRCLES
        if file not in ("earlier.yaml", "broken.yaml")
        for outcome in [noetl("check", file, "--format", "concise")]
    }
    endless = "NP819 recursion without end: every path of the playbook leads to another run of it"
    assert found == {
        "a.yaml": [endless],
        "b.yaml": [endless],
        "own.yaml": [endless],
        "first.yaml": ["NP816 `run` triggers in a circle: `first` → `second` → `first`"],
        "second.yaml": ["NP816 `run` triggers in a circle: `second` → `first` → `second`"],
        "third.yaml": [],
        "ending.yaml": [],
    }
    (folder / "b.yaml").unlink()
    assert noetl("check", "a.yaml").exit_code == 0


LIMITS = {
    "outer.yaml": "name: outer\nconcurrency: 2\nsteps:\n"
    "- {name: s, run: [{action: workflow, playbook: inner}]}\n",
    "inner.yaml": "name: inner\nsteps: [{name: s, run: [{action: workflow, playbook: outer, if: false}]}]\n",
    "held.yaml": "name: held\nconcurrency: {use: disk}\nsteps:\n"
    "- {name: s, run: [{action: workflow, playbook: free}]}\n",
    "free.yaml": "name: free\nsteps: [{name: s, run: [{action: workflow, playbook: net}]}]\n",
    "net.yaml": "concurrency: {use: link}\n" + GOOD.replace("good", "net"),
    "other.yaml": "name: other\nconcurrency: {use: link}\nsteps:\n"
    "- {name: s, run: [{action: workflow, playbook: disk}]}\n",
    "disk.yaml": "concurrency: {use: disk}\n" + GOOD.replace("good", "disk"),
    "detached.yaml": "name: detached\nconcurrency: 1\nsteps:\n"
    "- {name: s, run: [{action: workflow, playbook: inner, detach: true}]}\n",
    "skips.yaml": "name: skips\nconcurrency: {limit: 1, when_full: skip}\nsteps:\n"
    "- {name: s, run: [{action: workflow, playbook: net}]}\n",
}


def test_limits_of_the_files_in_a_folder_that_wait_for_each_other_are_found(
    noetl: Command, folder: Path
) -> None:
    for file, text in LIMITS.items():
        (folder / file).write_text(text)
    found = {
        file: [line.partition(" error: ")[2].partition(" (")[0] for line in outcome.err.splitlines()]
        for file in LIMITS
        for outcome in [noetl("check", file, "--format", "concise")]
    }
    words = "NP833 runs may wait for each other forever: limit"
    held = f"{words} `disk` → `held` → `free` → `net` → limit `link` → `other` → `disk` → limit `disk`"
    other = f"{words} `link` → `other` → `disk` → limit `disk` → `held` → `free` → `net` → limit `link`"
    assert {file: lines for file, lines in found.items() if lines} == {
        "outer.yaml": [f"{words} of `outer` → `outer` → `inner` → `outer` → limit of `outer`"],
        "inner.yaml": [f"{words} of `outer` → `outer` → `inner` → `outer` → limit of `outer`"],
        "held.yaml": [other],
        "free.yaml": [other],
        "other.yaml": [held],
    }
    (folder / "other.yaml").unlink()
    assert noetl("check", "held.yaml").exit_code == 0
    keyed = LIMITS["outer.yaml"].replace(
        "concurrency: 2", "input: {n: string}\nconcurrency: {limit: 2, key: '{{ input.n }}'}"
    )
    (folder / "outer.yaml").write_text(keyed)
    outcome = noetl("check", "outer.yaml", "--format", "concise")
    assert (outcome.exit_code, " warning: NP833 " in outcome.err) == (0, True)


@pytest.mark.parametrize("form", ["call", "trigger"])
def test_the_files_of_a_folder_are_read_a_few_times_each(
    noetl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The files are a chain of calls or triggers, and each has a trigger."""
    count = 40
    for number in range(count):
        awaited = f"type: run, playbook: p{number + 1}" if form == "trigger" else "type: schedule, every: 1h"
        call = f"action: workflow, playbook: p{number + 1}" if form == "call" else "action: log, message: x"
        text = (
            f"name: p{number}\ntriggers: [{{name: t, {awaited}}}]\nsteps: [{{name: s, run: [{{{call}}}]}}]\n"
        )
        (folder / f"p{number}.yaml").write_text(text)
    reads: list[Path] = []
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    noetl("check", *(f"p{number}.yaml" for number in range(count)))
    assert len([path for path in reads if path.suffix == ".yaml"]) < 8 * count


def test_a_trigger_is_compared_with_the_result_of_the_file_that_it_awaits(
    noetl: Command, folder: Path
) -> None:
    (folder / "load.yaml").write_text(GOOD.replace("good", "load") + "output: {rows: 1}\n")
    text = (
        "name: after\ninput: {n: integer}\ntriggers: [{name: t, type: run, playbook: load, input: INPUT}]\n"
    )
    text += "steps: [{name: s, run: [{action: log, message: '{{ input.n }}'}]}]\n"
    (folder / "right.yaml").write_text(text.replace("INPUT", "{n: '{{ trigger.result.rows }}'}"))
    (folder / "wrong.yaml").write_text(text.replace("INPUT", "{n: '{{ trigger.result.lines }}'}"))
    assert noetl("check", "right.yaml").exit_code == 0
    assert (
        "NP818 result of `load` has no entry `lines`"
        in noetl("check", "wrong.yaml", "--format", "concise").err
    )


def test_each_mistake_has_a_finding_at_its_position(noetl: Command, folder: Path) -> None:
    Path("many.yaml").write_text(MISTAKES)
    outcome = noetl("check", "many.yaml", "--format", "concise")
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert [" ".join(line.split()[:3]) for line in outcome.err.splitlines()] == [
        "many.yaml:2:1: error: NP010",
        "many.yaml:6:38: error: NP502",
        "many.yaml:9:14: error: NP012",
        "many.yaml:10:20: error: NP501",
        "many.yaml:13:15: error: NP101",
        "many.yaml:14:15: error: NP407",
        "many.yaml:19:38: error: NP301",
        "many.yaml:19:87: error: NP402",
        "many.yaml:20:11: error: NP102",
        "many.yaml:21:43: error: NP509",
        "many.yaml:23:20: error: NP503",
    ]


def test_the_full_report_names_the_file_and_counts(noetl: Command, folder: Path) -> None:
    Path("bad.yaml").write_text(BAD)
    outcome = noetl("check", "./bad.yaml")
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert " --> ./bad.yaml:4:34\n" in outcome.err
    assert outcome.err.endswith("1 error in ./bad.yaml\n")
    assert "\x1b" not in outcome.err


def test_files_and_standard_input_are_checked_together(noetl: Command, folder: Path) -> None:
    Path("good.yaml").write_text(GOOD)
    outcome = noetl("check", "good.yaml", "-", "--format", "json", stdin=BAD)
    assert (outcome.exit_code, outcome.err) == (1, "")
    assert outcome.json["errors"] == 1
    assert [(d["file"], d["code"], d["line"]) for d in outcome.json["diagnostics"]] == [("-", "NP101", 4)]


def test_reports_for_programs_go_to_stdout(noetl: Command, folder: Path) -> None:
    Path("bad.yaml").write_text(BAD)
    sarif = noetl("check", "bad.yaml", "--format", "sarif")
    assert (sarif.exit_code, sarif.err) == (1, "")
    assert sarif.json["runs"][0]["results"][0]["ruleId"] == "NP101"
    github = noetl("check", "bad.yaml", "--format", "github")
    assert github.out.startswith("::error title=noetl (NP101),file=bad.yaml,line=4,col=34,")


def test_warnings_do_not_fail_the_command(noetl: Command, folder: Path) -> None:
    Path("warned.yaml").write_text(GOOD.replace("message: hello", "message: yes"))
    outcome = noetl("check", "warned.yaml", "--format", "concise")
    assert outcome.exit_code == 0
    assert re.match(r"warned.yaml:\d+:\d+: warning: NP006 ", outcome.err)


@pytest.mark.parametrize("command", ["check", "plan", "run"])
@pytest.mark.parametrize(
    ("file", "reason"),
    [("missing.yaml", "No such file or directory"), (".", "Is a directory"), ("a\0b", "embedded null byte")],
)
def test_unreadable_input_is_a_sentence(
    noetl: Command, folder: Path, command: str, file: str, reason: str
) -> None:
    outcome = noetl(command, file)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith("noetl: cannot read ") and reason in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["check", "plan", "run"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "NP012"),
        ("[" * 10_000_000, "NP004"),
        ("name: [\n", "NP001"),
        ("name: x\nsteps: [{name: a, run: [{action: log, message: \x07}]}]", "NP001"),
        (BAD, "NP101"),
    ],
    ids=["empty", "10 MB of nested lists", "not YAML", "control character", "an error"],
)
def test_a_wrong_playbook_is_diagnosed_and_creates_no_store(
    noetl: Command, folder: Path, command: str, text: str, code: str
) -> None:
    outcome = noetl(command, "-", stdin=text)
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert f"[{code}]" in outcome.err
    assert list(folder.iterdir()) == []


def test_an_internal_error_is_a_sentence(
    noetl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("noetl.planner.compile.compile_playbook", broken)
    outcome = noetl("check", "-", stdin=GOOD)
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert outcome.err == (
        "noetl: NP900 internal error: KeyError: 'oh'. Please report it; NOETL_DEBUG=1 prints the traceback.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["check", "--format", "xml", "-"], ["check", "--frob"], ["serve", "--port", "70000"]],
)
def test_wrong_usage_has_exit_code_2(noetl: Command, arguments: list[str]) -> None:
    outcome = noetl(*arguments)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err


@pytest.mark.parametrize(
    "command", [["check"], ["plan"], ["run"], ["runs"], ["runs", "show"], ["runs", "resume"], ["backfills"]]
)
def test_a_command_without_its_argument_shows_an_example(noetl: Command, command: list[str]) -> None:
    outcome = noetl(*command)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert f"Example: noetl {' '.join(command)} " in outcome.err


def test_noetl_without_a_command_shows_the_commands(noetl: Command) -> None:
    outcome = noetl()
    assert (outcome.exit_code, outcome.out) == (2, "")
    for word in ("check", "plan", "run", "runs", "serve", "explain", "schema", "Example:"):
        assert word in outcome.err


@pytest.mark.parametrize("command", [[], ["backfills"], ["check"]])
def test_help_that_was_requested_is_a_result(noetl: Command, command: list[str]) -> None:
    outcome = noetl(*command, "--help")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert "Example: noetl " in outcome.out


def test_the_version_is_shown(noetl: Command) -> None:
    outcome = noetl("--version")
    assert outcome.exit_code == 0
    assert outcome.out.startswith("noetl 0.")


def test_a_code_is_explained(noetl: Command) -> None:
    page = noetl("explain", "np101")
    assert page.exit_code == 0
    assert "NP101" in page.out and page.out.count("```yaml") == 2
    all_codes = noetl("explain")
    assert all_codes.exit_code == 0
    assert "NP101  error    unknown step\n" in all_codes.out
    unknown = noetl("explain", "NP1O1")
    assert (unknown.exit_code, unknown.out) == (2, "")
    assert "unknown code NP1O1" in unknown.err


def test_a_code_of_a_verdict_is_explained(noetl: Command) -> None:
    page = noetl("explain", "nc1o5")
    assert (page.exit_code, page.out) == (2, "")
    assert "did you mean NC105?" in page.err
    assert noetl("explain", "nc105").out.startswith("# NC105: a step would be done twice\n")
    assert "NC151  resume   an action is done again\n" in noetl("explain").out


def test_the_schema_has_every_action_with_its_parameters(noetl: Command) -> None:
    from noetl.executor.actions import catalogue

    schema = noetl("schema").json
    entry = schema["$defs"]["ActionEntry"]
    assert entry["properties"]["action"]["enum"] == sorted(catalogue())
    http = next(
        rule["then"] for rule in entry["allOf"] if rule["if"]["properties"]["action"]["const"] == "http"
    )
    assert "url" in http["required"]
    assert http["properties"]["url"]["description"]
    assert {"as", "if", "retry", "timeout"} < set(http["properties"])
    assert not http["additionalProperties"]
    callback = next(
        rule["then"] for rule in entry["allOf"] if rule["if"]["properties"]["action"]["const"] == "callback"
    )
    short_form, long_form = callback["properties"]["answer"]["additionalProperties"]["anyOf"]
    assert "boolean" in short_form["enum"]
    assert set(schema["$defs"]["InputDeclaration"]["properties"]) == {
        "type",
        "default",
        "enum",
        "description",
    }
    assert long_form == {"$ref": "#/$defs/InputDeclaration"}
    assert "finally" in schema["properties"] and schema["additionalProperties"] is False
    assert schema["$schema"].endswith("2020-12/schema")
    json.dumps(schema)


def test_a_playbook_that_exceeds_the_limits_of_lambda_is_refused(noetl: Command) -> None:
    text = "name: slow\nsteps: [{name: a, timeout: 1h, run: [{action: log, message: x}]}]\n"
    assert noetl("check", "-", stdin=text).exit_code == 0
    refused = noetl("check", "-", "--target", "lambda", stdin=text)
    assert refused.exit_code == 1
    assert "error[NP601]" in refused.err
    assert noetl("plan", "-", "--target", "lambda", stdin=text).exit_code == 1


def test_actions_that_need_a_missing_extra_are_noted(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(package: str) -> object:
        return None if package in ("psycopg", "boto3") else object()

    actions = "[{action: s3, get: 's3://b/k'}, {action: postgres, connection: c, query: select 1}]"
    playbook = f"name: x\nsteps: [{{name: a, run: {actions}}}]\n"
    assert "cannot run in this installation" not in noetl("check", "-", stdin=playbook).err
    monkeypatch.setattr(extras, "find_spec", find)
    outcome = noetl("check", "-", stdin=playbook)
    lines = [line for line in outcome.err.splitlines() if line.startswith("note: `")]
    assert [line.partition(" cannot")[0] for line in lines] == ["note: `postgres`", "note: `s3`"]
    assert "pip install 'psycopg[binary,pool]" in lines[0] and "boto3" in lines[1]
    assert "note: `" not in noetl("check", "-", "--format", "json", stdin=playbook).err


def test_misspelt_words_are_replaced_in_files(noetl: Command, folder: Path) -> None:
    text = (
        "name: a\r\nsteps:\r\n  - name: load ü\r\n    run: [{action: log, mesage: hello}]\r\n"
        "    rule: [{case: default, run: ['laod ü', nowhere]}]\r\n"
    )
    file = folder / "wrong.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    report = json.loads(noetl("check", str(file), "--format", "json").out)
    fixes = [finding["fix"]["text"] for finding in report["diagnostics"] if "fix" in finding]
    assert fixes == ["message", "load ü"]
    result = noetl("check", "--fix", str(file))
    assert result.exit_code == 1
    assert "replaced 2 words in" in result.err and "unknown step `nowhere`" in result.err
    fixed = text.replace("mesage", "message").replace("laod", "load")
    assert file.read_bytes() == b"\xef\xbb\xbf" + fixed.encode()
    before = file.stat()
    assert "replaced" not in noetl("check", "--fix", str(file)).err
    assert file.stat() == before


def test_standard_input_is_not_fixed(noetl: Command) -> None:
    result = noetl("check", "--fix", "-", stdin="name: a")
    assert result.exit_code == 2
    assert "standard input is none; name a file" in result.err
