"""The options of commands with which a run continues in another version of its playbook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from noetl.api.cli.display.console import CommandError
from noetl.planner.syntax.durations import parse_duration

if TYPE_CHECKING:
    from noetl.api.cli.access.run_access import RunAccess
    from noetl.api.service.compiler import PlanSource
    from noetl.api.service.switches import PlaybookChange
    from noetl.planner.plan import Plan

NewVersionOption = Annotated[
    str | None,
    typer.Option(
        "--playbook",
        metavar="NAME|FILE",
        help="With one id: continue in this file, or in NAME@VERSION. Without: only runs of this playbook.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="With --playbook: a value that the new version needs."),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="OLD=NEW", help="With --playbook: a step that has another name there."),
]
WaitOption = Annotated[
    str | None,
    typer.Option(
        "--wait", metavar="60s", help="With --playbook: hold the run until its running steps have ended."
    ),
]


class VersionOptions(NamedTuple):
    """The options `--playbook`, `--set`, `--map` and `--wait` as they were given."""

    playbook: str | None
    given: Sequence[str]
    renamed: Sequence[str]
    wait: str | None

    def check(self, *, starts_new_run: bool = False) -> None:
        """Check that the other options stand with `--playbook` only.

        Raises:
            CommandError: they stand without it, or a run is held that ends before a new one starts.
        """
        if self.wait and starts_new_run:
            raise CommandError("--wait holds a run that continues; a new run starts from one that has ended")
        if self.playbook is None and (self.given or self.renamed or self.wait):
            raise CommandError("--set, --map and --wait need --playbook FILE or NAME@VERSION")

    def read_change(self, runs: RunAccess, inputs: Mapping[str, Any], plan: Plan) -> PlaybookChange:
        """Return the change to the playbook that the options name. `plan` is the one that the run has.

        Raises:
            CommandError: an option is wrong, there is no such file, or the playbook has errors.
        """
        from noetl.api.cli.inputs import parse_input_pairs
        from noetl.api.service.switches import PlaybookChange

        found = _find_playbook(runs, self.playbook or "")
        declared = plan.header.inputs if found.plan is None else found.plan.header.inputs
        types = {name: input.type for name, input in declared.items()}
        given = {**inputs, **parse_input_pairs(self.given, types, option="--set")}
        return PlaybookChange(
            found.playbook, _parse_map(self.renamed), given, _parse_wait(self.wait), found.source
        )


class _FoundPlaybook(NamedTuple):
    """A playbook for a request, its plan if it was compiled here, and the path of its file."""

    playbook: PlanSource | Plan
    plan: Plan | None = None
    source: str | None = None


def _find_playbook(runs: RunAccess, text: str) -> _FoundPlaybook:
    from noetl.api.cli.sources import compile_or_fail, names_file, read_source
    from noetl.api.service.compiler import InlinePlaybook, PlaybookReference

    if names_file(text):
        source = read_source(text)
        plan = compile_or_fail(source)
        if runs.services is None:
            return _FoundPlaybook(InlinePlaybook(source.text), plan)
        return _FoundPlaybook(plan, plan, None if text == "-" else str(Path(text).resolve()))
    name, _, version = text.rpartition("@")
    reference = PlaybookReference(name, version) if name and version else PlaybookReference(text)
    return _FoundPlaybook(reference)


def _parse_map(pairs: Sequence[str]) -> dict[str, str]:
    """Return the new names of steps by their old ones.

    >>> _parse_map(["send=send_mail"])
    {'send': 'send_mail'}

    Raises:
        CommandError: a pair has no `=`, or a step stands twice.
    """
    renamed: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (equals and old and new):
            raise CommandError(f"--map must be OLD=NEW, not {pair!r}")
        if old in renamed:
            raise CommandError(f"--map names step `{old}` twice")
        renamed[old] = new
    return renamed


def _parse_wait(text: str | None) -> float:
    """Return the seconds of `--wait`.

    >>> _parse_wait("90s"), _parse_wait(None)
    (90.0, 0.0)

    Raises:
        CommandError: it is no duration.
    """
    try:
        return 0.0 if text is None else float(parse_duration(text))
    except ValueError as error:
        raise CommandError(f"--wait is `{text}`; it must be a duration such as 60s") from error
