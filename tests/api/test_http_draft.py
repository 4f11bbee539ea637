"""The routes of an editor: drafts, the words of the language, and what codes mean."""

from __future__ import annotations

import json

import httpx
import pytest

from noetl.api import graphviz, pictures
from noetl.api.compute import jobs
from noetl.api.compute.draft_job import TOO_SLOW, DraftJob
from noetl.api.service.compiler import PlaybookCompiler
from noetl.api.service.draft_views import CodeExplanation, LanguageWords, PlaybookDraft
from noetl.api.service.errors import WorkLimitError
from noetl.executor.actions import catalogue
from noetl.planner.continuation.verdict import TITLES
from noetl.planner.diagnostics.codes import CODES
from noetl.planner.weighted_cache import WeightedCache
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

YAML = {"Content-Type": "application/yaml"}
PLAYBOOK = """\
name: two
input: {start: integer}
steps:
  - name: a
    run:
      - {action: set, set: {total: "{{ input.start }}"}}
    rule:
      - {case: "{{ total > 1 }}", run: [b]}
  - name: b
    run:
      - {action: log, message: "{{ total }}"}
"""


async def check(http: httpx.AsyncClient, text: str, line: int | None = None) -> PlaybookDraft:
    body = {"text": text} if line is None else {"text": text, "line": line}
    response = await http.post("/plan/draft", json=body)
    assert response.status_code == 200, response.text
    return read_view(PlaybookDraft, response.json())


async def test_a_draft_has_its_drawing_and_the_names_at_a_line(http: httpx.AsyncClient) -> None:
    draft = await check(http, PLAYBOOK, 11)
    assert (draft.name, draft.version, draft.is_parsed) == ("two", None, True)
    assert [(step.name, step.line) for step in draft.steps] == [("a", 4), ("b", 9)]
    assert draft.scope is not None and draft.drawing is not None
    assert [(name.name, name.step, name.line, name.may_lack) for name in draft.scope.names] == [
        ("total", "a", 6, False),
        ("start", None, 2, False),
    ]
    steps = {name for node in draft.drawing.nodes for name in node.steps}
    assert steps == {"a", "b"}
    assert {(node.state, node.words) for node in draft.drawing.nodes} == {(None, None)}
    assert {edge.mark for edge in draft.drawing.edges} == {"may"}
    assert draft.hash == (await http.post("/plan", content=PLAYBOOK, headers=YAML)).json()["hash"]
    assert (await http.get("/playbooks")).json()["items"] == []


async def test_a_line_is_a_number_without_a_fraction(http: httpx.AsyncClient) -> None:
    """JSON and its schema have one kind of number: 1.0 is an integer."""
    for number, status in ((1, 200), (1.0, 200), (1.5, 422), (0.0, 422), (True, 422)):
        response = await http.post("/plan/draft", json={"text": "name: a", "line": number})
        assert response.status_code == status, response.json()


async def test_a_draft_has_its_tasks(http: httpx.AsyncClient) -> None:
    for tasks in ("tasks: [{name: t, run: [{action: wait, seconds: 1}]}]", "tasks: {t: [u]}"):
        draft = await check(http, PLAYBOOK + tasks)
        assert [(task.name, task.line) for task in draft.tasks] == [("t", 12)]


async def test_errors_of_a_draft_are_its_answer_with_their_fixes(http: httpx.AsyncClient) -> None:
    draft = await check(http, PLAYBOOK.replace("action: log", "action: logg"), 11)
    assert (draft.hash, draft.drawing, draft.drawing_problem) == (None, None, None)
    [finding] = [finding for finding in draft.diagnostics if finding.code == "NP501"]
    assert finding.fix is not None
    assert (finding.fix.line, finding.fix.column, finding.fix.end_column) == (11, 18, 22)
    assert finding.fix.text == "log"
    assert draft.scope is not None and draft.scope.step == "b"


async def test_a_draft_that_the_last_checks_refuse_has_no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    renderings = []

    class RecordedRendering(graphviz.Rendering):
        def __init__(self, dot: str, format: str, seconds: float) -> None:
            super().__init__(dot, format, seconds)
            renderings.append(self)

    monkeypatch.setattr(graphviz, "Rendering", RecordedRendering)
    text = PLAYBOOK.replace("input.start", "total")
    body = json.loads(DraftJob(text).perform(PlaybookCompiler(catalogue())))
    assert [finding["code"] for finding in body["diagnostics"]] == ["NP301"]
    assert (body["hash"], body["drawing"], body["drawing_problem"]) == (None, None, None)
    [rendering] = renderings
    assert rendering._process.returncode is not None


