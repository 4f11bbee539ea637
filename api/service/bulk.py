"""The service that cancels, pauses, unpauses, resumes, migrates or deletes many runs with one request.

Problem: after an outage, hundreds of runs must be resumed. One request cannot wait for all of them, and one
run that refuses must not stop the others. A request whose response was lost is sent again.

Algorithm: a request changes a page of runs, one after the other, and reports those that were skipped with the
reason. Its cursor continues behind them. A repeated request changes nothing, except for a resumption: a run
may have failed again in between. An idempotency key resumes each run once.

Cost: one change for each run of a page; with an idempotency key, one read more. A deletion of named runs
reads them before.

Limits: MAX_RUNS runs for each request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from noetl.api.service.errors import NotFoundError
from noetl.api.service.run_lists import RunListService
from noetl.api.service.runs import ResumeRequest, RunService
from noetl.api.service.switches import PlaybookChange, SwitchService
from noetl.api.service.views import BulkReport, SkippedRun
from noetl.executor.errors import DamagedRunError, RejectedError, UnknownRunError
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import OPEN_STATUSES, RunFilter
from noetl.planner.frozen import frozen, replace

if TYPE_CHECKING:
    from noetl.executor.engine.switching import Judge

MAX_RUNS = 100
"""The number of runs that one request changes at most."""

_RESUMABLE = (RunStatus.FAILED, RunStatus.COMPLETED_WITH_ERRORS, RunStatus.TIMED_OUT)
"""The statuses of the runs that a filter without statuses resumes.

