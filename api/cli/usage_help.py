"""Commands and groups whose help, if an argument is missing, is written to stderr.

Typer writes the help of a command without its arguments to stdout, where programs expect results.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class UsageCommand(TyperCommand):
    """A command whose help is written to stderr if it is called without its arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _help_on_stderr(self, args):
            return super().parse_args(ctx, args)


class UsageGroup(TyperGroup):
    """A group whose help is written to stderr if it is called without a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _help_on_stderr(self, args):
            return super().parse_args(ctx, args)


def adopt_commands(app: typer.Typer) -> typer.Typer:
    """Let the group of an app and its commands write such a help to stderr. Return the app."""
    app.info.cls = UsageGroup
    for command in app.registered_commands:
        command.cls = UsageCommand
    return app


def _help_on_stderr(command: TyperCommand | TyperGroup, args: list[str]) -> Any:
    """Return the context in which arguments are parsed. Without them, what is written there is help."""
    return redirect_stdout(sys.stderr) if command.no_args_is_help and not args else nullcontext()
