"""The parameters that the commands on runs share, and the change of several runs by one command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated

import typer

from noetl.api.cli.display.console import (
    EXIT_FAILED,
    CommandError,
    damage_remedy,
    print_message,
    write_json,
)

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID…", help="Ids of runs, their first characters, or `last`.")
]
IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The id of a run, its first characters, or `last`.")
]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print only errors.")]


def change_each(
    run_ids: Sequence[str],
    change: Callable[[str], object],
    done: str | None = None,
    *,
    json: bool = False,
    may_end: bool = False,
) -> None:
    """Change runs, and print which were changed and which were refused.

    `done` is what they are then; None means the status that the change returns. With `may_end`, a final
    status replaces it. A run that does not exist any more was deleted together with the one that has started
    it. With `json`, write what the change returns.

    Raises:
        CommandError: a run was refused; the others have been changed.
    """
    from noetl.api.service.errors import NotFoundError
    from noetl.api.service.views import CurrentStatus
    from noetl.executor.errors import DamagedRunError, RejectedError
    from noetl.executor.model.run import RunStatus

    refused = 0
    for run_id in run_ids:
        changed = None
        try:
            with suppress(NotFoundError):
                changed = change(run_id)
        except (RejectedError, CommandError, DamagedRunError) as refusal:
            if len(run_ids) == 1:
                if isinstance(refusal, DamagedRunError):
                    raise
                raise CommandError(str(refusal), EXIT_FAILED) from refusal
            refused += 1
            remedy = f" {damage_remedy(run_id)}" if isinstance(refusal, DamagedRunError) else ""
            print_message(f"noetl: {refusal}{remedy}")
            continue
        if json and changed is not None:
            write_json(changed)
        elif isinstance(changed, CurrentStatus) and (done is None or (may_end and changed.status.is_final)):
            print_message(f"run {run_id} is {changed.status.value}")
        elif isinstance(changed, CurrentStatus) and changed.ending not in (None, RunStatus.CANCELLED):
            print_message(
                f"run {run_id} is already ending as {changed.ending}; its last steps are not cancelled"
            )
        else:
            print_message(f"run {run_id} is {done or 'deleted'}")
    if refused:
        raise CommandError(f"{refused:,} of {len(run_ids):,} runs were refused", EXIT_FAILED)