async def test_a_draft_without_its_drawing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise graphviz.GraphvizError("the program is missing")

    # Answers of dot to other tests are kept.
    monkeypatch.setattr(pictures, "_answers", WeightedCache(pictures.KEPT_ANSWERS_BYTES))
    monkeypatch.setattr(graphviz, "Rendering", fail)
    body = json.loads(DraftJob(PLAYBOOK).perform(PlaybookCompiler(catalogue())))
    assert (body["drawing"], body["drawing_problem"]) == (None, "The program is missing.")
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "_answers", WeightedCache(pictures.KEPT_ANSWERS_BYTES))
    monkeypatch.setattr(jobs, "LAYOUT_SECONDS", 0.0)
    monkeypatch.setattr(pictures, "UNFOLDED_SECONDS", -1.0)
    body = json.loads(DraftJob(PLAYBOOK).perform(PlaybookCompiler(catalogue())))
    assert body["drawing_problem"] == "Graphviz takes more than 0 s to draw the plan."


async def test_a_text_that_cannot_be_parsed_has_findings(http: httpx.AsyncClient) -> None:
    for text in ("", "name: [", "a" * 200, "- \x1b[31m", "[" * 10_000, "name: \ufffe"):
        draft = await check(http, text, 1)
        assert (draft.is_parsed, draft.scope, draft.steps) == (False, None, []), text[:9]
        assert draft.diagnostics[0].severity == "error", text[:9]


@pytest.mark.parametrize(
    "body", [{"text": 5}, {}, {"text": "", "line": 0}, {"text": "", "line": "1"}, [], {"txt": ""}]
)
async def test_a_wrong_body_is_refused(http: httpx.AsyncClient, body: object) -> None:
    assert_problem(await http.post("/plan/draft", json=body), 422, "invalid-body")


async def test_a_line_behind_the_text_is_its_end(http: httpx.AsyncClient) -> None:
    assert (await check(http, PLAYBOOK, 10**30)).scope == (await check(http, PLAYBOOK, 11)).scope


