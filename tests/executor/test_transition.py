from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.model.ids import derived_id
from noetl.executor.model.outcome import Choice, Outcome, Suspension, error_record
from noetl.executor.model.run import (
    Branch,
    Commit,
    ErrorRecord,
    FailureState,
    Progress,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.transition import (
    GuardError,
    GuardTest,
    RuleTests,
    abandon,
    apply_deadline,
    build_commit,
    choose_case,
    delay_after_failure,
    final_status,
    find_holders,
    find_refusal,
    merge_arrivals,
    merge_names,
    retry_delay_seconds,
    suspend,
)
from noetl.executor.model.visit_states import FINISHED, TRANSITIONS, IllegalTransitionError, VisitTrigger
from noetl.executor.model.visit_transition import MAX_CLAIMS, MAX_CLAIMS_OF_RULE
from noetl.planner.plan import Action, Case, Join, Retry, Step

VISIT = Visit(
    "v1", "r1", "s", VisitStatus.RUNNING, clock=4, names={"old": (1, "v0")}, claims=1, fence=1, started_at=8.0
)
WORK = (Action("log", {"message": "x"}),)
NOW = 10.0


def error(type: str = "Failed", *, retryable: bool = True) -> ErrorRecord:
    return error_record(VISIT, type, "no", retryable=retryable)


def failure(type: str = "Failed", *, retryable: bool = True) -> Outcome:
    return Outcome(False, None, error(type, retryable=retryable), "http")


def guards(**values: bool | str) -> GuardTest:
    """Return a guard test from values by guard. A text value is the reason why the guard has no value."""

    def test(case: Case, outcome: Outcome) -> bool:
        assert case.guard is not None
        value = values[case.guard]
        if isinstance(value, str):
            raise GuardError(value)
        return value

    return test


def chosen(step: Step, outcome: Outcome, visit: Visit = VISIT, **values: bool | str) -> Choice:
    return choose_case(step, visit, outcome, RuleTests(guards(**values), lambda _: True), NOW)


def step(*cases: Case, **fields: Any) -> Step:
    return Step("s", cases=cases, **fields)


def commit_after(step: Step, choice: Choice, outcome: Outcome | None = None, **targets: Step) -> Commit:
    steps = {"s": step, **targets}
    return build_commit(steps.__getitem__, VISIT, choice, outcome or choice.outcome, NOW)


class TestChooseCase:
    def test_the_first_case_with_a_true_guard_is_chosen(self) -> None:
        rule = step(Case("no"), Case("yes"), Case("also"), Case(None))
        assert chosen(rule, Outcome(), no=False, yes=True, also=True).case == 1

    def test_guards_after_a_true_one_are_not_evaluated(self) -> None:
        assert chosen(step(Case("yes"), Case("broken")), Outcome(), yes=True, broken="no value").case == 0

    def test_default_is_always_true(self) -> None:
        assert chosen(step(Case("no"), Case(None)), Outcome(), no=False).case == 1

    @pytest.mark.parametrize("rule", [step(), step(Case("no"))])
    def test_without_a_true_guard_no_case_is_chosen(self, rule: Step) -> None:
        choice = chosen(rule, Outcome(), no=False)
        assert (choice.case, choice.failed, choice.retry_at) == (None, False, None)

    def test_only_error_aware_cases_follow_a_failure(self) -> None:
        rule = step(Case("plain"), Case(None), Case("aware", error_aware=True))
        choice = chosen(rule, failure(), plain=True, aware=True)
        assert (choice.case, choice.failed) == (2, True)
        choice = chosen(rule, failure(), plain=True, aware=False)
        assert (choice.case, choice.failed) == (None, True)

    @pytest.mark.parametrize(("claims", "case"), [(MAX_CLAIMS + MAX_CLAIMS_OF_RULE, 0), (1 << 20, None)])
    def test_a_case_whose_work_ends_its_workers_is_not_chosen_for_ever(
        self, claims: int, case: int | None
    ) -> None:
        rule = step(Case("aware", error_aware=True))
        tests = RuleTests(guard=lambda _case, _outcome: True, retry=lambda _: True)
        choice = choose_case(rule, replace(VISIT, claims=claims), failure(), tests, 1.0)
        assert (choice.case, choice.failed) == (case, True)

    def test_error_aware_cases_are_evaluated_after_success_too(self) -> None:
        choice = chosen(step(Case("aware", error_aware=True)), Outcome(), aware=True)
        assert choice == Choice(Outcome(), False, 0, guards=((0, True),))

    def test_a_forgiven_failure_counts_as_success(self) -> None:
        outcome = replace(failure(), forgiven=True)
        rule = step(Case("plain"), retry=Retry(attempts=3))
        assert chosen(rule, outcome, plain=True) == Choice(outcome, False, 0, guards=((0, True),))

    def test_a_choice_has_the_values_of_the_guards(self) -> None:
        """Guards after the chosen case were not evaluated, and the default case has none."""
        rule = step(Case("no"), Case("yes"), Case("later"), Case(None))
        assert chosen(rule, Outcome(), no=False, yes=True, later=True).guards == ((0, False), (1, True))
        assert chosen(step(Case("no"), Case(None)), Outcome(), no=False).guards == ((0, False),)

    def test_a_guard_without_a_value_is_none(self) -> None:
        choice = chosen(step(Case("no"), Case("broken")), Outcome(), no=False, broken="`x` has no value")
        assert (choice.failed, choice.guards) == (True, ((0, False), (1, None)))

    def test_a_guard_without_a_value_fails_the_step(self) -> None:
        rule = step(Case("broken"), Case("plain"), Case("aware", error_aware=True), retry=Retry(attempts=3))
        choice = chosen(
            rule, Outcome(data=1, saved={"x": 1}), broken="`x` has no value", plain=True, aware=True
        )
        assert (choice.case, choice.failed, choice.retry_at) == (2, True, None)
        assert choice.outcome.error is not None
        assert (choice.outcome.error["type"], choice.outcome.error["message"]) == (
            "GuardError",
            "`x` has no value",
        )
        assert not choice.outcome.success
        assert choice.outcome.saved == {}

    def test_a_guard_without_a_value_after_a_forgiven_failure(self) -> None:
        choice = chosen(step(Case("broken")), replace(failure(), forgiven=True), broken="no value")
        assert choice.failed
        assert choice.outcome.failed

    def test_guards_are_evaluated_once_more_after_a_guard_error(self) -> None:
        evaluated = []

        def test(case: Case, outcome: Outcome) -> bool:
            evaluated.append(case.guard)
            raise GuardError("no value")

        rule = step(Case("first"), Case("aware", error_aware=True), Case("other", error_aware=True))
        choice = choose_case(rule, VISIT, Outcome(), RuleTests(test, lambda _: True), NOW)
        assert evaluated == ["first", "aware"]
        assert (choice.case, choice.failed) == (None, True)

    def test_a_guard_error_replaces_the_failure(self) -> None:
        rule = step(Case("broken", error_aware=True), Case("aware", error_aware=True))
        choice = chosen(rule, failure("HTTPStatus"), broken="no value", aware=True)
        assert (choice.case, choice.failed) == (None, True)
        assert choice.outcome.error is not None
        assert choice.outcome.error["type"] == "GuardError"

    def test_retries_come_before_cases(self) -> None:
        rule = step(Case("aware", error_aware=True), retry=Retry(3, 2.0, jitter=False))
        choice = chosen(rule, failure(), aware=True)
        assert (choice.retry_at, choice.case, choice.failed) == (12.0, None, True)

    @pytest.mark.parametrize(("attempt", "retried"), [(1, True), (2, True), (3, False), (4, False)])
    def test_attempts_are_counted(self, attempt: int, retried: bool) -> None:
        choice = chosen(step(retry=Retry(attempts=3)), failure(), replace(VISIT, attempt=attempt))
        assert (choice.retry_at is not None) is retried

    def test_a_failure_that_is_not_retryable_is_not_retried(self) -> None:
        assert chosen(step(retry=Retry(attempts=3)), failure(retryable=False)).retry_at is None

    def test_a_false_retry_condition_prevents_the_retry(self) -> None:
        rule = step(retry=Retry(attempts=3))
        tests = RuleTests(guards(), lambda outcome: outcome.error is None)
        choice = choose_case(rule, VISIT, failure(), tests, NOW)
        assert choice.retry_at is None

    def test_a_success_is_not_retried(self) -> None:
        assert chosen(step(retry=Retry(attempts=3)), Outcome()).retry_at is None

    def test_past_max_visits_no_case_that_leads_back_is_chosen(self) -> None:
        rule = step(
            Case("aware", error_aware=True, targets=("s",), leads_back=True),
            Case("other", error_aware=True, targets=("t",)),
            max_visits=2,
        )
        outcome = Outcome(False, None, error("MaxVisitsExceeded", retryable=False))
        assert chosen(rule, outcome, replace(VISIT, number=3), aware=True, other=True).case == 1
        assert chosen(rule, failure(), replace(VISIT, number=2), aware=True, other=True).case == 0


class TestRefusal:
    @pytest.mark.parametrize(("number", "refused"), [(1, False), (2, False), (3, True), (9, True)])
    def test_a_visit_past_max_visits_is_refused(self, number: int, refused: bool) -> None:
        found = find_refusal(step(max_visits=2), replace(VISIT, number=number))
        assert (found is not None) is refused
        if found is not None:
            assert (found["type"], found["retryable"]) == ("MaxVisitsExceeded", False)
            assert found["message"] == "step `s` must not be entered more than 2 times"

    @pytest.mark.parametrize(("claims", "refused"), [(1, False), (MAX_CLAIMS, False), (MAX_CLAIMS + 1, True)])
    def test_a_visit_claimed_too_often_is_refused(self, claims: int, refused: bool) -> None:
        found = find_refusal(step(), replace(VISIT, claims=claims))
        assert (found and found["type"]) == ("WorkerLost" if refused else None)

    def test_a_step_without_max_visits_is_not_refused(self) -> None:
        assert find_refusal(step(), replace(VISIT, number=1000)) is None


class TestRetryDelay:
    def test_the_delay_grows_up_to_its_maximum(self) -> None:
        retry = Retry(9, 1.0, 3.0, 20.0, jitter=False)
        assert [retry_delay_seconds(retry, attempt) for attempt in (1, 2, 3, 4, 5, 400)] == [
            1,
            3,
            9,
            20,
            20,
            20,
        ]

    @given(
        delay=st.floats(0, 1e6),
        backoff=st.floats(1, 100),
        longest=st.floats(0, 1e9),
        attempt=st.integers(1, 1000),
    )
    def test_jitter_shortens_by_up_to_a_half(
        self, delay: float, backoff: float, longest: float, attempt: int
    ) -> None:
        exact = retry_delay_seconds(Retry(1000, delay, backoff, longest, jitter=False), attempt)
        retry = Retry(1000, delay, backoff, longest, jitter=True)
        found = retry_delay_seconds(retry, attempt, "run", "visit")
        assert exact / 2 <= found <= exact <= longest
        assert found == retry_delay_seconds(retry, attempt, "run", "visit")

    def test_jitter_differs_between_visits(self) -> None:
        found = {retry_delay_seconds(Retry(5, 1.0), 1, "run", visit) for visit in range(100)}
        assert len(found) == 100
        assert max(found) - min(found) > 0.4

    @pytest.mark.parametrize(
        ("details", "expected"),
        [
            ({"retry_after_seconds": 5.0}, 5.0),
            ({"retry_after_seconds": 900}, 20.0),
            ({"retry_after_seconds": 0.5}, 1.0),
            ({"retry_after_seconds": None}, 1.0),
            ({"retry_after_seconds": "soon"}, 1.0),
            (["a list"], 1.0),
            (None, 1.0),
        ],
    )
    def test_a_server_may_ask_for_a_longer_delay(self, details: object, expected: float) -> None:
        retry = Retry(9, 1.0, 3.0, 20.0, jitter=False)
        error = error_record(VISIT, "HTTPStatus", "busy", details=details)
        assert delay_after_failure(retry, 1, error) == expected


class TestBuildCommit:
    def test_a_chain_makes_one_branch(self) -> None:
        rule = step(Case(None, targets=("t",), counter_changes={"j": -1}))
        outcome = Outcome(data=[1], saved={"x": 1, "unread": 2})
        commit = commit_after(
            rule, Choice(outcome, False, 0), t=Step("t", live_names=frozenset({"old", "x", "steps.s"}))
        )
        assert commit.visit == replace(
            VISIT,
            status=VisitStatus.SUCCEEDED,
            finished_at=NOW,
            saved={"x": 1, "unread": 2},
            result=[1],
            case=0,
        )
        (branch,) = commit.branches
        assert (branch.step, branch.clock, branch.is_arrival, branch.is_counted) == ("t", 5, False, False)
        assert branch.names == {"old": (1, "v0"), "x": (4, "v1"), "steps.s": (4, "v1")}
        assert (commit.counter_changes, commit.branches_change, commit.failed_branches) == ({"j": -1}, 0, 0)
        assert (commit.stop, commit.error) == (None, None)
        assert [event.type for event in commit.events] == ["step.transition", "step.completed"]
        assert commit.events[0].payload == {"case": 0, "targets": ["t"]}
        assert commit.events[1].duration_seconds == 2.0

    def test_a_fork_makes_several_branches(self) -> None:
        rule = step(Case("no"), Case(None, targets=("t", "u", "w")))
        targets = {"t": Step("t"), "u": Step("u", join=Join("s")), "w": Step("w", cyclic=True)}
        commit = commit_after(rule, Choice(Outcome(), False, 1), None, **targets)
        assert [(b.step, b.is_arrival, b.is_counted) for b in commit.branches] == [
            ("t", False, False),
            ("u", True, False),
            ("w", False, True),
        ]
        assert len({branch.id for branch in commit.branches}) == 3
        assert commit.branches_change == 2
        assert commit == commit_after(rule, Choice(Outcome(), False, 1), None, **targets)

    def test_a_branch_without_a_case_ends(self) -> None:
        for rule, case in ((step(Case(None, counter_changes={"j": -1})), 0), (step(regions=("j",)), None)):
            commit = commit_after(rule, Choice(Outcome(), False, case))
            assert (commit.branches, commit.counter_changes, commit.branches_change) == ((), {"j": -1}, -1)

    def test_a_step_without_a_rule_has_no_transition(self) -> None:
        assert [event.type for event in commit_after(step(), Choice(Outcome(), False)).events] == [
            "step.completed"
        ]

    def test_saved_names_replace_inherited_ones(self) -> None:
        rule = step(Case(None, targets=("t",)))
        commit = commit_after(
            rule, Choice(Outcome(saved={"old": 2}), False, 0), t=Step("t", live_names=frozenset({"old"}))
        )
        assert commit.branches[0].names == {"old": (4, "v1")}

    def test_in_place_work_saves_its_names(self) -> None:
        rule = step(Case(None, work=WORK, counter_changes={"j": -1}))
        first = Outcome(data="first", saved={"x": 1})
        commit = commit_after(rule, Choice(first, False, 0), Outcome(data="second", saved={"x": 1, "y": 2}))
        assert (commit.visit.status, commit.visit.result) == ("succeeded", "first")
        assert commit.visit.saved == {"x": 1, "y": 2}
        assert (commit.counter_changes, commit.branches_change) == ({"j": -1}, -1)

    @pytest.mark.parametrize(("on_error", "stop"), [("abort", RunStatus.FAILED), ("continue", None)])
    def test_failed_in_place_work_is_unhandled(self, on_error: str, stop: RunStatus | None) -> None:
        rule = step(Case(None, work=WORK), on_error=on_error, regions=("j",))
        commit = commit_after(rule, Choice(Outcome(data=1, saved={"x": 1}), False, 0), failure("Timeout"))
        assert (commit.visit.status, commit.visit.case, commit.visit.saved) == ("failed", 0, {})
        assert commit.visit.error == error("Timeout")
        assert (commit.stop, commit.error) == (stop, error("Timeout") if stop else None)

    def test_forgiven_in_place_work_does_not_fail_the_visit(self) -> None:
        rule = step(Case(None, work=WORK))
        commit = commit_after(rule, Choice(Outcome(), False, 0), replace(failure(), forgiven=True))
        assert (commit.visit.status, commit.visit.error, commit.stop) == ("succeeded", None, None)

    def test_a_handled_failure_continues_the_branch(self) -> None:
        rule = step(Case("aware", error_aware=True, targets=("t",)))
        commit = commit_after(rule, Choice(failure(), True, 0), t=Step("t"))
        visit = commit.visit
        assert (visit.status, visit.failure, visit.error, visit.case) == (
            "failed",
            FailureState.HANDLED,
            error(),
            0,
        )
        assert (commit.stop, commit.error, commit.failed_branches, len(commit.branches)) == (None, None, 0, 1)
        assert commit.events[-1].type == "step.failed"
        assert commit.events[-1].payload == {"error": error(), "handled": True}

    def test_an_unhandled_failure_stops_the_run(self) -> None:
        commit = commit_after(step(Case(None, targets=("t",)), regions=("j",)), Choice(failure(), True))
        assert (commit.visit.status, commit.visit.failure) == ("failed", FailureState.OPEN)
        assert (commit.stop, commit.error) == (RunStatus.FAILED, error())
        assert (commit.branches, commit.counter_changes, commit.branches_change, commit.failed_branches) == (
            (),
            {},
            0,
            0,
        )
        assert commit.events[-1].payload == {"error": error(), "handled": False}

    def test_an_unhandled_failure_may_end_only_its_branch(self) -> None:
        commit = commit_after(step(on_error="continue", regions=("j", "k")), Choice(failure(), True))
        assert (commit.visit.status, commit.visit.failure) == ("failed", FailureState.ENDED)
        assert (commit.stop, commit.error) == (None, None)
        assert (commit.counter_changes, commit.branches_change, commit.failed_branches) == (
            {"j": -1, "k": -1},
            -1,
            1,
        )

    def test_a_retry_is_due_after_its_delay(self) -> None:
        commit = commit_after(step(regions=("j",)), Choice(failure(), True, retry_at=60.0))
        visit = commit.visit
        assert (visit.status, visit.attempt, visit.claims, visit.due_at) == ("retrying", 2, 0, 60.0)
        assert (visit.started_at, visit.finished_at, visit.saved, visit.fence) == (None, None, {}, 1)
        assert visit.error == error()
        assert commit == Commit(visit, events=commit.events)
        (event,) = commit.events
        assert (event.type, event.attempt) == ("step.retrying", 1)
        assert event.payload["next_attempt_at"] == "1970-01-01T00:01:00.000000Z"


class TestApplyDeadline:
    COMMIT = Commit(VISIT, stop=RunStatus.FAILED, error=error())

    @pytest.mark.parametrize("deadline_at", [None, 10.1])
    def test_before_the_deadline_the_commit_is_unchanged(self, deadline_at: float | None) -> None:
        assert apply_deadline(self.COMMIT, deadline_at, NOW) is self.COMMIT

    @pytest.mark.parametrize("deadline_at", [10.0, 1.0])
    def test_past_the_deadline_the_commit_stops_the_run(self, deadline_at: float) -> None:
        assert apply_deadline(self.COMMIT, deadline_at, NOW) == Commit(VISIT, stop=RunStatus.TIMED_OUT)


class TestMergeArrivals:
    def arrivals(self, *names: Mapping[str, tuple[int, str]]) -> list[Branch]:
        return [Branch(f"b{index}", "j", 3 + index, pointers) for index, pointers in enumerate(names)]

    def test_one_arrival_is_one_branch(self) -> None:
        branch, live, merged = merge_arrivals(Step("j", regions=("k",)), 1, self.arrivals({"x": (1, "v")}))
        assert branch == Branch(derived_id("join", "j", 1), "j", 3, {"x": (1, "v")})
        assert (live, merged) == ({}, 0)

    def test_many_arrivals_merge_into_one_branch(self) -> None:
        branch, live, merged = merge_arrivals(
            Step("j", regions=("k", "l"), cyclic=True), 2, self.arrivals({}, {}, {})
        )
        assert (branch.clock, branch.is_arrival, branch.is_counted) == (5, False, True)
        assert (live, merged) == ({"k": -2, "l": -2}, -2)

    def test_each_wave_has_its_own_id(self) -> None:
        assert len({merge_arrivals(Step("j"), wave, self.arrivals({}))[0].id for wave in (1, 2)}) == 2

    def test_a_join_that_fires_again_keeps_earlier_names(self) -> None:
        earlier = Branch("", "j", 7, {"x": (6, "old"), "y": (1, "old")})
        branch = merge_arrivals(Step("j"), 2, self.arrivals({"y": (2, "new")}), earlier)[0]
        assert (branch.clock, branch.names) == (8, {"x": (6, "old"), "y": (2, "new")})

    def test_a_join_comes_after_what_it_waited_for(self) -> None:
        waited_for = Branch("", "j", 9, {})
        assert merge_arrivals(Step("j"), 1, self.arrivals({}), waited_for)[0].clock == 10

    def test_names_written_in_a_branch_replace_inherited_ones(self) -> None:
        inherited, written = {"x": (1, "z")}, {"x": (2, "a")}
        for arrivals in (self.arrivals(inherited, written), self.arrivals(written, inherited)):
            assert merge_arrivals(Step("j"), 1, arrivals)[0].names == {"x": (2, "a")}

    def test_names_of_all_branches_are_merged(self) -> None:
        names = merge_arrivals(Step("j"), 1, self.arrivals({"x": (2, "a")}, {"y": (2, "b")}))[0].names
        assert names == {"x": (2, "a"), "y": (2, "b")}

    @given(st.permutations([{"x": (2, "a")}, {"x": (2, "b"), "y": (1, "c")}, {"x": (1, "z")}]))
    def test_the_order_of_arrivals_does_not_matter(self, names: list[dict[str, tuple[int, str]]]) -> None:
        assert merge_arrivals(Step("j"), 1, self.arrivals(*names))[0].names == {"x": (2, "b"), "y": (1, "c")}


@pytest.mark.parametrize(
    ("stop", "failed_branches", "status"),
    [
        (None, 0, "succeeded"),
        (None, 2, "completed_with_errors"),
        (RunStatus.FAILED, 0, "failed"),
        (RunStatus.CANCELLED, 1, "cancelled"),
        (RunStatus.TIMED_OUT, 0, "timed_out"),
    ],
)
def test_final_statuses(stop: RunStatus | None, failed_branches: int, status: str) -> None:
    assert final_status(stop, failed_branches) == status


def test_the_latest_write_of_a_name_wins() -> None:
    saved = [(1, "a", {"x": 1, "y": 1}), (3, "b", {"x": 3}), (2, "c", {"x": 2, "z": 2})]
    for order in (saved, saved[::-1]):
        assert merge_names(order) == {"x": 3, "y": 1, "z": 2}


def test_holders_of_names_are_found() -> None:
    assert find_holders({"x": (1, "a"), "y": (2, "b")}, ["x", "z"]) == {"x": "a"}


def test_derived_ids_separate_their_parts() -> None:
    parts = [("a", "b"), ("ab",), ("ab", ""), ("", "ab"), ("a", "b", ""), ("a", 1), ("a", "11"), ("a1", 1)]
    assert len({derived_id(*p) for p in parts}) == len(parts)
    assert derived_id("a", 1) == derived_id("a", "1")
    assert len(derived_id("a")) == 20


outcomes = st.builds(
    Outcome,
    success=st.booleans(),
    error=st.sampled_from([None, error(), error(retryable=False)]),
    forgiven=st.booleans(),
    saved=st.sampled_from([{}, {"n": 1}]),
)
progresses = st.builds(Progress, round=st.integers(0, 2), journal=st.sampled_from([{}, {"run": {"at": 0}}]))
claimed_visits = st.builds(
    lambda attempt, claims, fence, progress: replace(
        VISIT, attempt=attempt, claims=claims, fence=fence, progress=progress
    ),
    st.integers(1, 3),
    st.integers(1, MAX_CLAIMS + 1),
    st.integers(1, 9),
    st.none() | progresses,
)


@st.composite
def commits(draw: st.DrawFn, visit: Visit) -> Commit:
    """Draw the commit of any end of an attempt."""
    kind = draw(st.sampled_from(["outcome", "suspension", "abandonment"]))
    if kind == "abandonment":
        return abandon(visit)
    if kind == "suspension":
        return suspend(visit, Suspension(draw(progresses), draw(st.floats(0, 20))), NOW)
    outcome = draw(outcomes)
    rule = step(
        *draw(st.lists(st.sampled_from([Case(None), Case("yes"), Case("aware", error_aware=True)]))),
        on_error=draw(st.sampled_from(["abort", "continue"])),
        retry=Retry(draw(st.integers(1, 3))),
    )
    choice = chosen(rule, outcome, visit, yes=draw(st.booleans()), aware=draw(st.booleans()))
    return build_commit({"s": rule}.__getitem__, visit, choice, choice.outcome, NOW)


class TestTableOfStates:
    @given(st.data(), claimed_visits)
    def test_every_end_of_an_attempt_is_in_the_table(self, data: st.DataObject, visit: Visit) -> None:
        committed = data.draw(commits(visit)).visit
        assert committed.status in TRANSITIONS[VisitStatus.RUNNING].values()
        assert committed.status is not VisitStatus.RUNNING
        assert (committed.id, committed.fence) == (visit.id, visit.fence)

    @given(st.data(), claimed_visits)
    def test_an_outcome_ends_a_visit_and_everything_else_may_be_claimed(
        self, data: st.DataObject, visit: Visit
    ) -> None:
        commit = data.draw(commits(visit))
        committed = commit.visit
        if committed.status in FINISHED:
            assert committed.finished_at == NOW
            assert (committed.failure is not None) == (committed.status is VisitStatus.FAILED)
            return
        assert VisitTrigger.CLAIM in TRANSITIONS[committed.status]
        assert (committed.finished_at, committed.claims, committed.worker) == (None, 0, None)
        assert commit.branches == ()
        assert commit.branches_change == 0
        assert not commit.counter_changes

    @given(st.data(), claimed_visits, st.sampled_from(sorted(set(VisitStatus) - {VisitStatus.RUNNING})))
    def test_only_a_running_visit_has_an_outcome(
        self, data: st.DataObject, visit: Visit, status: VisitStatus
    ) -> None:
        with pytest.raises(IllegalTransitionError):
            data.draw(commits(replace(visit, status=status)))
