"""Every command and option is in docs/reference/commands.md, and every command has an example."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from noetl.api.cli.app import app

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")


def commands(command: Any, name: str = "noetl") -> Iterator[tuple[str, Any]]:
    """Yield all commands below a group, with their full names."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
    for word, subcommand in (inner or {}).items():
        yield from commands(subcommand, f"{name} {word}")


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_in_the_documentation(name: str) -> None:
    assert f"| `{name}" in PAGE
    for parameter in COMMANDS[name].params:
        for option in parameter.opts if parameter.opts[0].startswith("-") else ():
            assert f"{option}`" in PAGE or f"{option} " in PAGE, option


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_an_example(name: str) -> None:
    assert COMMANDS[name].epilog.startswith(f"Example: {name}")


def test_the_page_lists_every_example() -> None:
    files = sorted((ROOT / "examples").glob("*.yaml"))
    assert [file.name for file in files if f"](../../examples/{file.name})" not in PAGE] == []
