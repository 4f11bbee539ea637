"""The playbooks of the pages `docs/how-to/from-*.md` run, and do what the text next to them says.

Functions of AWS Lambda and queues are replaced by functions of the test. Workflows of other tools are read:
their form must be right, and what they refer to must exist.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from botocore.response import StreamingBody

from noetl.executor.clients import aws
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.model.ids import hash_secret
from noetl.executor.stores.interface import Store
from noetl.infra.reference import ROOT
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.syntax.reader import read_document
from noetl.testing.run_harness import RunHarness

PAGES = sorted((ROOT / "docs" / "how-to").glob("from-*.md"))
BLOCK = re.compile(r"^```(\w+)(?: title=[^\n]+)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str, page: str) -> list[str]:
    """Return the blocks of a language on a page."""
    (path,) = [path for path in PAGES if path.stem == page]
    return [text for name, text in BLOCK.findall(path.read_text("utf-8")) if name == language]


PLAYBOOKS = {
    f"{page.stem.removeprefix('from-')}: {text.split()[1]}": text
    for page in PAGES
    for text in blocks("yaml", page.stem)
    if text.startswith("name: ")
}
"""The playbooks by page and name, as in `airflow: check_order`."""

STATE_MACHINES = [json.loads(text) for text in blocks("json", "from-step-functions")]


class MigrationRun(RunHarness):
    """A run of a playbook of these pages, with URLs for callbacks."""

    def __init__(self, store: Store, name: str, /, *, folder: Path | None = None, **input: Any) -> None:
        super().__init__(store, PLAYBOOKS[name], input, folder=folder)
        self.began_at = self.clock()

    def executor(self, name: str = "one") -> VisitExecutor:
        return replace(super().executor(name), public_url="https://noetl.test")

    def finish(self) -> MigrationRun:
        super().finish()
        return self

    @property
    def seconds(self) -> float:
        return self.clock() - self.began_at


@dataclass
class FakeAws:
    """Clients of AWS: `functions` are those of Lambda by name, `messages` what was sent to queues."""

    functions: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)

    def client(self, service: str, region: str | None = None, **options: Any) -> FakeAws:
        return self

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:
        self.calls.append(FunctionName)
        try:
            answer, error = self.functions[FunctionName](json.loads(Payload)), None
        except ValueError as raised:
            answer, error = {"errorType": raised.args[0], "errorMessage": "it failed"}, "Unhandled"
        failure = {} if error is None else {"FunctionError": error}
        body = json.dumps(answer).encode()
        return {"Payload": StreamingBody(BytesIO(body), len(body)), **failure}

    def send_message(self, QueueUrl: str, MessageBody: str, **options: Any) -> dict[str, str]:
        self.messages.append(json.loads(MessageBody))
        return {"MessageId": "1"}


@pytest.fixture
def fake_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    fake = FakeAws()
    monkeypatch.setattr(aws, "client", fake.client)
    yield fake


class TestAirflow:
    def test_dags_are_python(self) -> None:
        dags = [text for text in blocks("python", "from-airflow") if "@dag" in text]
        assert len(dags) == 4
        for text in dags:
            ast.parse(text)

    @pytest.mark.parametrize(
        ("amount", "visits", "answer"),
        [
            (10, {"decide": 1, "approve": 1, "report": 1}, "approved"),
            (2000, {"decide": 1, "ask": 1, "report": 1}, "asked"),
        ],
    )
    def test_one_path_is_taken(self, store: Store, amount: int, visits: dict[str, int], answer: str) -> None:
        play = MigrationRun(store, "airflow: check_order", amount=amount).finish()
        assert (play.visit_counts, play.result["reported"]) == (visits, answer)

    def test_items_are_added_up(self, store: Store) -> None:
        assert MigrationRun(store, "airflow: price_lines").finish().result["sum"] == 11

    def test_a_file_is_loaded_and_the_folder_removed(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "orders.csv").write_text("a\nb\nc\n")
        play = MigrationRun(store, "airflow: load_file", folder=tmp_path).finish()
        assert (play.result, play.seconds) == ({"lines": 3}, 0)
        assert not (tmp_path / "scratch").exists()

    def test_a_missing_file_fails_the_run_after_an_hour(self, store: Store, tmp_path: Path) -> None:
        play = MigrationRun(store, "airflow: load_file", folder=tmp_path).finish()
        assert (play.status, play.error_types, play.seconds) == ("failed", ["RepeatExhausted"], 119 * 30)
        assert not (tmp_path / "scratch").exists()


class TestArgo:
    def test_workflows_refer_to_their_own_templates(self) -> None:
        texts = [text for text in blocks("yaml", "from-argo") if text.startswith("apiVersion: ")]
        assert len(texts) == 4
        for text in texts:
            document = read_document(text, Diagnostics())
            assert document is not None
            spec = document.data["spec"]
            named = {spec["entrypoint"], spec.get("onExit")} - {None}
            for template in spec["templates"]:
                groups = [template.get("dag", {}).get("tasks", []), *template.get("steps", [])]
                named |= {task["template"] for group in groups for task in group}
            assert named == {template["name"] for template in spec["templates"]}

    @pytest.mark.parametrize(
        ("full", "visits"),
        [
            (False, {"build": 1, "unit": 1, "publish": 1}),
            (True, {"build": 1, "unit": 1, "integration": 1, "publish": 1}),
        ],
    )
    def test_publish_waits_for_what_was_started(
        self, store: Store, full: bool, visits: dict[str, int]
    ) -> None:
        play = MigrationRun(store, "argo: release", full=full).finish()
        assert (play.status, play.visit_counts, play.seconds) == ("succeeded", visits, 3)

    def test_items_are_added_up(self, store: Store) -> None:
        assert MigrationRun(store, "argo: price_lines").finish().result == {"sum": 11}

    def test_a_report_follows_the_last_attempt(self, store: Store, tmp_path: Path) -> None:
        play = MigrationRun(store, "argo: load", folder=tmp_path).finish()
        assert (play.status, play.seconds) == ("failed", 10 + 20 + 40)
        assert play.event_types("load").count("step.started") == 4
        assert play.visit("report").status == "succeeded"

    def test_a_report_follows_success(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "orders.csv").touch()
        play = MigrationRun(store, "argo: load", folder=tmp_path).finish()
        assert (play.status, play.seconds) == ("succeeded", 0)
        assert play.visit("report").status == "succeeded"


class TestStepFunctions:
    def test_state_machines_refer_to_their_own_states(self) -> None:
        assert len(STATE_MACHINES) == 4
        for machine in STATE_MACHINES:
            check_states(machine)

    @pytest.mark.parametrize("id", [7, 8])
    def test_a_paid_order_is_accepted(self, store: Store, fake_aws: FakeAws, id: int) -> None:
        fake_aws.functions["charge"] = lambda payload: {"id": payload["amount"] + id}
        play = MigrationRun(store, "step-functions: charge_order", order="a1", amount=10).finish()
        assert play.result == {"answer": {"state": "paid", "payment": 10 + id}}

    def test_a_declined_card_is_not_retried(self, store: Store, fake_aws: FakeAws) -> None:
        fake_aws.functions["charge"] = raiser(ValueError("CardDeclined"))
        play = MigrationRun(store, "step-functions: charge_order", order="a1", amount=10).finish()
        assert (play.status, play.result) == ("succeeded", {"answer": {"state": "refused"}})
        assert fake_aws.calls == ["charge"]

    def test_a_fault_of_aws_is_retried_three_times(
        self, store: Store, fake_aws: FakeAws, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Short delays of an action are slept in the worker.
        faster = PLAYBOOKS["step-functions: charge_order"].replace("delay: 1s", "delay: 1ms")
        monkeypatch.setitem(PLAYBOOKS, "step-functions: charge_order", faster)
        fake_aws.functions["charge"] = raiser(ConnectionError())
        play = MigrationRun(store, "step-functions: charge_order", order="a1", amount=10).finish()
        assert play.status == "failed"
        assert len(fake_aws.calls) == 4

    @pytest.mark.parametrize(("state", "status"), [("SUCCEEDED", "succeeded"), ("FAILED", "failed")])
    def test_a_job_is_polled(self, store: Store, fake_aws: FakeAws, state: str, status: str) -> None:
        answers = iter(["RUNNING", "RUNNING", state])
        fake_aws.functions["job-status"] = lambda _: {"state": next(answers)}
        play = MigrationRun(store, "step-functions: wait_for_job", job="j1").finish()
        assert (play.status, play.seconds) == (status, 60)
        assert play.error_types == (["JobFailed"] if status == "failed" else [])

    def test_the_offer_waits_for_both_branches(self, store: Store, fake_aws: FakeAws) -> None:
        fake_aws.functions["price"] = lambda line: {"total": line["price"] * line["count"]}
        fake_aws.functions["stock"] = lambda payload: {"available": len(payload["lines"]) < 3}
        lines = [{"price": 3, "count": 2}, {"price": 5, "count": 1}]
        play = MigrationRun(store, "step-functions: make_offer", lines=lines).finish()
        assert play.result == {"total": 11, "available": True}
        assert play.visit_counts == {"begin": 1, "price": 1, "stock": 1, "offer": 1}

    @pytest.mark.parametrize("approved", [True, False])
    def test_a_person_decides(self, store: Store, fake_aws: FakeAws, approved: bool) -> None:
        play = MigrationRun(store, "step-functions: approve_order", order="a1")
        while play.execute_next():
            pass
        (message,) = fake_aws.messages
        token = message["answer_to"].rpartition("/")[2]
        store.waits.answer(hash_secret(token), {"approved": approved}, play.clock())
        assert play.finish().result == {"accepted": approved}
        assert message["order"] == "a1"

    def test_no_answer_is_a_refusal(self, store: Store, fake_aws: FakeAws) -> None:
        play = MigrationRun(store, "step-functions: approve_order", order="a1").finish()
        assert (play.result, play.seconds) == ({"accepted": False}, 2 * 86_400)


def raiser(error: Exception) -> Callable[[Any], Any]:
    def fail(payload: Any) -> Any:
        raise error

    return fail


def check_states(machine: dict[str, Any]) -> None:
    """Assert that every state that is named exists, and that every state can be reached."""
    states = machine["States"]
    named = {machine["StartAt"]}
    for state in states.values():
        cases = [*state.get("Choices", []), *state.get("Catch", [])]
        named |= {state.get("Next"), state.get("Default"), *(case["Next"] for case in cases)} - {None}
        ends = state["Type"] in ("Choice", "Succeed", "Fail")
        assert ends != (("Next" in state) or state.get("End", False))
        for block in [*state.get("Branches", []), *filter(None, [state.get("ItemProcessor")])]:
            check_states(block)
    assert named == set(states)
