"""The playbooks of `docs/how-to/patterns.md` run as the page says: visited steps, their order, and results.

Playbooks are found by their headings. The first playbook below a heading is the pattern, unless a test names
another one. Runs find the others in the registry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.external import MAX_RUN_DEPTH
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import RejectedError
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.interface import Store
from noetl.infra.reference import ROOT
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import current_run
from tests.http_server import StubServer, serve

TEXT = (ROOT / "docs" / "how-to" / "patterns.md").read_text("utf-8")
CONTROL_FLOW, _, FURTHER = TEXT.partition("\n## Beyond control flow\n")
MINUTE, HOUR, DAY = 60, 3600, 86400
SYSTEMS = ("NoETL", "Step Functions", "Conductor", "Argo", "Airflow")
WORDS = {"●": "yes", "◐": "partly", "○": "no"}


class WorkflowPattern(NamedTuple):
    """A section of the page: its playbooks by name, and the support of each system."""

    playbooks: dict[str, str]
    support: dict[str, str]


def patterns() -> dict[str, WorkflowPattern]:
    found = {}
    for section in re.split(r"^### ", CONTROL_FLOW, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        blocks = re.findall(r"^```yaml\n(name: (\w+)\n.*?)^```$", text, re.DOTALL | re.MULTILINE)
        support = dict(re.findall(r"^- ([A-Z][\w ]+): (\w+)", text, re.MULTILINE))
        found[heading] = WorkflowPattern({name: block for block, name in blocks}, support)
        if re.search(r"^Partly: ", text, re.MULTILINE):
            support["NoETL"] = "partly"
    return found


PATTERNS = patterns()
PLAYBOOKS = {name: text for pattern in PATTERNS.values() for name, text in pattern.playbooks.items()}
ROWS = re.findall(r"^\| \[[^\]]+\]\(#([\w-]+)\) \| (.*) \|$", TEXT, re.MULTILINE)


class PatternRun(RunHarness):
    """A run of a playbook of the page, with URLs for callbacks. `replace_text` is an old and a new text."""

    def __init__(
        self,
        store: Store,
        heading: str,
        name: str | None = None,
        /,
        *,
        replace_text: tuple[str, str] = ("", ""),
        **input: Any,
    ) -> None:
        playbooks = PATTERNS[heading].playbooks
        assert replace_text[0] in "".join(playbooks.values())
        plans = {
            other: compile_text(text.replace(*replace_text) if replace_text[0] else text)
            for other, text in playbooks.items()
        }
        for other, plan in plans.items():
            store.plans.save(plan)
            store.registry.register(RegisteredPlaybook("default", other, None, plan.hash, 0.0))
        super().__init__(store, plans[name or next(iter(plans))], input)
        self.began_at = self.clock()

    def executor(self, name: str = "one") -> VisitExecutor:
        return replace(super().executor(name), public_url="https://noetl.test")

    def execute_due(self) -> PatternRun:
        """Execute visits until none is due at this time."""
        while self.execute_next(chained=True):
            pass
        return self

    def advance_clock(self, seconds: float) -> PatternRun:
        """Advance the clock, and execute the visits that become due."""
        end = self.clock() + seconds
        while (due := self.store.queue.next_due(self.queue)) is not None and due <= end:
            self.clock.now = max(self.clock(), due)
            self.execute_due()
        self.clock.now = end
        return self

    def finish(self) -> PatternRun:
        super().finish()
        return self

    @property
    def seconds(self) -> float:
        return self.clock() - self.began_at

    @property
    def course(self) -> list[str]:
        """Starts and ends of steps, in their order."""
        entries: dict[str, None] = {}
        for event in self.events:
            if event.type in ("step.started", "step.completed", "step.failed") and not str(
                event.step
            ).startswith("@"):
                word = "began" if event.type == "step.started" else "ended"
                visit = f" ({event.visit})" if event.visit != 1 else ""
                entries.setdefault(f"{event.step} {word}{visit}")
        return list(entries)

    @property
    def child_runs(self) -> list[Run]:
        """All child runs, directly and indirectly, the oldest first."""
        return sorted(
            (
                current_run(self.store, run)
                for run in self.store.runs.find(RunFilter(self.tenant))[0]
                if run.id != self.id
            ),
            key=lambda run: run.depth,
        )


class CallbackDesk:
    """A receiver of callback URLs, which a test answers."""

    def __init__(self, server: StubServer) -> None:
        self.server = server
        self.url = server.url()

    @property
    def received_tokens(self) -> list[str]:
        """Tokens of the received URLs, in their order."""
        bodies = [json.loads(request.body) for request in self.server.requests]
        return [address.rpartition("/")[2] for body in bodies for address in body.values()]

    def answer(self, play: PatternRun, body: Any, which: int = -1) -> None:
        play.store.waits.answer(hash_secret(self.received_tokens[which]), body, play.clock())

    def refusal_reason(self, play: PatternRun, body: Any, which: int = -1) -> str:
        with pytest.raises(RejectedError) as found:
            self.answer(play, body, which)
        return found.value.reason


@pytest.fixture
def desk() -> Iterator[CallbackDesk]:
    with serve(lambda exchange: exchange.reply()) as server:
        yield CallbackDesk(server)


class TestPatternPage:
    def test_the_page_has_twenty_patterns(self) -> None:
        anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in PATTERNS]
        assert [anchor for anchor, _ in ROWS] == anchors
        assert len(anchors) == 20

    @pytest.mark.parametrize(("heading", "row"), list(zip(PATTERNS, ROWS, strict=False)))
    def test_the_table_agrees_with_the_sections(self, heading: str, row: tuple[str, str]) -> None:
        support = {"NoETL": "yes"} | PATTERNS[heading].support
        assert {system: support.get(system) for system in SYSTEMS} == dict(
            zip(SYSTEMS, (WORDS[mark] for mark in row[1].split(" | ")), strict=True)
        )

    @pytest.mark.parametrize("name", PLAYBOOKS)
    def test_a_playbook_compiles_without_a_warning(self, name: str) -> None:
        found = compile_playbook(PLAYBOOKS[name], catalogue())
        assert found.plan is not None
        assert [d for d in found.diagnostics if d.severity is not Severity.NOTE] == []

    @pytest.mark.parametrize("heading", PATTERNS)
    def test_a_pattern_is_short(self, heading: str) -> None:
        playbooks = PATTERNS[heading].playbooks
        assert playbooks
        assert all(text.count("\n") <= 26 for text in playbooks.values())


def test_sequence_runs_steps_in_order(store: Store) -> None:
    play = PatternRun(store, "Sequence").finish()
    assert play.course == ["pack began", "pack ended", "ship began", "ship ended", "bill began", "bill ended"]
    assert play.result == {"log": ["packed", "shipped", "billed"]}


def test_parallel_split_starts_both_branches(store: Store) -> None:
    play = PatternRun(store, "Parallel split").execute_due()
    assert play.course == ["order began", "order ended", "reserve began", "charge began"]
    play.finish()
    assert play.visit_counts == {"order": 1, "reserve": 1, "charge": 1}
    assert (play.result, play.seconds) == ({"reserved": True, "charged": True}, MINUTE)


def test_synchronization_waits_for_both_branches(store: Store) -> None:
    play = PatternRun(store, "Synchronization").execute_due()
    assert "charge ended" in play.course
    assert "ship began" not in play.course
    play.finish()
    assert play.visit_counts == {"order": 1, "reserve": 1, "charge": 1, "ship": 1}
    assert play.course[-3:] == ["reserve ended", "ship began", "ship ended"]
    assert play.result["shipped"] == "from shelf 7, 40 paid"


@pytest.mark.parametrize(
    ("amount", "step", "answer"),
    [(5000, "ask_a_person", "later"), (1000, "approve", "yes"), (0.5, "approve", "yes"), (0, "refuse", "no")],
)
def test_exclusive_choice_takes_one_case(store: Store, amount: float, step: str, answer: str) -> None:
    play = PatternRun(store, "Exclusive choice", amount=amount).finish()
    assert (play.visit_counts, play.result) == ({"check": 1, step: 1}, {"answer": answer})


@pytest.mark.parametrize(
    ("known", "step", "result"), [(True, "update", "updated"), (False, "create", "created")]
)
def test_simple_merge_continues_from_either_branch(store: Store, known: bool, step: str, result: str) -> None:
    play = PatternRun(store, "Simple merge", known=known).finish()
    assert play.visit_counts == {"look_up": 1, step: 1, "tell": 1}
    assert play.result["message"] == f"the customer was {result}"


def test_a_merge_is_a_join_only_if_both_branches_can_arrive() -> None:
    assert compile_text(PLAYBOOKS["simple_merge"]).steps["tell"].join is None
    assert compile_text(PLAYBOOKS["synchronization"]).steps["ship"].join is not None


@pytest.mark.parametrize(("fire", "injured", "crime"), list(product([False, True], repeat=3)))
def test_multi_choice_starts_a_branch_for_each_true_condition(
    store: Store, fire: bool, injured: bool, crime: bool
) -> None:
    play = PatternRun(store, "Multi-choice", fire=fire, injured=injured, crime=crime).finish()
    expected = {"fire_brigade": fire, "ambulance": injured, "police": crime}
    assert {step: play.visit_counts.get(step, 0) for step in expected} == expected
    assert play.status is RunStatus.SUCCEEDED


class TestSynchronizingMerge:
    @pytest.mark.parametrize(("flight", "hotel"), list(product([False, True], repeat=2)))
    def test_the_join_waits_for_the_started_branches(self, store: Store, flight: bool, hotel: bool) -> None:
        play = PatternRun(store, "Synchronizing merge", flight=flight, hotel=hotel).finish()
        assert play.status is RunStatus.SUCCEEDED
        assert play.visit_counts.get("itinerary", 0) == (flight or hotel)
        if flight or hotel:
            assert play.result["trip"] == ["NO 17" if flight else None, 12 if hotel else None]
        assert play.seconds == (MINUTE if flight else 0)

    @pytest.mark.parametrize(("flight", "visits"), [(True, 1), (False, 0)])
    def test_the_join_does_not_wait_for_a_failed_branch(
        self, store: Store, flight: bool, visits: int
    ) -> None:
        play = PatternRun(store, "Synchronizing merge", flight=flight, hotel=True, full=True).finish()
        assert (play.status, play.error_types) == ("completed_with_errors", ["Failed"])
        assert play.visit_counts.get("itinerary", 0) == visits
        assert play.result.get("trip") == (["NO 17", None] if flight else None)


def test_multi_merge_visits_a_step_for_each_branch(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "noetl.playbook")
    play = PatternRun(store, "Multi-merge").advance_clock(10)
    assert (play.visit_counts["audit"], play.visit_counts.get("close", 0)) == (1, 0)
    play.finish()
    assert play.visit_counts == {"order": 1, "charge": 1, "ship": 1, "audit": 2, "close": 1}
    assert caplog.messages == ["shipped", "charged"]
    assert play.course[-2:] == ["close began", "close ended"]


def test_multi_merges_may_follow_each_other(store: Store) -> None:
    close = "- name: close\n    run: [{action: set, set: {closed: true}}]"
    join_each = "- name: close\n    join: each\n    run: [{action: log, message: closed}]"
    play = PatternRun(store, "Multi-merge", replace_text=(close, join_each)).finish()
    assert (play.visit_counts["audit"], play.visit_counts["close"]) == (2, 2)


@pytest.mark.parametrize(("seconds", "published"), [(10, "Guten Tag"), (90, "Hallo")])
def test_discriminator_continues_with_the_first_branch(store: Store, seconds: int, published: str) -> None:
    play = PatternRun(
        store, "Discriminator", replace_text=("seconds: 10", f"seconds: {seconds}")
    ).advance_clock(min(seconds, MINUTE))
    assert play.course[-2:] == ["publish began", "publish ended"]
    assert play.status is RunStatus.WAITING
    play.finish()
    assert play.visit_counts == {"translate": 1, "one_service": 1, "another": 1, "publish": 1}
    assert play.result == {"one": "Hallo", "other": "Guten Tag", "published": published}
    assert play.seconds == max(seconds, MINUTE)


@pytest.mark.parametrize(
    ("draft", "faults", "visits", "end"),
    [
        (True, 0, {"review": 1}, "publish"),
        (True, 2, {"review": 3, "write": 2}, "publish"),
        (False, 2, {"review": 2, "write": 2}, "publish"),
        (False, 9, {"review": 5, "write": 6}, "give_up"),
    ],
)
def test_arbitrary_cycles_are_bounded(
    store: Store, draft: bool, faults: int, visits: dict[str, int], end: str
) -> None:
    play = PatternRun(store, "Arbitrary cycles", draft=draft, faults=faults).finish()
    assert play.visit_counts == {"begin": 1, **visits, end: 1}
    assert (play.status, play.result["published"]) == ("succeeded", end == "publish")


@pytest.mark.parametrize(("gift", "wrapped"), [(False, {}), (True, {"wrap": 1})])
def test_implicit_termination_ends_the_run_after_the_last_branch(
    store: Store, gift: bool, wrapped: dict[str, int]
) -> None:
    play = PatternRun(store, "Implicit termination", gift=gift).advance_clock(59)
    assert "thank ended" in play.course
    assert play.status is RunStatus.WAITING
    play.advance_clock(1)
    assert (play.status, play.seconds) == ("succeeded", MINUTE)
    assert play.visit_counts == {"order": 1, "ship": 1, "thank": 1, "wrap?": 1, **wrapped}


class TestMultipleInstances:
    def test_detached_runs_are_not_waited_for(self, store: Store) -> None:
        play = PatternRun(
            store, "Multiple instances without synchronization", customers=["Ada", "Grace", "Edsger"]
        ).execute_due()
        assert (play.status, play.result, play.seconds) == ("succeeded", {"reminders": 3}, 0)
        assert [run.status for run in play.child_runs] == ["waiting"] * 3
        play.advance_clock(DAY)
        assert sorted(run.result["reminded"] for run in play.child_runs) == ["Ada", "Edsger", "Grace"]

    def test_a_loop_over_a_literal_list_is_joined(self, store: Store) -> None:
        play = PatternRun(store, "Multiple instances known at design time").advance_clock(59)
        assert play.visit_counts == {"review": 1}
        play.advance_clock(1)
        assert (play.status, play.visit_counts) == ("succeeded", {"review": 1, "decide": 1})
        assert play.result["verdicts"] == ["Ada likes it", "Grace likes it", "Edsger likes it"]

    @pytest.mark.parametrize("count", [0, 1, 3, 250])
    def test_a_loop_over_a_computed_list_is_joined(self, store: Store, count: int) -> None:
        lines = [{"price": price, "count": 2} for price in range(count)]
        play = PatternRun(store, "Multiple instances known at run time", lines=lines).finish()
        assert play.visit_counts == {"price": 1, "add_up": 1}
        assert play.result["sum"] == sum(2 * line["price"] for line in lines)

    def test_instances_are_added_until_the_last_one(self, store: Store, desk: CallbackDesk) -> None:
        play = PatternRun(store, "Multiple instances not known before", desk=desk.url).execute_due()
        for number, claim in enumerate([{"damage": 5}, {"damage": 70}, {"damage": 600}, None], 1):
            assert len(desk.received_tokens) == number
            desk.answer(play, claim)
            play.execute_due()
        assert "handle ended" not in play.course
        assert [run.status for run in play.child_runs] == ["waiting", "waiting", "succeeded"]
        play.finish()
        assert (play.result["damage"], play.visit_counts["add"], play.seconds) == (675, 1, HOUR)

    def test_instances_start_during_and_after_others(self, store: Store, desk: CallbackDesk) -> None:
        play = PatternRun(store, "Multiple instances not known before", desk=desk.url).execute_due()
        desk.answer(play, {"damage": 5})
        play.advance_clock(2 * HOUR)
        assert "handle ended" in play.course
        desk.answer(play, {"damage": 70})
        play.execute_due()
        desk.answer(play, None)
        assert play.finish().result["damage"] == 75
        assert play.seconds == 3 * HOUR

    def test_the_depth_of_runs_is_limited(self, store: Store, desk: CallbackDesk) -> None:
        play = PatternRun(store, "Multiple instances not known before", desk=desk.url).execute_due()
        for _ in range(MAX_RUN_DEPTH + 1):
            desk.answer(play, {"damage": 1})
            play.execute_due()
        assert play.finish().error_types == ["WorkflowFailed"]
        assert len(play.child_runs) == MAX_RUN_DEPTH
        assert f"goes {MAX_RUN_DEPTH} runs deep" in TEXT


class TestDeferredChoice:
    @pytest.mark.parametrize(
        ("party", "step", "offer"), [("customer", "accept", "accepted"), ("agent", "withdraw", "withdrawn")]
    )
    def test_the_first_answer_is_taken(
        self, store: Store, desk: CallbackDesk, party: str, step: str, offer: str
    ) -> None:
        play = PatternRun(store, "Deferred choice", desk=desk.url).execute_due()
        assert play.visit_counts == {"offer": 1}
        desk.answer(play, {"by": party})
        assert desk.refusal_reason(play, {"by": "a third party"}) == "answered_otherwise"
        play.finish()
        assert (play.visit_counts, play.result["offer"]) == ({"offer": 1, step: 1}, offer)
        assert desk.refusal_reason(play, {"by": "a third party"}) == "answered_otherwise"

    def test_without_an_answer_the_timeout_decides(self, store: Store, desk: CallbackDesk) -> None:
        play = PatternRun(store, "Deferred choice", desk=desk.url).finish()
        assert (play.visit_counts, play.result, play.seconds) == (
            {"offer": 1, "lapse": 1},
            {"offer": "lapsed"},
            7 * DAY,
        )
        assert desk.refusal_reason(play, {"by": "customer"}) == "closed"

    @pytest.mark.parametrize(("first", "until"), [(0, 3 * DAY), (1, DAY)])
    def test_the_loser_of_a_race_is_not_withdrawn(
        self, store: Store, desk: CallbackDesk, first: int, until: int
    ) -> None:
        play = PatternRun(store, "Deferred choice", "race", desk=desk.url).execute_due()
        desk.answer(play, "coming", first)
        play.execute_due()
        assert play.course[-2:] == ["help began", "help ended"]
        assert play.status is RunStatus.WAITING
        play.finish()
        assert (play.status, play.seconds, play.visit_counts["help"]) == ("succeeded", until, 1)

    def test_the_loser_of_a_race_may_still_be_answered(self, store: Store, desk: CallbackDesk) -> None:
        play = PatternRun(store, "Deferred choice", "race", desk=desk.url).execute_due()
        for which in (1, 0):
            assert play.status is RunStatus.WAITING
            desk.answer(play, "coming", which)
            play.execute_due()
            assert play.visit_counts["help"] == 1
        assert (play.status, play.seconds) == ("succeeded", 0)


def test_interleaved_parallel_routing_runs_one_branch_at_a_time(store: Store) -> None:
    play = PatternRun(store, "Interleaved parallel routing").finish()
    order = ["check_in", "blood_test", "x_ray", "eye_test", "doctor"]
    assert play.course == [f"{step} {word}" for step in order for word in ("began", "ended")]
    assert (play.result["report"], play.seconds) == ("blood, x-ray, eyes", 30)


class TestMilestone:
    def test_changes_are_accepted_before_the_milestone(self, store: Store, desk: CallbackDesk) -> None:
        play = PatternRun(store, "Milestone", desk=desk.url).execute_due()
        for change in ("colour", "size"):
            desk.answer(play, {"change": change})
            play.execute_due()
        assert (play.visit_counts, play.status) == ({"open": 3, "change": 2}, "waiting")
        desk.answer(play, {"ship": True})
        play.finish()
        assert play.visit_counts == {"open": 3, "change": 2, "ship": 1}
        assert play.result["changes"] == ["colour", "size"]
        assert {desk.refusal_reason(play, {"change": "too late"}, which) for which in range(3)} == {
            "answered_otherwise"
        }

    def test_the_milestone_passes_at_its_time(self, store: Store, desk: CallbackDesk) -> None:
        play = PatternRun(store, "Milestone", desk=desk.url).finish()
        assert (play.visit_counts, play.seconds) == ({"open": 1, "ship": 1}, 14 * DAY)
        assert desk.refusal_reason(play, {"change": "too late"}) == "closed"


class TestCancelActivity:
    def test_a_cancelled_activity_does_not_end_the_run(self, store: Store) -> None:
        play = PatternRun(store, "Cancel activity").execute_due()
        (film,) = play.child_runs
        store.runs.stop(film.id, RunStatus.CANCELLED, play.clock())
        play.execute_due()
        assert (play.status, play.seconds) == ("succeeded", 0)
        assert play.visit_counts == {"film": 1, "use_stills": 1, "publish": 1}
        assert play.result["published"] == 1
        assert play.child_runs[0].status is RunStatus.CANCELLED

    def test_a_timeout_cancels_the_activity(self, store: Store) -> None:
        play = PatternRun(store, "Cancel activity", replace_text=("seconds: 90m", "seconds: 3h")).finish()
        assert (play.visit_counts, play.seconds) == ({"film": 1, "use_stills": 1, "publish": 1}, 2 * HOUR)
        assert play.execute_due().child_runs[0].status is RunStatus.CANCELLED

    def test_the_activity_ends_by_itself(self, store: Store) -> None:
        play = PatternRun(store, "Cancel activity").finish()
        assert (play.visit_counts, play.result["published"]) == ({"film": 1, "publish": 1}, 24)


class TestCancelCase:
    def test_cancelling_ends_the_run_and_its_child_runs(self, store: Store) -> None:
        play = PatternRun(store, "Cancel case").execute_due()
        store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
        play.execute_due()
        assert (play.status, play.seconds) == ("cancelled", 0)
        assert play.visit_counts == {"begin": 1, "paint": 1, "dry": 1, "release": 1}
        assert [run.status for run in play.child_runs] == ["cancelled"]
        play.advance_clock(DAY)
        assert "furnish" not in play.visit_counts

    def test_without_a_cancellation_the_run_succeeds(self, store: Store) -> None:
        play = PatternRun(store, "Cancel case").finish()
        assert (play.result, play.seconds) == ({"furnished": True, "key_returned": "succeeded"}, 12 * HOUR)
        assert play.course[-2:] == ["release began", "release ended"]


class TestReuse:
    TEXT = "".join(re.findall(r"^```yaml\n(name: reuse\n.*?)^```$", FURTHER, re.DOTALL | re.MULTILINE))

    @pytest.fixture
    def scores(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The file to which the function of the page adds a line for each call."""
        calls = tmp_path / "calls"
        code = f"def compute(customer):\n    open({str(calls)!r}, 'a').write('x')\n    return customer / 10\n"
        (tmp_path / "scores.py").write_text(code)
        monkeypatch.chdir(tmp_path)
        return calls

    def test_the_score_of_a_customer_is_computed_once(self, store: Store, scores: Path) -> None:
        plays = [RunHarness(store, self.TEXT, {"customer": number}).finish() for number in (7, 3, 7)]
        assert [play.result["accepted"] for play in plays] == [True, False, True]
        assert scores.read_text() == "xx"

    def test_another_definition_computes_it_again(self, store: Store, scores: Path) -> None:
        RunHarness(store, self.TEXT, {"customer": 7}).finish()
        RunHarness(store, self.TEXT.replace("as: score", "as: score, timeout: 1m"), {"customer": 7}).finish()
        assert scores.read_text() == "x"
        RunHarness(store, self.TEXT.replace('{customer: "', '{customer: "0'), {"customer": 7}).finish()
        assert scores.read_text() == "xx"