async def test_findings_are_answered_if_the_drawing_takes_too_long(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = DraftJob.perform

    def perform_slowly(job: DraftJob, compiler: PlaybookCompiler) -> bytes:
        if job.draws:
            raise WorkLimitError(job.subject, "takes too long")
        return perform(job, compiler)

    monkeypatch.setattr(DraftJob, "perform", perform_slowly)
    monkeypatch.setattr(DraftJob, "is_light", True)
    draft = await check(http, PLAYBOOK, 11)
    assert (draft.drawing, draft.drawing_problem) == (None, TOO_SLOW)
    assert draft.scope is not None


async def test_the_words_of_the_language_are_those_of_the_checks(http: httpx.AsyncClient) -> None:
    response = await http.get("/language")
    words = read_view(LanguageWords, response.json())
    actions = words.playbook_schema["$defs"]["ActionEntry"]["properties"]["action"]["enum"]
    assert {"http", "log", "set"} <= set(actions)
    [http_action] = [
        condition["then"]
        for condition in words.playbook_schema["$defs"]["ActionEntry"]["allOf"]
        if condition["if"]["properties"]["action"]["const"] == "http"
    ]
    auth = http_action["properties"]["auth"]["anyOf"][0]
    assert auth["properties"].keys() == {"bearer", "basic"}
    assert auth["properties"]["basic"]["properties"].keys() == {"username", "password"}
    assert {"status", "result"} <= set(words.attributes["steps"])
    assert {"length"} <= set(words.filters) and {"now"} <= set(words.functions)
    again = await http.get("/language", headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304


async def test_each_code_is_explained(http: httpx.AsyncClient) -> None:
    for code in CODES:
        entry = read_view(CodeExplanation, (await http.get(f"/language/codes/{code}")).json())
        assert (entry.code, entry.title, entry.severity) == (code, CODES[code].title, CODES[code].severity)
        assert entry.text.startswith(f"# {code}: ")


@pytest.mark.parametrize(("code", "severity"), [("NC105", "error"), ("NC151", "note")])
async def test_each_code_of_a_verdict_is_explained(http: httpx.AsyncClient, code: str, severity: str) -> None:
    entry = read_view(CodeExplanation, (await http.get(f"/language/codes/{code}")).json())
    assert (entry.title, entry.severity) == (TITLES[code], severity)


@pytest.mark.parametrize("code", ["NP999", "np101", "..%2F__init__", "%1b%5B31m", "x" * 300])
async def test_an_unknown_code_is_a_problem(http: httpx.AsyncClient, code: str) -> None:
    assert (await http.get(f"/language/codes/{code}")).status_code in (404, 414)


CALLED = "name: called\ninput: {day: string}\nsteps: [{name: a, run: [{action: set, set: {rows: 1}}]}]\n"
CALLER = """\
name: caller
steps:
  - name: a
    run:
      - {action: workflow, playbook: called, input: {}, as: made}
      - {action: workflow, playbook: called, version: "2", input: {day: x}}
      - {action: workflow, playbook: calld}
      - {action: log, message: "{{ made.rosw }}"}
"""


async def test_a_draft_and_a_plan_are_compared_with_the_registered_playbooks(http: httpx.AsyncClient) -> None:
    text = f"{CALLER}triggers: [{{name: t, type: folder, folder: in}}]\n"
    for is_known in (False, True):
        if is_known:
            made = await http.post("/playbooks", content=CALLED, headers=YAML)
            assert made.status_code == 201, made.text
        plan = await http.post("/plan", content=text, headers=YAML)
        assert plan.status_code == 200
        draft = await check(http, text)
        found = [(finding.code, finding.line, finding.hint) for finding in draft.diagnostics]
        assert found == [
            (entry["code"], entry["line"], entry["hint"]) for entry in plan.json()["diagnostics"]
        ]
        assert [(code, line) for code, line, _ in found] == (
            [("NP818", 5), ("NP817", 6), ("NP817", 7), ("NP818", 8), ("NP820", 9)]
            if is_known
            else [("NP817", 5), ("NP817", 6), ("NP817", 7), ("NP820", 9)]
        )
        if is_known:
            assert [hint for _, _, hint in found[1:4]] == [
                "versions: `1`",
                "did you mean `called`?",
                "did you mean `rows`?",
            ]


async def find_lines(http: httpx.AsyncClient, text: str) -> list[tuple[str, int]]:
    """Return codes and lines of the findings about a draft."""
    return [(finding.code, finding.line) for finding in (await check(http, text)).diagnostics]


async def test_a_draft_that_calls_itself_is_compared_with_itself(http: httpx.AsyncClient) -> None:
    call = "{action: workflow, playbook: two, input: {strat: 1}, if: '{{ input.start > 1 }}'}"
    text = PLAYBOOK.replace(
        "      - {action: log, message", f"      - {call}\n      - {{action: log, message"
    )
    assert await find_lines(http, text) == [("NP818", 11), ("NP818", 11)]
    renamed = text.replace("start", "strat")
    assert await find_lines(http, renamed) == []
    assert (await http.post("/playbooks", content=PLAYBOOK, headers=YAML)).status_code == 201
    promoted = await http.put("/playbooks/two/aliases/live", json={"version": "1"})
    assert promoted.is_success, promoted.text
    # A version that was promoted stays the live one after the registration of another.
    assert await find_lines(http, renamed) == [("NP818", 11), ("NP818", 11)]


async def test_a_draft_that_calls_itself_on_every_path_has_no_end(http: httpx.AsyncClient) -> None:
    text = "name: two\nsteps:\n  - name: a\n    run: [{action: workflow, playbook: two}]\n"
    assert await find_lines(http, text) == [("NP819", 4)]
    assert await find_lines(http, text.replace("two}", "two, if: '{{ run.id }}'}")) == []


async def test_a_draft_names_channels_that_exist(http: httpx.AsyncClient) -> None:
    text = PLAYBOOK + "notify: {failed: opps}\n"
    assert await find_lines(http, text) == [("NP851", text.count("\n"))]
    made = await http.put("/channels/ops", json={"url": "https://hooks.test/T/secret"})
    assert made.status_code == 201, made.text
    (finding,) = (await check(http, text)).diagnostics
    assert (finding.code, finding.hint) == ("NP851", "did you mean `ops`?")
    assert await find_lines(http, text.replace("opps", "ops")) == []


async def test_a_draft_is_compared_with_the_rules_of_the_operator(http: httpx.AsyncClient) -> None:
    made = await http.put("/limits/crm", json={"units": 1, "kind": "steps"})
    assert made.status_code == 201, made.text
    text = PLAYBOOK + "triggers: [{name: t, type: folder, folder: in, input: {start: 1}}]\n"
    for limit, codes in (("crm", ["NP820"]), ("cmr", ["NP834", "NP820"])):
        limited = text.replace("  - name: b\n", f"  - name: b\n    concurrency: {{use: {limit}}}\n")
        draft = await check(http, limited)
        assert [(finding.code, finding.line) for finding in draft.diagnostics] == [
            (code, {"NP834": 10, "NP820": 13}[code]) for code in codes
        ]
        assert draft.drawing is not None
