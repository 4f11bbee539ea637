"""The command line `noetl`: its commands, and the report of an error in one of them.

Each module of `commands/` declares one command, or a group of commands, in its own `app`. A module whose name
begins with `_` holds a command of a group.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from noetl.api.cli import commands
from noetl.api.cli.display.console import (
    EXIT_FAILED,
    EXIT_USAGE,
    CommandError,
    damage_remedy,
    print_message,
    write_stdout,
)
from noetl.api.cli.setting_check import warn_about_unknown_settings
from noetl.api.cli.usage_help import UsageGroup, adopt_commands

FIRST_COMMANDS = ("check", "plan", "run", "runs", "submit", "serve", "worker")
"""The commands that `noetl --help` lists first. The others follow in the order of the alphabet."""

app = typer.Typer(
    name="noetl",
    cls=UsageGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _command_names() -> list[str]:
    """Return the modules of `api/cli/commands`: those of FIRST_COMMANDS, then the others by name."""
    modules = (module.name for module in pkgutil.iter_modules(commands.__path__))
    names = sorted(name for name in modules if not name.startswith("_"))
    return [*FIRST_COMMANDS, *(name for name in names if name not in FIRST_COMMANDS)]


for _name in _command_names():
    app.add_typer(adopt_commands(import_module(f"{commands.__name__}.{_name}").app))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        write_stdout(f"noetl {version('noetl')}\n")
        raise typer.Exit


@app.callback(epilog="Example: noetl run deploy.yaml -i region=eu")
def noetl(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Compile YAML playbooks into checked graphs, and run them durably, step by step."""


def run_app() -> NoReturn:
    """Run the command line and exit. An error is one sentence on stderr, never a traceback.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Otherwise the next opened file, such as the store, gets the descriptor of a closed stream.
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        # A character that the encoding of the terminal cannot express must not fail the command.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        warn_about_unknown_settings(os.environ)
        exit_code = app(prog_name="noetl", standalone_mode=False)
    except Exception as error:  # noqa: BLE001  The last resort.
        if os.environ.get("NOETL_DEBUG") == "1":
            import traceback

            traceback.print_exc()
        sys.exit(_report(error))
    sys.exit(exit_code or 0)


def _report(error: Exception) -> int:
    """Print the error, and return the exit code."""
    if isinstance(error, typer.TyperException):
        from noetl.api.cli.usage_errors import describe_usage_error

        sentence = describe_usage_error(error)
        if sentence is not None:
            print_message(f"noetl: {sentence}")
        return EXIT_USAGE
    from noetl.executor.errors import (
        DamagedRunError,
        RejectedError,
        SettingError,
        StoreError,
        UnknownRunError,
    )

    if isinstance(error, CommandError):
        for sentence in str(error).split("\n"):
            print_message(f"noetl: {sentence}")
        return error.exit_code
    if isinstance(error, RejectedError | SettingError | StoreError | OSError):
        is_of_store = isinstance(error, StoreError) and not isinstance(
            error, UnknownRunError | DamagedRunError
        )
        hint = " Set the store with NOETL_STORE or --store." if is_of_store else ""
        if isinstance(error, DamagedRunError) and error.run_id is not None:
            hint = f" {damage_remedy(error.run_id)}"
        text = str(error)
        print_message(f"noetl: {text}{'.' if hint and not text.endswith('.') else ''}{hint}")
        return EXIT_USAGE
    description = f"{type(error).__name__}: {error}".rstrip(": ")
    report = "Please report it; NOETL_DEBUG=1 prints the traceback."
    print_message(f"noetl: NP900 internal error: {description}. {report}")
    return EXIT_FAILED
