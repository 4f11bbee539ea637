"""The reference in the documentation agrees with the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from noetl.executor.actions import catalogue
from noetl.infra.reference import PAGES, ROOT, main, methods_by_type, render_page
from noetl.infra.reference_text import CONSTRUCTS, FILTERS, KEYS, METHODS_OF
from noetl.planner.checks.triggers import TRIGGER_ATTRIBUTES
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.planner.syntax.models import TriggerDeclaration
from noetl.planner.templates import filters

ERROR_TYPE = re.compile(
    r"""(?:ActionError|EvaluationError|error_record)\(\s*(?:(?:scope\.)?visit,\s*)?"([A-Z]\w+)\""""
)


@pytest.mark.parametrize("page", PAGES)
def test_the_generated_tables_are_current(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert render_page(text) == text, "run `python -m noetl.infra.reference`"


def test_the_generator_updates_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noetl.infra.reference.ROOT", tmp_path)
    for page in PAGES:
        target = tmp_path / page
        target.parent.mkdir(parents=True, exist_ok=True)
        current = (ROOT / page).read_text("utf-8")
        outdated = re.sub(
            r"(^<!-- generated: [^>]+ -->\n).*?(^<!-- end -->)",
            r"\1\2",
            current,
            flags=re.DOTALL | re.MULTILINE,
        )
        assert outdated != current
        target.write_text(outdated, "utf-8")
    main()
    for page in PAGES:
        assert (tmp_path / page).read_text("utf-8") == (ROOT / page).read_text("utf-8")


def test_every_key_has_a_meaning() -> None:
    keys = {
        (construct, field.alias or name)
        for construct, model in CONSTRUCTS.items()
        for name, field in model.model_fields.items()
        # The table of all triggers has the keys that each of them has.
        if not issubclass(model, TriggerDeclaration)
        or (model is TriggerDeclaration) is (name in TriggerDeclaration.model_fields)
    }
    assert set(KEYS) == keys


def test_a_default_that_a_function_makes_is_in_the_schema() -> None:
    defaults = {
        (model.__name__, field.alias or name): list(made)
        for model in CONSTRUCTS.values()
        for name, field in model.model_fields.items()
        if field.default_factory is not None and (made := cast("Callable[[], Any]", field.default_factory)())
    }
    definitions = build_json_schema(catalogue())["$defs"]
    assert defaults == {("RunTriggerDeclaration", "status"): ["succeeded"]}
    for (model, key), default in defaults.items():
        assert definitions[model]["properties"][key]["default"] == default


def test_the_keys_of_data_are_those_that_templates_of_triggers_read() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    table = page.partition("| type | keys of `--data` |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row) for row in table.splitlines()[2:]]
    keys = {type_: keys for type_, keys in TRIGGER_ATTRIBUTES.items() if type_ not in ("schedule", "run")}
    assert {type_: frozenset(names) for type_, *names in rows} == keys


def test_every_filter_of_noetl_has_a_meaning() -> None:
    assert set(FILTERS) == {name for name in filters.FILTERS if " " not in name}


def test_every_documented_type_has_methods_in_the_sandbox() -> None:
    assert {type_name for type_name, _ in methods_by_type()} == set(METHODS_OF.values())


def test_every_error_type_is_documented() -> None:
    page = (ROOT / "docs/reference/language.md").read_text("utf-8")
    section = page.partition("### Error types")[2].partition("\n## ")[0]
    raised = {
        name
        for path in (ROOT / "executor").rglob("*.py")
        for name in ERROR_TYPE.findall(path.read_text("utf-8"))
    }
    assert len(raised) > 10
    assert {name for name in raised if f"`{name}`" not in section} == set()


def test_every_action_has_a_section() -> None:
    page = (ROOT / "docs/reference/actions.md").read_text("utf-8")
    sections = set(catalogue())
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == sections
    assert set(re.findall(r"<!-- generated: action (\w+) -->", page)) == sections
