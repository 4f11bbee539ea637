"""The inbox: what the runs of a tenant ask persons, and the answers of callers that have a key.

Problem: the token of a callback may be lost in a message, and the store has only its hash. Who has a key must
see what waits, and answer it without the token.

Algorithm: the waiting runs are read in pages, and the questions in the journals of their visits. An
answer names its run, step and visit, and ends the wait that the journal names. The rules are those of an
answer with a token.

Cost: one query for a page of runs, and one for each of them.

Limits: a run is not listed while another of its branches works. Its questions can be answered nevertheless.
`order=expires` sorts the questions of up to MAX_SORTED_RUNS runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noetl.api.service.errors import NotFoundError
from noetl.api.service.inbox_views import CaseEntry, InboxEntry, InboxPage
from noetl.api.service.questions import questions_of
from noetl.api.service.runs import RunService
from noetl.api.service.tenant import TenantContext
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.run import RunStatus, WaitKey
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.wait_transition import wait_closed
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.frozen import frozen
from noetl.planner.plan import Step

RUNS_PER_PAGE = 100
MAX_SORTED_RUNS = 200


@frozen
class AnswerRequest:
    """An answer to a question of a step. Without `visit` it is that of the latest visit.

    `position` is the place of the action, which is needed if the step asks several questions.
    """

    step: str
    answer: Any = None
    visit: int | None = None
    position: str | None = None


@frozen
class InboxService:
    """The questions of the runs of one tenant."""

    context: TenantContext
    runs: RunService

    def find(self, cursor: str | None = None, limit: int = RUNS_PER_PAGE) -> InboxPage:
        """Return the questions of one page of waiting and paused runs, the newest run first.

        A page may have fewer questions than runs, or more.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        statuses = (RunStatus.WAITING, RunStatus.PAUSED)
        page = RunFilter(self.context.tenant, statuses, limit=limit, cursor=cursor)
        runs, next_cursor = self.context.store.runs.find(page)
        entries = [entry for run in runs for entry in self._entries(run)]
        return InboxPage(items=entries, next_cursor=next_cursor)

    def find_urgent(self) -> InboxPage:
        """Return the questions of up to MAX_SORTED_RUNS of these runs; those that expire first come first."""
        page = self.find(limit=MAX_SORTED_RUNS)
        entries = sorted(page.items, key=lambda entry: (entry.expires_at is None, entry.expires_at or ""))
        return InboxPage(items=entries, next_cursor=None)

    def answer(self, run_id: str, request: AnswerRequest) -> WaitKey:
        """Answer a question of a step, and return the key of its wait.

        The same answer again changes nothing.

        Raises:
            NotFoundError: the tenant has no such run, or the run no such step or visit.
            RejectedError: `ambiguous_question`, if the step asks several and no position is given; `closed`;
                `answered_otherwise`; `invalid_answer`; `too_large`; `payload_lost`.
        """
        step, visit = request.step, request.visit
        run = self.runs.summary(run_id)
        if step not in self.context.step_names(run.plan_hash):
            raise NotFoundError(f"run `{run.id}` has no step `{step}`")
        visits = [found for found in self.context.store.runs.visits(run.id) if found.step == step]
        latest = max(
            (found for found in visits if visit in (None, found.number)),
            key=lambda found: found.number,
            default=None,
        )
        if latest is None:
            raise NotFoundError(f"step `{step}` of run `{run.id}` has no visit {visit or 1}")
        questions = [
            question
            for question in questions_of(latest, is_paused=run.status is RunStatus.PAUSED)
            if request.position in (None, question.position)
        ]
        if not questions:
            raise wait_closed()
        if len(questions) > 1:
            positions = ", ".join(f"`{question.position}`" for question in questions[:10])
            message = f"the step asks {len(questions)} questions; name one by its position: {positions}"
            raise RejectedError("ambiguous_question", message)
        (question,) = questions
        key = WaitKey(run.id, latest.id, question.wait.id)
        body, declared = redact_for_storage(request.answer), question.content.get("answer")
        self.context.store.waits.answer_wait(key, declared, body, self.context.clock())
        return key

    def _entries(self, run: RunSummary) -> Iterator[InboxEntry]:
        for visit in self.context.store.runs.visits(run.id):
            for question in questions_of(visit, is_paused=run.status is RunStatus.PAUSED):
                step = self.context.store.plans.step(run.plan_hash, visit.step)
                yield InboxEntry(
                    workflow_id=run.id,
                    playbook=run.playbook,
                    step=visit.step,
                    visit=visit.number,
                    position=question.position,
                    opened_at=timestamp(question.wait.opened_at),
                    expires_at=timestamp(question.wait.expires_at),
                    title=question.content.get("title"),
                    details=question.content.get("details"),
                    answer=question.content.get("answer"),
                    cases=_cases_of(step),
                )


def _cases_of(step: Step) -> list[CaseEntry]:
    """Return the cases of the rule of a step, which say where an answer leads."""
    return [
        CaseEntry(case=index, guard=case.guard, targets=list(case.targets))
        for index, case in enumerate(step.cases)
    ]
