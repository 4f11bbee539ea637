"""The command line, `noetl`."""

from __future__ import annotations


def main() -> None:
    """Run the command that the arguments name, and leave the interpreter with its exit code."""
    from api.cli.app import run_app

    run_app()
