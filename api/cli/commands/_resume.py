"""The command `noetl runs resume`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from noetl.api.cli.access.opening import UrlOption, open_runs
from noetl.api.cli.commands.run import InputFileOption, InputPairsOption
from noetl.api.cli.display.console import CommandError, print_message, write_json, write_stdout
from noetl.api.cli.list_pages import JsonOption
from noetl.api.cli.new_version import MapOption, NewVersionOption, SetOption, VersionOptions, WaitOption
from noetl.api.cli.run_changes import IdsArgument, QuietOption, change_each
from noetl.api.cli.run_filters import (
    FilterOptions,
    ParentOption,
    RunChange,
    SearchOption,
    SinceOption,
    StatusOption,
    TagOption,
    UntilOption,
    check_selection,
    select_runs,
)
from noetl.api.cli.run_ids import find_run
from noetl.api.cli.store_option import NO_QUEUE, StoreOption, is_without_queue
from noetl.api.cli.user_name import user_name

if TYPE_CHECKING:
    from noetl.api.cli.access.run_access import RunAccess
    from noetl.api.cli.display.outcome import RunCommandContext
    from noetl.api.service.changed_restarts import ChangedRestart
    from noetl.api.service.past_restarts import PastRestart
    from noetl.api.service.preview_views import ResumePreview
    from noetl.api.service.runs import ResumeRequest
    from noetl.api.service.switches import PlaybookChange
    from noetl.api.service.views import RunEntry
    from noetl.executor.model.run import Run
    from noetl.planner.continuation.verdict import Reason
    from noetl.planner.plan import Plan

    AnyRequest = ResumeRequest | PlaybookChange | PastRestart | ChangedRestart

FromOption = Annotated[
    str | None, typer.Option("--from", metavar="STEP", help="Start a new run at this step instead.")
]
DropSiblingsOption = Annotated[
    bool, typer.Option("--drop-siblings", help="With --from: the branches next to the step do not continue.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be done again, and its outside effects.")
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option(
        "--skip", metavar="STEP=JSON", help="Skip this failed or parked step: it has succeeded with JSON."
    ),
]

AllItemsOption = Annotated[
    bool, typer.Option("--all-items", help="Do all items of failed loops again, not only the open ones.")
]


def resume_runs(
    ids: IdsArgument = None,
    inputs: InputPairsOption = None,
    input_file: InputFileOption = None,
    step: FromOption = None,
    drop_siblings: DropSiblingsOption = False,
    skip: SkipOption = None,
    all_items: AllItemsOption = False,
    dry_run: DryRunOption = False,
    status: StatusOption = None,
    playbook: NewVersionOption = None,
    given: SetOption = None,
    renamed: MapOption = None,
    wait: WaitOption = None,
    tag: TagOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    parent: ParentOption = None,
    search: SearchOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With a filter: do not ask.")] = False,
    store: StoreOption = None,
    url: UrlOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Resume runs that crashed, failed or were stopped, with corrected input if given.

    A run continues with the playbook it was started with, also if the file has changed. With --playbook, it
    continues in another version, if the compiler can show that the run may do so.

    A filter selects runs of a service that failed or timed out, and cancelled ones if --status names them.

    With --from, start a new run at a step of a run that has ended, with the names that had values there.
    """
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file
    from noetl.api.cli.local.run_to_end import check_settings

    is_single = ids is not None and len(ids) == 1
    version = VersionOptions(playbook if is_single else None, given or (), renamed or (), wait)
    options = FilterOptions(status, None if is_single else playbook, tag, since, until, parent, search)
    check_selection(ids, options)
    changes = _ResumeOptions(step, drop_siblings, skip or (), dry_run, all_items)
    changes.check(is_single=is_single, has_input=bool(inputs or input_file))
    version.check(starts_new_run=step is not None)
    file_inputs = read_input_file(input_file) if input_file else {}
    check_settings()
    with open_runs(store, url) as runs:
        if not is_single:
            selected = select_runs(runs, RunChange.RESUME, ids or options, is_confirmed=yes)
            change_each(selected, partial(_resume_in_service, runs), "resumed", json=json)
            return
        plan = runs.plan((run := find_run(runs, (ids or [""])[0])).id)
        values = {**file_inputs, **parse_input_pairs(inputs or (), _input_types(plan))}
        request: AnyRequest = changes.build_request(values)
        if version.playbook is not None:
            request = changes.complete(version.read_change(runs, values, plan))
        if dry_run:
            show_preview(preview_request(runs, run.id, request), json=json)
            return
        resume_one(runs, run, plan, request, ResumeOutput(json, quiet))


