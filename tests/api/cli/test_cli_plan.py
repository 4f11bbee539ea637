"""The command `noetl plan`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from noetl.api.cli.local.called_plans import MAX_CALLED_PLANS
from noetl.executor.extras import install_command

Command = Callable[..., Any]

FORK = """\
name: fork
steps:
  - name: begin
    rule: [{case: default, run: [left, right]}]
  - name: left
    run: [{action: set, set: {a: 1}}]
    rule: [{case: default, run: [meet]}]
  - name: right
    run: [{action: set, set: {b: 2}}]
    rule: [{case: default, run: [meet]}]
  - name: meet
    run: [{action: log, message: "{{ a }} {{ b }}"}]
"""


@pytest.fixture(autouse=True)
def playbook(folder: Path) -> None:
    Path("fork.yaml").write_text(FORK)


def test_text_is_the_default(noetl: Command) -> None:
    outcome = noetl("plan", "fork.yaml")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert outcome.out.startswith("fork: 4 steps, 4 edges, 1 fork, 1 join, at most 4 visits\n")


def test_json_is_the_plan(noetl: Command) -> None:
    plan = noetl("plan", "-", "-f", "json", stdin=FORK).json
    assert {"name", "hash", "start", "steps", "edges", "inputs", "statistics"} <= set(plan)
    assert plan["edges"][0] == {"source": "begin", "target": "left", "guard": "default", "case": 0}
    assert plan["steps"]["meet"]["join"]["mode"] == "all"
    assert plan["steps"]["meet"]["reads"] == ["a", "b"]


@pytest.mark.parametrize(
    ("format", "start"),
    [
        ("mermaid", b"flowchart TD\n"),
        ("dot", b"digraph"),
        ("svg", b"<svg"),
        ("png", b"\x89PNG"),
        ("html", b"<!DOCTYPE html>"),
    ],
)
def test_pictures_go_to_a_file(noetl: Command, format: str, start: bytes) -> None:
    outcome = noetl("plan", "fork.yaml", "-f", format, "-o", "picture")
    assert (outcome.exit_code, outcome.out, outcome.err) == (0, "", "")
    assert Path("picture").read_bytes().startswith(start)


def test_an_unwritable_file_is_a_sentence(noetl: Command) -> None:
    outcome = noetl("plan", "fork.yaml", "-o", "no/such/folder")
    assert outcome.exit_code == 2
    assert outcome.err == "noetl: cannot write no/such/folder: No such file or directory\n"


@pytest.mark.parametrize(
    ("file", "start"),
    [
        ("x.svg", b"<svg"),
        ("x.DOT", b"digraph"),
        ("x.mmd", b"flowchart"),
        ("x.json", b"{"),
        ("x.png", b"\x89PNG"),
        ("x.html", b"<!"),
        ("x", b"fork:"),
    ],
)
def test_the_suffix_of_the_file_chooses_the_format(noetl: Command, file: str, start: bytes) -> None:
    assert noetl("plan", "fork.yaml", "-o", file).exit_code == 0
    assert Path(file).read_bytes().startswith(start)


def test_a_format_that_contradicts_the_file_is_refused(noetl: Command) -> None:
    outcome = noetl("plan", "fork.yaml", "-f", "svg", "-o", "x.png")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err == (
        "noetl: -f svg contradicts the suffix of x.png, which means png; leave out -f, or rename the file\n"
    )
    assert not Path("x.png").exists()
    outcome = noetl("plan", "fork.yaml", "-o", "x.gif")
    assert (outcome.exit_code, outcome.err[:31]) == (2, "noetl: unknown format of x.gif;")


def test_boxes_are_drawn_on_request(noetl: Command) -> None:
    outcome = noetl("plan", "fork.yaml", "--boxes")
    assert outcome.out.startswith("fork: 4 steps, 4 edges, 1 fork, 1 join, at most 4 visits\n")
    assert "│ begin │" in outcome.out
    assert noetl("plan", "fork.yaml", "--outline").out == noetl("plan", "fork.yaml").out


def test_a_terminal_shows_boxes_if_they_fit(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from noetl.api.cli.drawings import Drawing, DrawingFormat, draw
    from noetl.executor.actions import catalogue
    from noetl.planner.compile import compile_playbook

    plan = compile_playbook(FORK, catalogue()).plan
    assert plan is not None
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns, has_boxes in ((100, True), (20, True), (18, False)):
        monkeypatch.setenv("COLUMNS", str(columns))
        text = draw(Drawing(plan, None), DrawingFormat.TEXT).decode()
        assert ("╭" in text) is has_boxes
        assert max(map(len, text.splitlines())) <= max(columns, 20)
        assert "╭" not in draw(Drawing(plan, None, outline=True), DrawingFormat.TEXT).decode()


def test_a_missing_resvg_has_a_hint(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    outcome = noetl("plan", "fork.yaml", "-o", "x.png")
    assert (outcome.exit_code, outcome.out) == (2, "")
    command = install_command("graph", sys.executable)
    assert outcome.err == f"noetl: png needs resvg; install it with `{command}`\n"


def test_a_missing_graphviz_has_a_hint(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    outcome = noetl("plan", "fork.yaml", "-f", "svg")
    assert (outcome.exit_code, outcome.out) == (2, "")
    problem = "the program `graphviz-pure` of NoETL is missing, so nothing can be drawn"
    assert outcome.err == f"noetl: {problem}; install NoETL again\n"


def test_a_plan_with_warnings_is_drawn(noetl: Command) -> None:
    outcome = noetl(
        "plan", "-", "-f", "json", stdin=FORK.replace("name: fork", "name: fork\nvariables: {x: no}")
    )
    assert outcome.exit_code == 0
    assert "warning[NP006]" in outcome.err
    assert json.loads(outcome.out)["name"] == "fork"


def test_joins_are_explained(noetl: Command) -> None:
    outcome = noetl("plan", "fork.yaml", "--explain-joins")
    assert (outcome.exit_code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        "meet: waits for all branches: two branches of the fork at `begin` can arrive",
        "  begin → left → meet",
        "  begin → right → meet",
    ]
    (entry,) = noetl("plan", "fork.yaml", "--explain-joins", "-f", "json").json
    assert entry["ways"] == [["begin", "left", "meet"], ["begin", "right", "meet"]]
    refused = noetl("plan", "fork.yaml", "--explain-joins", "-f", "svg")
    assert (refused.exit_code, refused.out) == (2, "")
    assert "supports the formats text and json" in refused.err


CALLER = """\
name: {name}
steps:
  - name: a
    run:
      - {{action: workflow, playbook: {called}}}
      - {{action: workflow, playbook: "{{{{ 'un' ~ 'known' }}}}"}}
