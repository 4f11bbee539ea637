"""Output of the commands: results go to stdout, everything else to stderr, an error as one sentence."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from noetl.planner.diagnostics.render import StyledText

EXIT_FAILED = 1
"""Exit code if the run did not succeed, or the playbook has errors."""

EXIT_USAGE = 2
"""Exit code for wrong usage, unreadable input, or a store or port that is not available."""

EXIT_INTERRUPTED = 130


class CommandError(Exception):
    """An error that ends the command. The message is for the user, `exit_code` for the shell."""

    def __init__(self, message: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def stderr_console() -> Console:
    """Return a console on stderr. It has colours on a terminal, unless `NO_COLOR` is set."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


def print_message(text: str) -> None:
    """Print one line to stderr, with terminal control characters made visible."""
    from noetl.planner.diagnostics.terminal_text import to_printable

    sys.stderr.write(to_printable(text) + "\n")
    sys.stderr.flush()


def damage_remedy(run_id: str) -> str:
    """Return what a person can do with a damaged run."""
    return f"Repair it and run `noetl doctor --fix`, or delete it with `noetl runs delete {run_id}`."


def print_report(fragments: Iterable[StyledText], console: Console | None = None) -> None:
    """Print the fragments of a report to stderr, with colours on a terminal."""
    from rich.text import Text

    text = Text.assemble(*((fragment.text, fragment.style) for fragment in fragments))
    (console or stderr_console()).print(text, end="")


def write_stdout(text: str) -> None:
    """Write lines to stdout, with terminal control characters made visible, and flush."""
    from noetl.planner.diagnostics.terminal_text import to_printable_lines

    sys.stdout.write(to_printable_lines(text))
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write a view or a JSON value to stdout as indented JSON."""
    from noetl.api.service.views import members
    from noetl.planner.diagnostics.terminal_text import format_json

    write_stdout(format_json(value, members))


def write_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows of cells to stdout, in columns. On a terminal, no line is wider than it."""
    from noetl.api.cli.display.table import layout_table

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in layout_table(rows, width):
        write_stdout(f"{line}\n")
