"""The names of triggers as arguments of commands: `PLAYBOOK/NAME`."""

from __future__ import annotations

from typing import Annotated

import typer

from noetl.api.cli.display.console import CommandError

TriggerArgument = Annotated[
    str, typer.Argument(metavar="PLAYBOOK/NAME", help="A trigger, by its playbook and its name.")
]


def split_trigger(trigger: str) -> tuple[str, str]:
    """Return the playbook and the name of a trigger.

    >>> split_trigger("team/close_month/nightly")
    ('team/close_month', 'nightly')

    Raises:
        CommandError: the text has no slash between two names.
    """
    playbook, _, name = trigger.rpartition("/")
    if not playbook or not name:
        raise CommandError(f"a trigger is named PLAYBOOK/NAME, such as close_month/nightly, not {trigger}")
    return playbook, name