"""


def called_playbooks(noetl: Command, file: Path) -> list[str]:
    """Return how the page of a playbook names those that it calls, without the facts of their plans."""
    page = noetl("plan", str(file), "-f", "html", stdin=CALLER.format(name="x", called="second")).out
    lines = re.findall(
        r"^(<details><summary>|<p>)<bdi>(.*?)</bdi>: (.*?)(?:</summary>|</p>)", page, re.MULTILINE
    )
    assert page.count("</svg>") == 1 + sum(tag != "<p>" for tag, _, _ in lines)
    identifiers = re.findall(r' id="([^"]*)"', page)
    assert len(set(identifiers)) == len(identifiers)
    return [f"{name}: {words}" for _, name, words in lines]


def test_a_page_shows_the_playbooks_that_are_called(noetl: Command, tmp_path: Path) -> None:
    first = tmp_path / "first.yaml"
    first.write_text(CALLER.format(name="first", called="second"))
    assert called_playbooks(noetl, first) == [
        f"second: it is not in {tmp_path}; a service takes it from its registry"
    ]
    (tmp_path / "second.yaml").write_text(CALLER.format(name="second", called="first"))
    assert called_playbooks(noetl, first) == ["second: 1 step", "first: 1 step"]
    (tmp_path / "second.yaml").write_text("name: second\nsteps: []\n")
    assert called_playbooks(noetl, first) == [f"second: {tmp_path / 'second.yaml'} does not compile"]
    (tmp_path / "second.yaml").unlink()
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(CALLER.format(name="second", called="first"))
    assert called_playbooks(noetl, first) == [f"second: 2 files in {tmp_path} have this name"]
    assert called_playbooks(noetl, Path("-")) == ["second: standard input has no folder in which to find it"]


def test_a_page_shows_a_bounded_number_of_called_playbooks(noetl: Command, tmp_path: Path) -> None:
    for number in range(MAX_CALLED_PLANS + 5):
        text = CALLER.format(name=f"p{number}", called=f"p{number + 1}")
        (tmp_path / f"p{number}.yaml").write_text(text)
    assert len(called_playbooks(noetl, tmp_path / "p0.yaml")) == MAX_CALLED_PLANS


def test_the_name_of_a_called_playbook_cannot_be_markup(noetl: Command, tmp_path: Path) -> None:
    first = tmp_path / "first.yaml"
    first.write_text(CALLER.format(name="first", called='"<script>alert(1)</script>"'))
    page = noetl("plan", str(first), "-f", "html").out
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


TRIGGERS = """\
name: report
triggers:
  - name: nightly
    type: schedule
    cron: "30 2 * * *"
    timezone: Europe/Berlin
    jitter: 90s
    start: "2040-01-01"
  - {name: poll, type: schedule, every: 2h, end: "2040-03-25T02:00:00Z"}
