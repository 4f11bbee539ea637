"""Tests of the sizes of packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetl.infra.sizes import main, measure

CODE = """
class Base:
    def read(self): ...
    def _open(self): ...

class Part(Base):
    def write(self, a, b, *, c):
        return a

class _Hidden:
    def shown(self): ...

async def run(first):
    def inner(x, y, z, w): ...
    return inner
def _private(a, b): ...
"""


def test_a_package_is_measured_from_its_text(tmp_path: Path) -> None:
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "package" / "a.py").write_text(CODE)
    (tmp_path / "package" / "inner" / "b.py").write_text("import does_not_exist\n")
    size = measure(tmp_path, "package")
    assert (size.modules, size.lines, len(size.classes)) == (2, CODE.count("\n") + 1, 3)
    assert size.public_functions == 3
    assert size.widest_class() == (2, "Part")
    assert size.deepest_class() == (3, "Part")
    assert size.longest_function == (3, "run")
    assert size.most_parameters == (3, "Part.write")


def test_the_table_has_a_row_for_each_existing_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.py").write_text("def f(): ...\n")
    main(["--root", str(tmp_path), "a.py", "missing"])
    heading, _, row = capsys.readouterr().out.splitlines()
    assert heading.startswith("| package | modules |")
    assert row.startswith("| a.py | 1 | 1 | 0 | 1 |")


def test_no_class_of_a_store_has_more_than_twenty_public_methods() -> None:
    size = measure(Path(__file__).parents[2], "executor/stores")
    assert {"SqliteStore", "PostgresStore", "DynamoStore", "MemoryStore"} <= size.classes.keys()
    assert size.widest_class()[0] <= 20, size.widest_class()
