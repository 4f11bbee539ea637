"""The report of imports finds levels, circles and upward imports, with and without the namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetl.infra import imports
from noetl.infra.imports import (
    PackageStructure,
    find_modules,
    find_packages,
    imports_against_layers,
    main,
    read_imports,
    structure_of,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A planner of four modules and a package, in three levels."""
    files = {
        "planner/__init__.py": "",
        "planner/text.py": "import re\n",
        "planner/tree.py": "from noetl.planner import text\nfrom planner.text import line\n",
        "planner/lone.py": "",
        "planner/draw/__init__.py": "",
        "planner/draw/dot.py": "import noetl.planner.tree\nfrom ..text import line\n",
        "planner/draw/svg.py": "def f():\n    from . import dot\n",
        "executor/__init__.py": "import planner.tree\n",
    }
    for path, text in files.items():
        write(tmp_path / path, text)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def structure(base: Path, package: str) -> PackageStructure:
    modules = find_modules(base)
    return structure_of(package, modules, list(read_imports(base, modules)))


def test_modules_are_on_the_level_above_all_that_they_import(base: Path) -> None:
    assert structure(base, "planner").levels == [["lone", "text"], ["tree"], ["draw"]]
    assert structure(base, "planner.draw").levels == [["dot"], ["svg"]]
    assert find_packages(find_modules(base)) == ["planner", "planner.draw"]


def test_the_import_that_closes_a_circle_is_upward(base: Path) -> None:
    write(base / "planner/text.py", "if TYPE_CHECKING:\n    import planner.draw.dot\n")
    [circle] = structure(base, "planner").circles
    assert circle == ["draw", "text", "tree"]
    [upward] = structure(base, "planner").upward
    assert str(upward) == "planner.text imports planner.draw.dot (planner/text.py:2)"


def test_an_import_of_a_higher_package_is_upward_even_in_a_function(base: Path) -> None:
    write(base / "planner/lone.py", "def f():\n    import noetl.executor\n")
    modules = find_modules(base)
    [upward] = imports_against_layers(read_imports(base, modules))
    assert str(upward) == "planner.lone imports executor (planner/lone.py:2, in a function)"


def test_the_command_fails_if_there_is_a_circle(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(imports, "BASE", base)
    assert main([]) == 0
    assert "planner: 4 modules and packages, 3 levels, 0 circles, 0 upward imports" in capsys.readouterr().out
    write(base / "planner/draw/dot.py", "import planner.draw.svg\n")
    assert main(["--faults", "planner/draw"]) == 1
    assert "circle in planner.draw: dot, svg" in capsys.readouterr().out
