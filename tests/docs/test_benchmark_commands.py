"""The documentation names commands of `benchmarks/` that exist, with options that they have."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "benchmarks" / "README.md"
PAGES = (TABLE, *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "Makefile", ROOT / "noxfile.py")
COMMAND = re.compile(r"`(?:python -m )?(benchmarks(?:\.\w+)*(?: [^`]*)?)`")
PROCESSES = {"benchmarks.answers", "benchmarks.page_clients"}
"""Commands that are processes of other benchmarks."""


def find_commands() -> list[str]:
    texts = (" ".join(path.read_text("utf-8").split()) for path in PAGES)
    return sorted({command for text in texts for command in COMMAND.findall(text)})


def find_file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


class ParsedError(Exception):
    """The arguments of a command were accepted."""


def test_commands_are_found() -> None:
    commands = find_commands()
    assert len(commands) > 40
    assert {"benchmarks", "benchmarks.lists filters", "benchmarks.retention 100"} <= {*commands}


@pytest.mark.parametrize("command", find_commands())
def test_a_command_of_the_documentation_exists(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *arguments = shlex.split(command)
    assert '__name__ == "__main__"' in find_file(module).read_text("utf-8")
    if not arguments:
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*arguments: Any) -> None:
        parse(*arguments)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    is_package = find_file(module).name == "__main__.py"
    loaded = importlib.import_module(f"{module}.__main__" if is_package else module)
    with pytest.raises(ParsedError):
        loaded.main()


def test_the_table_has_each_benchmark() -> None:
    commands = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in ROOT.glob("benchmarks/**/*.py")
        if '__name__ == "__main__"' in path.read_text("utf-8")
    }
    named = set(re.findall(r"^\| `([\w.]+)", TABLE.read_text("utf-8"), re.MULTILINE))
    assert commands - PROCESSES - named == set()
