"""What the pages and the generator say of the language is held to the language."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from noetl.executor.actions import catalogue
from noetl.infra.reference import PAGES, ROOT, _methods_by_word, main, written
from noetl.infra.reference_words import CONSTRUCTS, FILTERS, KEYS, METHODS_OF
from noetl.planner.templates import filters

FAILING = re.compile(
    r"""(?:ActionError|EvaluationError|error_record)\(\s*(?:(?:scope\.)?visit,\s*)?"([A-Z]\w+)\""""
)


@pytest.mark.parametrize("page", PAGES)
def test_the_generated_parts_are_current(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert written(text) == text, "run `python -m noetl.infra.reference`"


def test_the_generator_mends_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noetl.infra.reference.ROOT", tmp_path)
    for page in PAGES:
        target = tmp_path / page
        target.parent.mkdir(exist_ok=True)
        current = (ROOT / page).read_text("utf-8")
        target.write_text(re.sub(r"^\| .*\n", "", current, flags=re.MULTILINE), "utf-8")
    main()
    for page in PAGES:
        mended = (tmp_path / page).read_text("utf-8")
        assert mended == written(mended)
        assert mended.count("\n| ---") > 5


def test_every_key_has_a_meaning() -> None:
    keys = {
        (construct, field.alias or name)
        for construct, model in CONSTRUCTS.items()
        for name, field in model.model_fields.items()
    }
    assert set(KEYS) == keys


def test_every_filter_of_ours_has_a_meaning() -> None:
    assert set(FILTERS) == {name for name in filters.FILTERS if " " not in name}


def test_the_methods_are_those_of_the_sandbox() -> None:
    assert {word for word, _ in _methods_by_word()} == set(METHODS_OF.values())


def test_every_type_of_error_is_described() -> None:
    section = (
        (ROOT / "docs/language.md").read_text("utf-8").partition("### Error types")[2].partition("\n## ")[0]
    )
    raised = {
        name
        for path in (ROOT / "executor").rglob("*.py")
        for name in FAILING.findall(path.read_text("utf-8"))
    }
    assert len(raised) > 10
    assert {name for name in raised if f"`{name}`" not in section} == set()


def test_every_action_has_a_section() -> None:
    page = (ROOT / "docs/actions.md").read_text("utf-8")
    sections = set(catalogue())
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == sections
    assert set(re.findall(r"<!-- generated: action (\w+) -->", page)) == sections
