"""Values of a playbook whose JSON is too long: a run refuses them before their text is written."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.engine.start import MAX_INPUT, check_inputs
from noetl.executor.errors import RejectedError
from noetl.executor.model.declared_values import MAX_PROBLEMS
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness, compile_text, register_playbook

GROWING = r"{{ ['\x01' * 8000000] * 6 }}"
"""A list of 8 MB, which has 288 MB as JSON."""

WIDE = r"{{ '\U0001f600' * 4000000 }}"
"""A text of 16 MB, which has 48 MB as JSON in ASCII."""

MAX_PEAK = 64_000_000

TOO_LARGE = "the outputs of the step exceed 67,108,864 bytes of JSON"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = MemoryStore() if request.param == "memory" else SqliteStore(str(tmp_path / "noetl.db"))
    yield opened
    opened.close()


def perform(store: Store, text: str) -> tuple[RunHarness, int]:
    """Return the ended run of a playbook, and the most memory that it took."""
    tracemalloc.start()
    try:
        harness = RunHarness(store, text).finish()
        return harness, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def in_step(work: str, more: str = "") -> str:
    return f"steps: [{{name: a{more}, run: [{work}]}}]"


@pytest.mark.parametrize(
    ("text", "type", "message"),
    [
        (in_step(f'{{action: set, set: {{a: "{GROWING}"}}}}'), "PayloadTooLarge", TOO_LARGE),
        (in_step(f'{{action: set, set: {{a: "{GROWING}"}}}}', ", cache: 1h"), "PayloadTooLarge", TOO_LARGE),
        (
            in_step("{action: log, message: m}") + f'\noutput: {{a: "{GROWING}"}}',
            "PayloadTooLarge",
            "the result of the run exceeds 67,108,864 bytes of JSON",
        ),
        (
            in_step("{action: log, message: m}", f', cache: {{ttl: 1h, key: "{GROWING}"}}'),
            "LimitExceeded",
            "`cache.key` is longer than 67,108,864 bytes of JSON",
        ),
        (
            in_step(f'{{action: callback, details: "{GROWING}"}}'),
            "ParameterError",
            "`details` is longer than 67,108,864 bytes of JSON",
        ),
        (
            in_step(f'{{action: callback, title: "{WIDE}"}}'),
            "ParameterError",
            "`title` has more than 65,536 characters",
        ),
        (
            in_step(f'{{action: workflow, playbook: child, input: {{a: "{GROWING}"}}}}'),
            "ParameterError",
            "`child` cannot be started: the input exceeds 67,108,864 bytes of JSON",
        ),
        (in_step(f'{{action: workflow, playbook: "{WIDE}"}}'), "ParameterError", "unknown playbook `😀😀"),
        (in_step(f'{{action: wait, until: "{WIDE}"}}'), "ParameterError", "`until` cannot be"),
    ],
)
def test_a_value_is_refused_before_it_is_written(store: Store, text: str, type: str, message: str) -> None:
    register_playbook(
        store, "name: child\ninput: {a: any}\nsteps: [{name: a, run: [{action: log, message: m}]}]"
    )
    harness, peak = perform(store, text)
    assert harness.error_types == [type]
    assert harness.run.errors[0]["message"].startswith(message)
    assert peak < MAX_PEAK


@pytest.mark.parametrize("section", ["variables", "environment"])
def test_the_data_of_a_start_is_refused_before_it_is_written(store: Store, section: str) -> None:
    text = f'{section}: {{a: "{GROWING}"}}\n' + in_step("{action: log, message: m}")
    tracemalloc.start()
    try:
        with pytest.raises(RejectedError, match="exceed 1,048,576 characters"):
            RunHarness(store, text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_a_large_value_is_not_copied_for_the_limits_of_the_next_step(store: Store) -> None:
    text = f"""
    steps:
    - name: a
      run: [{{action: set, set: {{a: "{GROWING}"}}}}]
      rule: [{{case: default, run: [b]}}]
    - name: b
      concurrency: {{limit: 1, key: "{{{{ a | length }}}}"}}
      run: [{{action: log, message: m}}]
    """
    harness, peak = perform(store, text)
    assert harness.error_types == ["PayloadTooLarge"]
    assert peak < MAX_PEAK


def test_the_limits_of_the_next_step_read_a_large_value_after_its_claim(store: Store) -> None:
    text = """
    steps:
    - name: a
      run: [{action: set, set: {a: "{{ 'x' * 2000000 }}"}}]
      rule: [{case: default, run: [b]}]
    - name: b
      concurrency: {limit: 1, key: "{{ a | length }}"}
      run: [{action: log, message: m}]
    """
    assert perform(store, text)[0].error_types == []


@pytest.mark.parametrize("message", [GROWING, WIDE])
def test_the_message_of_an_error_is_cut(store: Store, message: str) -> None:
    harness, peak = perform(
        store, in_step(f'{{action: fail, message: "{message}", type: "{{{{ \'x\' * 9000 }}}}"}}')
    )
    (error,) = harness.run.errors
    assert error["type"] == "x" * 200 + "…"
    assert 16_000 < len(error["message"]) < 17_000
    assert peak < MAX_PEAK


def test_the_problems_of_many_unknown_inputs_are_few() -> None:
    names = ", ".join(f"name_of_an_input_{n}: {{type: string, default: x}}" for n in range(200))
    plan = compile_text(f"input: {{{names}}}\n" + in_step("{action: log, message: m}"))
    given: dict[str, Any] = {f"name_of_an_inputs_{n}": 1 for n in range(100_000)}
    with pytest.raises(RejectedError) as caught:
        check_inputs(plan.header, given)
    problems = caught.value.details["inputs"]
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[0]["message"].endswith("did you mean `name_of_an_input_0`?")
    assert problems[-1]["message"] == "more inputs are wrong; fix these first"


def test_an_unknown_input_is_shown_by_its_beginning() -> None:
    plan = compile_text("input: {a: any}\n" + in_step("{action: log, message: m}"))
    with pytest.raises(RejectedError) as caught:
        check_inputs(plan.header, {"a": 1, "x" * 1_000_000: 1})
    assert caught.value.details["inputs"][0]["name"] == "x" * 100 + "…"
    assert len(caught.value.message) < 1_000


def test_an_input_is_measured_as_it_is_stored() -> None:
    plan = compile_text("input: {a: any}\n" + in_step("{action: log, message: m}"))
    text = "x" * (MAX_INPUT - len('{"a":""}'))
    assert check_inputs(plan.header, {"a": text}) == {"a": text}
    with pytest.raises(RejectedError) as caught:
        check_inputs(plan.header, {"a": text + "x"})
    assert caught.value.reason == "too_large"