def _input_types(plan: Plan) -> dict[str, str]:
    return {name: declared.type for name, declared in plan.header.inputs.items()}


class _ResumeOptions(NamedTuple):
    """The options that say what a resume in the same version does: `--from`, `--skip`, `--dry-run` …"""

    step: str | None
    drop_siblings: bool
    skip: Sequence[str]
    dry_run: bool
    all_items: bool

    def check(self, *, is_single: bool, has_input: bool) -> None:
        """Check that the options stand together, and with one run or with inputs.

        Raises:
            CommandError: they do not.
        """
        if not is_single and (has_input or self.step is not None):
            raise CommandError("inputs and --from need the id of one run")
        if self.skip and (not is_single or self.step is not None):
            raise CommandError("--skip continues one run; name its id, and leave out --from")
        if self.all_items and (not is_single or self.step is not None):
            raise CommandError("--all-items continues one run; name its id, and leave out --from")
        if self.dry_run and not is_single:
            raise CommandError("--dry-run needs the id of one run")
        if self.drop_siblings and self.step is None:
            raise CommandError("--drop-siblings needs --from")

    def build_request(self, values: Mapping[str, Any]) -> ResumeRequest:
        """Return the request, with corrected values of inputs."""
        from noetl.api.service.runs import ResumeRequest

        skips = parse_skips(self.skip)
        return ResumeRequest(
            values,
            self.step,
            drops_siblings=self.drop_siblings,
            skips=skips,
            caller=user_name(),
            all_items=self.all_items,
        )

    def complete(self, change: PlaybookChange) -> PlaybookChange | ChangedRestart:
        """Return a change to another version in which steps are skipped, or in which a new run starts."""
        from noetl.api.service.changed_restarts import ChangedRestart

        if self.step is not None:
            return ChangedRestart(change, self.step, drops_siblings=self.drop_siblings)
        skips = parse_skips(self.skip)
        change = replace(change, skips=skips, caller=user_name()) if skips else change
        return replace(change, all_items=self.all_items)


def parse_skips(options: Sequence[str]) -> dict[str, Any]:
    """Return the results of steps by their names.

    >>> parse_skips(["load=[1, 2]"])
    {'load': [1, 2]}

    Raises:
        CommandError: an option is not STEP=JSON, or names a step twice.
    """
    import json

    skips: dict[str, Any] = {}
    for option in options:
        step, is_pair, text = option.partition("=")
        if not is_pair or step in skips:
            raise CommandError(f"--skip {option}: must be STEP=JSON, once for each step")
        try:
            skips[step] = json.loads(text)
        except ValueError as problem:
            raise CommandError(f"--skip {step}: the result is not JSON: {problem}") from problem
    return skips


def preview_request(runs: RunAccess, run_id: str, request: AnyRequest) -> ResumePreview:
    """Return what a resume would do again, in the version of the run or in another one."""
    from noetl.api.service.switches import PlaybookChange

    if isinstance(request, PlaybookChange):
        return runs.preview_switch(run_id, request)
    return runs.preview_resume(run_id, request)


