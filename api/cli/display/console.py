"""How commands speak: results to stdout, everything else to stderr, refusals as one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noetl.planner.diagnostics.render import Fragment
    from rich.console import Console

FAILED = 1
"""The run did not succeed, or the playbook has errors."""

MISUSED = 2
"""Wrong usage, input that cannot be read, or a store or port that cannot be had."""

INTERRUPTED = 130


class RefusalError(Exception):
    """A command ends here. The message is a sentence for the user; `exit_code` is what the shell sees."""

    def __init__(self, message: str, exit_code: int = MISUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def stderr_console() -> Console:
    """A console on stderr, coloured when that is a terminal and `NO_COLOR` is not set."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


def say(text: str) -> None:
    """Print one line to stderr, with nothing in it that a terminal would obey."""
    from noetl.planner.diagnostics.terminal_text import visible

    sys.stderr.write(visible(text) + "\n")
    sys.stderr.flush()


def show(fragments: Iterable[Fragment], console: Console | None = None) -> None:
    """Print fragments of a report to stderr, styled where there are colours."""
    from rich.text import Text

    text = Text.assemble(*((fragment.text, fragment.style) for fragment in fragments))
    (console or stderr_console()).print(text, end="")


def write(text: str) -> None:
    """Write text to stdout, all of it, as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """Write a value to stdout as indented JSON."""
    write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
