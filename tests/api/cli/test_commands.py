"""Every command and option is on the page about them, and every command says by example how it is called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from noetl.api.cli.app import app
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "commands.md").read_text("utf-8")


def commands(command: Any, name: str = "noetl") -> Iterator[tuple[str, Any]]:
    """All commands that are no groups, with their names."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
    for word, one in (inner or {}).items():
        yield from commands(one, f"{name} {word}")


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_on_the_page(name: str) -> None:
    assert f"| `{name}" in PAGE
    for parameter in COMMANDS[name].params:
        for option in parameter.opts if parameter.opts[0].startswith("-") else ():
            assert f"{option}`" in PAGE or f"{option} " in PAGE, option


@pytest.mark.parametrize("name", COMMANDS)
def test_it_has_an_example(name: str) -> None:
    assert COMMANDS[name].epilog.startswith(f"Example: {name}")


def test_the_page_lists_every_example() -> None:
    files = sorted((ROOT / "examples").glob("*.yaml"))
    assert [file.name for file in files if f"](../examples/{file.name})" not in PAGE] == []
