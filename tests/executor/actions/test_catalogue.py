from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from noetl.executor import actions
from noetl.executor.errors import SettingError
from noetl.testing.actions import check_declaration
from tests.action_calls import perform_action
from tests.style.source import ROOT


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, EntryPoint]]:
    """Entry points that seem to be installed."""
    found: dict[str, EntryPoint] = {}
    monkeypatch.setattr(actions, "_plugins", lambda: found)
    monkeypatch.syspath_prepend(tmp_path)
    actions.catalogue.cache_clear()
    actions.handler.cache_clear()
    yield found
    monkeypatch.undo()
    actions.catalogue.cache_clear()
    actions.handler.cache_clear()


def install(folder: Path, plugins: dict[str, EntryPoint], name: str, text: str) -> None:
    (folder / f"plugin_{name}.py").write_text(text)
    plugins[name] = EntryPoint(name, f"plugin_{name}", actions.ENTRY_POINTS)


@pytest.mark.parametrize("action_type", actions.catalogue())
def test_the_declaration_of_every_type_is_consistent(action_type: str) -> None:
    declaration = actions.catalogue()[action_type]
    assert declaration.type == action_type
    assert callable(actions.handler(action_type))
    check_declaration(declaration)


def test_every_type_has_a_section_in_the_documentation() -> None:
    headings = Path(ROOT, "docs", "reference", "actions.md").read_text("utf-8").splitlines()
    assert {f"## {name}" for name in actions.catalogue()} <= {*headings}


def test_an_unknown_type_has_no_handler() -> None:
    with pytest.raises(KeyError):
        actions.handler("nothing")
    with pytest.raises(KeyError):
        actions.handler("action")


def test_declarations_import_no_heavy_packages() -> None:
    code = (
        "import sys; from noetl.executor.actions import catalogue; catalogue();"
        "heavy = {'httpx', 'psycopg', 'pydantic', 'networkx', 'boto3', 'jinja2', 'yaml'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_plugin_adds_a_type(plugins: dict[str, EntryPoint], tmp_path: Path) -> None:
    text = (
        "from noetl.planner.catalogue import ActionDeclaration\n"
        "DECLARATION = ActionDeclaration(type='greet', description='Greets.')\n"
        "def perform(call): return 'hello'\n"
    )
    install(tmp_path, plugins, "greet", text)
    assert actions.catalogue()["greet"].description == "Greets."
    assert perform_action("greet") == "hello"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad", "raise RuntimeError('broken')", "cannot be loaded: broken"),
        ("bare", "", "cannot be loaded"),
        ("http", "", "built-in action type"),
        (
            "other",
            (
                "from noetl.planner.catalogue import ActionDeclaration\n"
                "DECLARATION = ActionDeclaration('another', '')"
            ),
            "declares the type `another`",
        ),
    ],
)
def test_the_error_of_an_invalid_plugin_names_it(
    plugins: dict[str, EntryPoint], tmp_path: Path, name: str, text: str, message: str
) -> None:
    install(tmp_path, plugins, name, text)
    with pytest.raises(SettingError, match=message):
        actions.catalogue()
