"""Changes that keep the meaning of a playbook keep its outcome and its diagnostics.

The playbooks are random ones, and those of the documentation and the examples. These differences are
allowed:

- After steps were moved, a diagnostic about several places may mark another one of them, which comes first in
  the text. So NP205, NP303 and NP304 are compared without their places, and others without their labels.
- A constant that a variable holds is a read that checks of values may not follow. So diagnostics about values
  may go. None may come, unless what had been unreachable no longer is.
- Errors of parallel branches may be listed in another order, so `errors` is compared without order.
- A playbook that reads `step.name` shows other names in its result, so only its diagnostics are compared.
- Where `join: any`, `on_error: abort` or NP307 lets timing decide the outcome, only diagnostics are compared.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import yaml

from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.reference import ROOT
from tests.docs.test_pages import BLOCKS
from tests.metamorphic.findings import Finding, find_elements
from tests.metamorphic.transformations import (
    Data,
    move_constant,
    move_steps,
    permute_names,
    rename_steps,
    replace_names,
)
from tests.oracle.execution import (
    TIMING_CODES,
    ObservedOutcome,
    compile_data,
    execute,
    quiet_logs,
    register,
)
from tests.oracle.generator import generate
from tests.oracle.run_case import RunCase
from tests.oracle.seeds import seeds_of_chunk
from tests.patterns.test_patterns import PLAYBOOKS

IS_BRIEF = os.environ.get("HYPOTHESIS_PROFILE") == "brief"
COUNT = 20 if IS_BRIEF else 100
CHUNKS = 4
FIRST_PLACE_CODES = frozenset({"NP205", "NP303", "NP304"})
UNREACHABLE_CODES = frozenset({"NP201", "NP203"})
CHANGES = ("permuted names", "new names", "moved steps", "a constant in a variable")
SELF_CONTAINED = frozenset({"set", "log", "fail", "wait"})


def to_block_yaml(playbook: Data) -> str:
    return yaml.safe_dump(playbook, sort_keys=False, width=100_000, allow_unicode=True)


def change(kind: str, playbook: Data, random: Random) -> tuple[Data, dict[str, str]]:
    """Return the changed playbook, and the old names of its steps."""
    if kind == "moved steps":
        return move_steps(playbook, random), {}
    if kind == "a constant in a variable":
        return move_constant(playbook, random), {}
    names = (permute_names if kind == "permuted names" else replace_names)(playbook, random)
    return rename_steps(playbook, names), {new: old for old, new in names.items()}


def assert_same_findings(kind: str, playbook: Data, changed: Data, old_names: Mapping[str, str]) -> None:
    with_labels = kind != "moved steps"
    before = find_elements(to_block_yaml(playbook), with_labels=with_labels)
    after = find_elements(to_block_yaml(changed), old_names, with_labels=with_labels)
    if kind == "moved steps":
        before, after = _merge_first_places(before), _merge_first_places(after)
    if kind == "a constant in a variable":
        is_more_reachable = any(code in UNREACHABLE_CODES for code, _ in before - after)
        assert is_more_reachable or not after - before, (kind, after - before, changed)
    else:
        assert before == after, (kind, before - after, after - before, changed)


def _merge_first_places(findings: Counter[Finding]) -> Counter[Finding]:
    kept = {finding: count for finding, count in findings.items() if finding[0] not in FIRST_PLACE_CODES}
    codes = {finding[0] for finding in findings} & FIRST_PLACE_CODES
    return Counter(kept) + Counter({(code, frozenset()): 1 for code in codes})


def assert_written_as_json(playbook: Data) -> None:
    assert find_elements(json.dumps(playbook)) == find_elements(to_block_yaml(playbook))


def run_on_memory(case: RunCase, seed: int, workers: int | None = None) -> ObservedOutcome | None:
    """Return what a run does, or None if the playbook has errors."""
    return run_on(MemoryStore(), case, seed, workers)


def run_on(store: Store, case: RunCase, seed: int, workers: int | None = None) -> ObservedOutcome | None:
    plan = compile_data(case.playbook).plan
    for child in case.children:
        register(store, child)
    if plan is None:
        return None
    observed = execute(store, plan, case.inputs, seed, workers)
    return observed if case.is_sequential else replace(observed, order=())


def with_old_names(observed: ObservedOutcome | None, old_names: Mapping[str, str]) -> ObservedOutcome | None:
    """Return an outcome with the old names of the steps."""
    if observed is None:
        return None
    return replace(
        observed,
        errors=tuple(sorted((type, old_names.get(step, step)) for type, step in observed.errors)),
        visits={old_names.get(step, step): count for step, count in observed.visits.items()},
        order=tuple((old_names.get(step, step), number) for step, number in observed.order),
    )


def random_cases(chunk: int) -> list[tuple[int, RunCase]]:
    """Return random playbooks, with their seeds."""
    return [(seed, generate(seed)) for seed in seeds_of_chunk(chunk, COUNT // CHUNKS)]


def depends_on_timing(case: RunCase) -> bool:
    return case.may_depend_on_timing or bool(compile_data(case.playbook).codes & TIMING_CODES)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_random_playbook_has_the_same_outcome(kind: str, chunk: int) -> None:
    with quiet_logs():
        for seed, case in random_cases(chunk):
            playbook = json.loads(json.dumps(case.playbook))
            changed, old_names = change(kind, playbook, Random(seed))
            assert_same_findings(kind, playbook, changed, old_names)
            changed_case = replace(case, playbook=changed)
            if not depends_on_timing(case) and not depends_on_timing(changed_case):
                after = run_on_memory(changed_case, seed + 1)
                assert with_old_names(after, old_names) == run_on_memory(case, seed), (seed, changed)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_random_playbook_may_be_written_as_json(chunk: int) -> None:
    for _, case in random_cases(chunk):
        assert_written_as_json(json.loads(json.dumps(case.playbook)))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_store_and_the_workers_do_not_decide(chunk: int, store: SqliteStore) -> None:
    with quiet_logs():
        for seed, case in random_cases(chunk):
            if not depends_on_timing(case):
                outcome = run_on_memory(case, seed, workers=1)
                assert outcome == run_on_memory(case, seed, workers=20), (seed, case)
                assert outcome == run_on(store, case, seed + 1), (seed, case)


def written_playbooks() -> dict[str, Data]:
    """Return the playbooks of the documentation, the patterns and the examples, by their place."""
    texts = {f"{path.name}": path.read_text("utf-8") for path in (ROOT / "examples").glob("*.yaml")}
    texts |= {f"pattern {name}": text for name, text in PLAYBOOKS.items()}
    texts |= {f"{block.page.name}:{block.line}": block.playbook or "" for block in BLOCKS}
    playbooks = {place: _read(text) for place, text in texts.items()}
    return {place: playbook for place, playbook in playbooks.items() if playbook is not None}


def _read(text: str) -> Data | None:
    """Return the data of a playbook, or None if it is not one that can be changed, such as a bad example."""
    try:
        data = json.loads(json.dumps(yaml.safe_load(text)))
    except (yaml.YAMLError, TypeError):
        return None
    compilation = compile_data(data)
    return data if compilation.plan is not None else None


WRITTEN = written_playbooks()


@pytest.mark.parametrize("place", WRITTEN)
def test_a_changed_written_playbook_has_the_same_outcome(place: str) -> None:
    playbook = WRITTEN[place]
    assert_written_as_json(playbook)
    case = RunCase(playbook)
    with quiet_logs():
        for kind in CHANGES:
            changed, old_names = change(kind, playbook, Random(place))
            assert_same_findings(kind, playbook, changed, old_names)
            reads_names = old_names and "step.name" in str(playbook)
            if is_self_contained(playbook) and not reads_names and not depends_on_timing(case):
                after = run_on_memory(replace(case, playbook=changed), 2)
                assert with_old_names(after, old_names) == run_on_memory(case, 1)


def is_self_contained(playbook: Data) -> bool:
    """Return whether a playbook runs without inputs and outside systems."""
    plan = compile_data(playbook).plan
    actions = {entry["action"] for entry in _entries(playbook) if "action" in entry}
    return plan is not None and actions <= SELF_CONTAINED and not plan.header.inputs


def _entries(value: Any) -> list[Data]:
    if isinstance(value, dict):
        return [value, *(entry for item in value.values() for entry in _entries(item))]
    if isinstance(value, list):
        return [entry for item in value for entry in _entries(item)]
    return []


def test_many_written_playbooks_run() -> None:
    runnable = [place for place, playbook in WRITTEN.items() if is_self_contained(playbook)]
    assert len(WRITTEN) > 50
    assert len(runnable) > 20
