"""The style rules hold, except for the violations in their allow-lists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noetl.planner.gc_control import gc_paused
from tests.style import allow_list
from tests.style.rule import StyleRule
from tests.style.rules import RULES
from tests.style.source import Repository, load_repository

pytestmark = pytest.mark.xdist_group("style")


@pytest.fixture(scope="module")
def repository() -> Iterator[Repository]:
    """The files of the repository. No garbage collection visits their million nodes."""
    with gc_paused():
        yield load_repository()
        load_repository.cache_clear()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_violation_is_new_and_no_allow_list_allows_too_much(
    rule: StyleRule, repository: Repository
) -> None:
    violations = rule.find(repository)
    messages = allow_list.compare(rule, violations, allow_list.read(allow_list.path_of(rule)))
    if messages:
        pytest.fail("\n".join(messages), pytrace=False)


def test_every_allow_list_belongs_to_a_rule() -> None:
    assert {path.stem for path in allow_list.FOLDER.glob("*.txt")} <= {rule.name for rule in RULES}
