"""The command line, `noetl`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and exit with its exit code."""
    try:
        # The import takes a moment, in which Ctrl-C may be pressed.
        from noetl.api.cli.app import run_app

        run_app()
    except KeyboardInterrupt:
        from noetl.api.cli.display.console import EXIT_INTERRUPTED

        sys.exit(EXIT_INTERRUPTED)