Cancelled and skipped runs were ended on purpose.
"""


@frozen
class BulkService:
    """Changes of many runs of one tenant. Runs are named by their ids, or selected by a filter."""

    runs: RunService
    lists: RunListService
    switches: SwitchService

    def cancel(self, selection: Sequence[str] | RunFilter) -> BulkReport:
        """Cancel runs, of a filter without statuses those that have not ended.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        return self._change(selection, tuple(OPEN_STATUSES), self.runs.cancel)

    def resume(self, selection: Sequence[str] | RunFilter, idempotency_key: str | None = None) -> BulkReport:
        """Resume runs, of a filter without statuses those that failed, timed out or completed with errors.

        The same `idempotency_key` resumes a run once. A run that it has resumed counts as accepted.

        Raises:
            RejectedError: `invalid_cursor`.
        """

        def resume(run_id: str) -> None:
            key = None if idempotency_key is None else _key_of_run(idempotency_key, run_id)
            if self.runs.has_request(key):
                return
            if not self.runs.summary(run_id).status.is_final:
                raise RejectedError("not_ended", f"run {run_id} has not ended")
            self.runs.resume(run_id, ResumeRequest(idempotency_key=key))

        return self._change(selection, _RESUMABLE, resume)

    def delete(self, selection: Sequence[str] | RunFilter) -> BulkReport:
        """Delete runs, of a filter without statuses all that have ended.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ended = [status for status in RunStatus if status.is_final]
        unknown: set[str] = set()
        if not isinstance(selection, RunFilter):
            unknown = {run_id for run_id in selection if not self.runs.exists(run_id)}
        report = self._change(selection, ended, self.runs.delete)
        # A child run may have been deleted with the run that has started it, before its turn or after.
        skipped = [
            entry
            for entry in report.skipped
            if entry.workflow_id in unknown or self.runs.exists(entry.workflow_id)
        ]
        accepted = report.accepted + len(report.skipped) - len(skipped)
        return BulkReport(accepted=accepted, skipped=skipped, next_cursor=report.next_cursor)

    def pause(self, selection: Sequence[str] | RunFilter, caller: str | None = None) -> BulkReport:
        """Pause runs, of a filter without statuses those that have not ended and are not paused.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        statuses = tuple(OPEN_STATUSES - {RunStatus.PAUSED})
        return self._change(selection, statuses, lambda run_id: self.runs.pause(run_id, caller))

    def unpause(self, selection: Sequence[str] | RunFilter, caller: str | None = None) -> BulkReport:
        """Let runs continue, of a filter without statuses those that are paused.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        return self._change(selection, (RunStatus.PAUSED,), lambda run_id: self.runs.unpause(run_id, caller))

    def migrate(
        self,
        selection: Sequence[str] | RunFilter,
        change: PlaybookChange,
        judge: Judge | None = None,
        *,
        is_dry_run: bool = False,
    ) -> BulkReport:
        """Let open runs continue in another version. A filter selects runs of the playbook.

        Each shape of state is judged once. A dry run changes nothing, and counts the runs that may continue.
        A run that has this version already is accepted.

        Raises:
            NotFoundError: the registry has no such playbook.
            PlaybookError: the playbook does not compile.
            RejectedError: `invalid_cursor`; `other_playbook`, if the filter names another one.
        """
        request = self.switches.prepare(change)
        switcher = self.switches.bulk_switcher(judge)

        def migrate(run_id: str) -> None:
            run = self.runs.controllable_run(run_id, "resume")
            if run.status.is_final:
                raise RejectedError("finished", f"run {run_id} has ended; resume it with `playbook`")
            if run.plan_hash == request.plan.hash:
                return
            if is_dry_run:
                self.switches.check(run, request, switcher)
            else:
                self.switches.switch_prepared(run, change, request, switcher)

        if isinstance(selection, RunFilter):
            selection = _select_playbook(selection, request.plan.header.name)
        return self._change(selection, tuple(OPEN_STATUSES), migrate)

    def undo_migration(
        self, selection: Sequence[str] | RunFilter, caller: str | None = None, *, is_dry_run: bool = False
    ) -> BulkReport:
        """Let open runs be as they were before their last switch. A dry run counts those that can.

        Raises:
            RejectedError: `invalid_cursor`.
        """

        def undo(run_id: str) -> None:
            self.switches.undo(run_id, caller, is_dry_run=is_dry_run)

        return self._change(selection, tuple(OPEN_STATUSES), undo)

    def _change(
        self,
        selection: Sequence[str] | RunFilter,
        statuses: Sequence[RunStatus],
        change: Callable[[str], object],
    ) -> BulkReport:
        cursor = None
        if isinstance(selection, RunFilter):
            wanted = replace(selection, statuses=selection.statuses or statuses, limit=MAX_RUNS)
            ids, cursor = self.lists.find_ids(wanted)
        else:
            ids = list(dict.fromkeys(selection))
        skipped = []
        for run_id in ids:
            try:
                change(run_id)
            except (NotFoundError, UnknownRunError) as error:
                skipped.append(SkippedRun(workflow_id=run_id, reason="not-found", detail=str(error)))
            except RejectedError as error:
                reason = error.reason.replace("_", "-")
                skipped.append(SkippedRun(workflow_id=run_id, reason=reason, detail=error.message))
            except DamagedRunError as error:
                skipped.append(SkippedRun(workflow_id=run_id, reason="run-damaged", detail=error.message))
        return BulkReport(accepted=len(ids) - len(skipped), skipped=skipped, next_cursor=cursor)


def _key_of_run(idempotency_key: str, run_id: str) -> str:
    """Return the key with which a bulk request resumes a run."""
    return f"bulk {hashlib.sha256(f'{idempotency_key} {run_id}'.encode()).hexdigest()}"


def _select_playbook(run_filter: RunFilter, name: str) -> RunFilter:
    """Return a filter of the runs of a playbook.

    Raises:
        RejectedError: `other_playbook`, if the filter names another one.
    """
    if run_filter.playbook not in (None, name):
        message = (
            f"the runs are those of playbook `{run_filter.playbook}`, and the version is one of `{name}`"
        )
        raise RejectedError("other_playbook", f"{message}; give both the same `name`")
    return replace(run_filter, playbook=name)
