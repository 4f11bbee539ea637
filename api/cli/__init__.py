"""The command line, `noetl`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and leave the interpreter with its exit code."""
    try:
        # It takes a moment to load, and may be asked to end meanwhile.
        from noetl.api.cli.app import run_app

        run_app()
    except KeyboardInterrupt:
        from noetl.api.cli.display.console import INTERRUPTED

        sys.exit(INTERRUPTED)