def show_preview(preview: ResumePreview, *, json: bool) -> None:
    """Write what a resume would do again."""
    from noetl.api.cli.display.resume_preview import count_repeated, format_preview
    from noetl.api.service.views import to_json

    if json:
        write_json(preview)
        return
    data = to_json(preview)
    for notice in data.get("verdict", {}).get("notices", ()):
        line = "" if notice["line"] is None else f" (line {notice['line']})"
        print_message(f"note: {notice['code']}: {notice['message']}{line}")
    write_stdout(format_preview(data))
    count = count_repeated(data)
    effects = "1 outside effect" if count == 1 else f"{count:,} outside effects"
    subject = "a new run may start" if data["starts_new_run"] else "the run may continue"
    may = f"{subject} in this version; " if "verdict" in data else ""
    print_message(f"{may}nothing was done; {effects} may be repeated")


class ResumeOutput(NamedTuple):
    """The form of what a command writes: JSON for programs, or only errors."""

    json: bool
    quiet: bool


def resume_one(runs: RunAccess, run: Run, plan: Plan, request: AnyRequest, output: ResumeOutput) -> None:
    """Resume a run, or start one from it: a local one in this process, another one in its service."""
    from noetl.api.cli.display.outcome import RunCommandContext
    from noetl.api.service.switches import PlaybookChange

    services = runs.services
    if services is not None and run.origin == "local":
        _resume_here(RunCommandContext(services, output.json, output.quiet), run, plan, request)
        return
    if isinstance(request, PlaybookChange):
        entry = runs.switch(run.id, request)
    else:
        entry = runs.resume(run.id, request)
    if output.json:
        write_json(entry)
    else:
        print_message(
            f"run {entry.workflow_id} is {entry.status.value}; the workers of its service execute it"
        )
    if services is not None and is_without_queue(services.store):
        print_message(NO_QUEUE)


def _resume_in_service(runs: RunAccess, run_id: str) -> RunEntry:
    """Resume a run of a service, one of several, and return it.

    Raises:
        CommandError: the run was started from a local file, or has not ended.
    """
    from noetl.api.service.runs import ResumeRequest

    run = runs.get(run_id)
    if runs.services is not None and run.origin == "local":
        raise CommandError(f"run {run_id} was started from a local file; resume it by itself")
    if not run.status.is_final:
        raise CommandError(f"run {run_id} has not ended")
    return runs.resume(run_id, ResumeRequest())


def _resume_here(context: RunCommandContext, run: Run, plan: Plan, request: AnyRequest) -> None:
    """Resume a local run, or start one from it, and execute it in this process."""
    from noetl.api.cli.display.event_follower import EventFollower
    from noetl.api.cli.local.run_to_end import check_readable, run_to_end
    from noetl.api.cli.sources import has_changed
    from noetl.api.service.changed_restarts import ChangedRestart
    from noetl.api.service.past_restarts import PastRestart
    from noetl.api.service.runs import ResumeRequest

    if isinstance(request, PastRestart):
        run_to_end(context, context.services.past_restarts.start(run.id, request), plan, None)
        return
    if isinstance(request, ChangedRestart):
        started, notices = context.services.changed_restarts.start(run.id, request)
        _show_notices(notices, context)
        run_to_end(context, started, context.store.plans.get(started.plan_hash), None)
        return
    check_readable(context.store, run)
    follower = None
    if not isinstance(request, ResumeRequest) or request.step is None:
        follower = EventFollower(context.store.runs, run)
        follower.skip_past_events()
    if not isinstance(request, ResumeRequest):
        resumed, notices = context.services.switches.switch(run.id, request)
        _show_notices(notices, context)
        run_to_end(context, resumed, context.store.plans.get(resumed.plan_hash), follower)
        return
    resumed = context.services.runs.resume(run.id, request)
    if resumed.source is not None and not context.quiet and has_changed(resumed.source, plan):
        file = Path(resumed.source).name
        print_message(
            f"{file} has changed; the run continues with the playbook it was started with."
            f" `noetl runs resume {resumed.id} --playbook {file}` lets it continue in the file"
        )
    run_to_end(context, resumed, plan, follower)


def _show_notices(notices: Iterable[Reason], context: RunCommandContext) -> None:
    """Write the notices of the verdict on another version."""
    from noetl.api.service.restarts import describe_reasons

    for notice in () if context.quiet else notices:
        print_message(f"note: {describe_reasons([notice])}")
