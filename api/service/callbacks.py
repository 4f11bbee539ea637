"""The service of callbacks: answers and heartbeats for steps that wait for an external system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noetl.api.service.answer_choices import answer_choices
from noetl.api.service.inbox_views import CallbackQuestion
from noetl.api.service.questions import OpenQuestion, questions_of
from noetl.api.service.tenant import TenantContext
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.run import TokenWait, Visit, WaitKey
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.wait_transition import AnswerDeclaration, unknown_token
from noetl.executor.security.redaction import redact_for_storage, redacting_for
from noetl.planner.frozen import frozen


@frozen
class CallbackService:
    """The callbacks of all tenants: a token is the credential for its wait."""

    context: TenantContext

    def check_token(self, token: str) -> None:
        """Raise unless the token was given out. So the body of a request with another one is never read.

        Raises:
            RejectedError: `unknown_token`.
        """
        if not self.context.store.waits.has_token(hash_secret(token)):
            raise unknown_token()

    def answer(self, token: str, body: Any) -> WaitKey:
        """Complete the action that waits for the token with `body`, and return the key of its wait.

        The same answer again changes nothing. The answer is stored without secrets.

        Raises:
            RejectedError: `unknown_token`; `answered_otherwise`, by another answer before; `closed`, if no
                action waits for it any more; `too_large`.
        """
        wait = self.context.store.waits.find_wait(hash_secret(token))
        if wait is None:
            raise unknown_token()
        with redacting_for(wait.tenant):
            answer = redact_for_storage(body)
        return self.context.store.waits.answer(hash_secret(token), answer, self.context.clock())

    def question(self, token: str) -> CallbackQuestion:
        """Return what the step behind a token asks, while an answer with the token would be accepted.

        Nothing is changed. The refusals say nothing of the run, and nothing of a newer token.

        Raises:
            RejectedError: `unknown_token`; `closed`, with the reason in words; `payload_lost`.
        """
        found = self.context.store.waits.find_wait(hash_secret(token))
        run = None if found is None else self.context.store.runs.summary(found.tenant, found.key.run_id)
        if found is None or run is None:
            message = "this link is unknown; it may be incomplete, or its run was deleted"
            raise RejectedError("unknown_token", message)
        visits = self.context.store.runs.visits(run.id)
        visit = next((visit for visit in visits if visit.id == found.key.visit_id), None)
        questions = [] if visit is None else questions_of(visit)
        reason = _reason_of_closing(found, run, visit, questions)
        if reason is not None:
            raise RejectedError("closed", reason)
        assert visit is not None
        return self._describe(found, run, visit, questions)

    def declared_answer(self, token: str) -> AnswerDeclaration | None:
        """Return the fields that an answer with a token must have, or None if it may be any value.

        Raises:
            RejectedError: `unknown_token`; `payload_lost`.
        """
        found = self.context.store.waits.find_wait(hash_secret(token))
        if found is None:
            raise unknown_token()
        return found.declared

    def _describe(
        self, found: TokenWait, run: RunSummary, visit: Visit, questions: Sequence[OpenQuestion]
    ) -> CallbackQuestion:
        question = next((question for question in questions if question.wait.id == found.key.id), None)
        if question is None:
            # The step has asked, and is not suspended yet: its journal has no title.
            return CallbackQuestion(answer=found.declared, expires_at=None, choices=[])
        step = self.context.store.plans.step(run.plan_hash, visit.step)
        return CallbackQuestion(
            title=question.content.get("title"),
            details=question.content.get("details"),
            answer=found.declared,
            expires_at=timestamp(question.wait.expires_at),
            choices=answer_choices(step, question.position, found.declared),
        )

    def record_heartbeat(self, token: str) -> None:
        """Record that an external worker is still working on the answer to a token.

        Raises:
            RejectedError: `unknown_token` and `closed`, as for an answer.
        """
        self.context.store.waits.record_heartbeat(hash_secret(token), self.context.clock())


def _reason_of_closing(
    found: TokenWait, run: RunSummary, visit: Visit | None, questions: Sequence[OpenQuestion]
) -> str | None:
    """Return why a wait accepts no answer any more, or None if it accepts one."""
    if found.answered_at is not None:
        return f"this question was answered on {_format_time(found.answered_at)}"
    if run.status.is_final:
        return "the run has ended, so it needs no answer any more"
    if visit is None or visit.finished_at is not None:
        return "the step has ended, so it needs no answer any more"
    if not found.is_closed:
        return None
    if questions:
        return "no answer arrived in time; if the step has asked again, a newer message has its link"
    return "no answer arrived in time, so the step does not wait any more"


def _format_time(seconds: float) -> str:
    text = timestamp(seconds)
    return f"{text[:10]} at {text[11:16]} UTC"
