"""The inbox: what the runs of a tenant ask persons, and the answers of callers that have a key.

Problem: the token of a callback may be lost in a message, and the store has only its hash. Who has a key must
see what waits, and answer it without the token.

Algorithm: the store lists the open waits of a tenant by expiry, with their visits. The questions are in the
journals of these visits. An answer names its run, step and visit, and ends the wait that the journal
names. The rules are those of an answer with a token.

Cost: one read of the list for a page. It is read on if all of its visits have begun to ask, and are not
suspended yet.

Limits: a question appears when its visit is suspended, and not while another action of its step is at work. A
journal may have megabytes, so a page ends early after MAX_LISTED_JOURNALS bytes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from noetl.api.service.errors import NotFoundError
from noetl.api.service.inbox_views import CaseEntry, InboxEntry, InboxPage
from noetl.api.service.questions import OpenQuestion, journal_questions, questions_of
from noetl.api.service.runs import RunService
from noetl.api.service.tenant import TenantContext
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.run import ListedWait, RunStatus, Visit, VisitStatus, WaitKey
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.wait_transition import wait_closed
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.cursors import WaitPlace
from noetl.planner.frozen import frozen
from noetl.planner.plan import Step

QUESTIONS_PER_PAGE = 100
MAX_QUESTIONS = 200
"""The greatest number of questions on a page."""

_MORE_READS = 3
"""How often one page reads the list again because none of its waits has a question yet."""


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

    def find(self, cursor: str | None = None, limit: int = QUESTIONS_PER_PAGE) -> InboxPage:
        """Return a page of the questions of all runs. What expires first comes first.

        A page may have fewer questions than `limit`, and others follow.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        found: list[tuple[WaitPlace, InboxEntry]] = []
        scope = self.context.cursor_scope("inbox")
        cursor = scope.open(cursor)
        for _ in range(1 + _MORE_READS):
            waits, cursor = self.context.store.waits.find_open(
                self.context.tenant, limit=limit, cursor=cursor
            )
            # Questions that a step has asked at the same time are in the order of its actions.
            found += [
                ((wait.rank, wait.key.run_id, wait.key.visit_id, entry.position), entry)
                for wait in waits
                if (entry := self._entry(wait)) is not None
            ]
            if found or cursor is None:
                break
        found.sort(key=lambda pair: pair[0])
        return InboxPage(items=[entry for _, entry in found], next_cursor=scope.close(cursor))

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
            for question in self._open_questions(latest, run)
            if request.position in (None, question.position)
        ]
        if not questions:
            raise wait_closed()
        candidates = questions if len(questions) == 1 else self._unanswered(latest, questions)
        if len(candidates) > 1:
            positions = ", ".join(f"`{question.position}`" for question in questions[:10])
            message = f"the step asks {len(questions)} questions; name one by its position: {positions}"
            raise RejectedError("ambiguous_question", message)
        (question,) = candidates
        key = WaitKey(run.id, latest.id, question.wait.id)
        body, declared = redact_for_storage(request.answer), question.content.get("answer")
        self.context.store.waits.answer_wait(key, declared, body, self.context.clock())
        return key

    def _unanswered(self, visit: Visit, questions: Sequence[OpenQuestion]) -> Sequence[OpenQuestion]:
        """Return the one question that has no answer, or all questions if it is not just one.

        The journal of a visit has an answered question until the step has read the answer.
        """
        waits = self.context.store.waits
        unanswered = (
            question
            for question in questions
            if waits.wait(WaitKey(visit.run_id, visit.id, question.wait.id)).answered_at is None
        )
        first = list(islice(unanswered, 2))
        return first if len(first) == 1 else questions

    def _entry(self, listed: ListedWait) -> InboxEntry | None:
        """Return the question of an open wait, or None if the journal of its visit does not have it yet."""
        visit = listed.visit
        questions = journal_questions(visit)
        question = next((found for found in questions if found.wait.id == listed.key.id), None)
        if question is None:
            return None
        return InboxEntry(
            workflow_id=visit.run_id,
            playbook=listed.playbook,
            step=visit.step,
            visit=visit.number,
            position=question.position,
            opened_at=timestamp(question.wait.opened_at),
            expires_at=timestamp(question.wait.expires_at),
            title=question.content.get("title"),
            details=question.content.get("details"),
            answer=question.content.get("answer"),
            cases=_cases_of(self.context.store.plans.step(listed.plan_hash, visit.step)),
        )

    def _open_questions(self, visit: Visit, run: RunSummary) -> list[OpenQuestion]:
        """Return what a visit asks. One that runs, because of another answer, still has its open waits."""
        if visit.status is not VisitStatus.RUNNING:
            return questions_of(visit, is_paused=run.status is RunStatus.PAUSED)
        waits = self.context.store.waits
        return [
            question
            for question in journal_questions(visit)
            if waits.wait(WaitKey(run.id, visit.id, question.wait.id)).answered_at is None
        ]


def _cases_of(step: Step) -> list[CaseEntry]:
    """Return the cases of the rule of a step, which say where an answer leads."""
    return [
        CaseEntry(case=index, guard=case.guard, targets=list(case.targets))
        for index, case in enumerate(step.cases)
    ]