steps: [{name: load, run: [{action: log, message: loaded}]}]
"""


def test_the_next_firings_of_triggers_are_listed(noetl: Command) -> None:
    outcome = noetl("plan", "-", "--triggers", "-n", "2", "--from", "2040-03-25", stdin=TRIGGERS)
    assert outcome.exit_code == 0
    assert outcome.out == (
        "nightly: 30 2 * * * in Europe/Berlin, delayed by up to 90s\n"
        "  local time                     UTC\n"
        "  Sun 2040-03-25 03:00:00+02:00  2040-03-25T01:00:00Z  "
        "there is no 02:30: the offset changes from +01:00 to +02:00\n"
        "  Mon 2040-03-26 02:30:00+02:00  2040-03-26T00:30:00Z\n"
        "\n"
        "poll: every 2h\n"
        "  local time                     UTC\n"
        "  Sun 2040-03-25 00:00:00+00:00  2040-03-25T00:00:00Z\n"
    )
    outcome = noetl("plan", "-", "--triggers", "--from", "2040-03-26", stdin=TRIGGERS)
    assert outcome.out.count("+02:00") == 10
    assert outcome.out.endswith("\npoll: every 2h\n  no more firings\n")


def test_firings_are_listed_from_now_as_json(noetl: Command) -> None:
    nightly, poll = noetl("plan", "-", "--triggers", "-f", "json", "-n", "1", stdin=TRIGGERS).json
    assert (nightly["trigger"], nightly["type"], len(nightly["firings"])) == ("nightly", "schedule", 1)
    assert set(nightly["firings"][0]) == {"scheduled_at", "local", "note"}
    assert datetime.fromisoformat(poll["firings"][0]["scheduled_at"]) > datetime.now(UTC)
    assert noetl("plan", "fork.yaml", "--triggers", "-f", "json").json == []
    assert noetl("plan", "fork.yaml", "--triggers").out == "the playbook has no triggers\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-n", "3"), "-n and --from choose firings: add --triggers"),
        (("--from", "2040-01-01"), "-n and --from choose firings: add --triggers"),
        (("--triggers", "-f", "svg"), "--triggers supports the formats text and json, not svg"),
        (("--triggers", "--from", "soon"), "--from is `soon`; it must be a time such as 2026-01-31T09:00Z,"),
        (("--triggers", "--from", "9999-12-31"), "--from is `9999-12-31`; it must be a time such as"),
    ],
)
def test_options_of_firings_that_do_not_fit_are_refused(
    noetl: Command, arguments: tuple[str, ...], message: str
) -> None:
    outcome = noetl("plan", "fork.yaml", *arguments)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"noetl: {message}")


def test_triggers_that_do_not_fire_at_times_are_listed_without_any(noetl: Command) -> None:
    text = (
        "name: play\ntriggers:\n"
        "- {name: hook, type: webhook, path: shop/paid, auth: {scheme: api_key}}\n"
        "- {name: after, type: run, playbook: load}\n"
        "- {name: arrived, type: folder, folder: in}\n"
        "steps: [{name: a, run: [{action: log, message: ok}]}]\n"
    )
    assert noetl("plan", "-", "--triggers", stdin=text).out.split("\n\n") == [
        "hook: POST /hooks/TENANT/shop/paid, api_key",
        "after: after runs of load: succeeded",
        "arrived: files * of folder in\n",
    ]
    listed = noetl("plan", "-", "--triggers", "-f", "json", stdin=text).json
    assert [(entry["type"], entry["firings"]) for entry in listed] == [
        ("webhook", []),
        ("run", []),
        ("folder", []),
    ]
