"""The interpreter gives the results that the language reference shows below its playbooks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.oracle.interpreter import explore
from tests.oracle.program import NotCoveredError

PAGES = Path(__file__).parents[2] / "docs/reference"
EXAMPLE = re.compile(
    r"(?:^<!-- input: (?P<input>[^\n]*) -->\n)?"
    r"^```yaml\n(?P<text>name:(?:(?!^```).)*)^```\n\n```json\n(?P<result>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
EXAMPLES = [
    pytest.param(yaml.safe_load(found["text"]), *found.group("input", "result"), id=found["text"].split()[1])
    for page in sorted(PAGES.glob("*.md"))
    for found in EXAMPLE.finditer(page.read_text("utf-8"))
]
NOT_COVERED = {"file", "http", "lambda", "postgres", "python", "s3", "shell"}


def actions(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {str(value.get("action"))} & NOT_COVERED | actions(list(value.values()))
    return set().union(*map(actions, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(("playbook", "input", "result"), EXAMPLES)
def test_an_example_has_the_result_shown_below_it(
    playbook: dict[str, Any], input: str | None, result: str
) -> None:
    name = playbook["name"]
    if actions(playbook):
        with pytest.raises(NotCoveredError):
            explore({name: playbook}, name, json.loads(input or "{}"))
        return
    found = explore({name: playbook}, name, json.loads(input or "{}"))
    assert found.is_complete
    assert found.races == frozenset()
    results = [outcome.result for outcome in found.outcomes]
    assert json.loads(result) in results
    if "'any'" not in str(playbook):
        assert results == [json.loads(result)]
