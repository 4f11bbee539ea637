"""The inputs and lines that the history keeps of actions, within bounds and without secrets."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.kept_data import (
    MAX_ITEMS_CHARACTERS,
    MAX_KEPT_CHARACTERS,
    MAX_LINE_CHARACTERS,
    MAX_VALUE_CHARACTERS,
    ActionCall,
    KeptData,
    keeps_inputs,
)
from noetl.executor.errors import PayloadTooLargeError, SettingError
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import write_json
from noetl.executor.model.run import Commit, CommitResult, ErrorRecord, FailedItem, Lease
from noetl.executor.model.sql import Bind, Sql, SqlIdentifier
from noetl.executor.security import redaction
from noetl.executor.security.redaction import MASK, REVEALED_SECRETS, CallbackTokens
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import RunHarness
from tests.executor.fake_handler import VISIT
from tests.redaction import forget_secrets


def make(*, with_inputs: bool = True) -> tuple[KeptData, EventBuffer]:
    buffer = EventBuffer()
    return KeptData(buffer, VISIT, lambda: 5.0, with_inputs=with_inputs), buffer


def events_of(buffer: EventBuffer) -> list[Event]:
    found: list[Event] = []
    buffer.flush_all(found.extend)
    return found


def describe(kept: KeptData, type: str, *, masks_secrets: bool = False, **parameters: Any) -> dict[str, Any]:
    return kept.describe_input(ActionCall(catalogue()[type], parameters, masks_secrets))


def test_parameters_are_kept_as_json() -> None:
    kept, _ = make()
    assert describe(kept, "set", set={"n": 1, "rows": (1, [None])}) == {
        "input": {"set": {"n": 1, "rows": [1, [None]]}}
    }
    assert describe(kept, "wait", seconds=float("nan")) == {"input": {"seconds": "nan"}}


def test_a_statement_is_kept_with_its_values() -> None:
    kept, _ = make()
    statement = Sql(("select * from ", SqlIdentifier("t"), " where id in (", Bind(7), ", ", Bind("x"), ")"))
    query = [statement, Sql(("commit",))]
    shown = describe(kept, "postgres", query=query, copy={"query": Sql(("select 1",))}, each=lambda: 1)
    assert shown["input"] == {
        "query": [{"text": 'select * from "t" where id in ($1, $2)', "values": [7, "x"]}, "commit"],
        "copy": {"query": "select 1"},
        "each": "(computed for each item)",
    }


def test_the_beginning_of_a_long_statement_is_its_text() -> None:
    kept, _ = make()
    shown = describe(kept, "postgres", query=Sql(("select '" + 'é"' * 2000 + "'",)))
    assert shown == {
        "input": {"query": ("select '" + 'é"' * 2000)[:MAX_VALUE_CHARACTERS]},
        "cut": {"query": len("\"select ''\"") + 3 * 2000},
    }


def test_what_json_cannot_represent_is_kept_as_text() -> None:
    kept, _ = make()
    rows = MappingProxyType({1: (Sql(("select ", Bind({2})))), "f": len})
    assert describe(kept, "set", set={"rows": rows, "value": {3}})["input"] == {
        "set": {
            "rows": {"1": {"text": "select $1", "values": ["{2}"]}, "f": "(computed for each item)"},
            "value": "{3}",
        }
    }
    fields = {"ratio": float("nan"), "query": Sql(("select 1",))}
    assert describe(kept, "log", fields=fields)["input"] == {"fields": "{'ratio': nan, 'query': 'select 1'}"}
    shown = describe(kept, "log", fields={(1, 2): 3, "text": "m" * 3000})
    assert shown["cut"]["fields"] == len('{"(1, 2)":3,"text":""}') + 3000
    shown = describe(kept, "log", fields={"text": "m" * 3000, "ratio": float("nan")})
    assert shown["input"]["fields"].startswith("{'text': 'mmm")
    assert shown["cut"]["fields"] == len(f"{{'text': '{'m' * 3000}', 'ratio': nan}}") + 2


def test_what_is_kept_does_not_change_with_the_parameter() -> None:
    kept, _ = make()
    rows = [1]
    shown = describe(kept, "set", set={"rows": rows})
    rows.append(2)
    assert shown["input"] == {"set": {"rows": [1]}}


def test_of_a_long_value_the_beginning_is_kept() -> None:
    kept, _ = make()
    shown = describe(kept, "log", message="m" * 5000, fields={"rows": list(range(2000))})
    assert shown["input"]["message"] == "m" * MAX_VALUE_CHARACTERS
    assert len(shown["input"]["fields"]) == MAX_VALUE_CHARACTERS
    assert shown["cut"] == {
        "message": 5002,
        "fields": len('{"rows":[]}') + len(",".join(map(str, range(2000)))),
    }


def test_the_text_of_a_large_value_is_not_held_as_a_whole() -> None:
    kept, _ = make()
    fields = {"rows": ["\x01" * 300_000 + "😀"] * 6}
    tracemalloc.start()
    try:
        shown = describe(kept, "log", message="m", fields=fields)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = write_json(fields)
    assert shown["input"]["fields"] == text[:MAX_VALUE_CHARACTERS]
    assert shown["cut"] == {"fields": len(text)}
    assert peak < 20_000_000


@pytest.mark.parametrize("is_searched", [True, False])
def test_a_long_text_is_kept_alike_whether_secrets_are_searched_or_not(
    is_searched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The beginning of a text, which is encoded in both cases; the rest is only counted."""
    forget_secrets(monkeypatch)
    if is_searched:
        REVEALED_SECRETS.add("a-secret-of-22-letters")
    kept, _ = make()
    fields = {"a": 1, "text": 'é"\n\0' * 1000, "rows": ["m" * 3000], "end": "n" * 3000}
    text = write_json(fields)
    assert describe(kept, "log", fields=fields) == {
        "input": {"fields": text[:MAX_VALUE_CHARACTERS]},
        "cut": {"fields": len(text)},
    }


def test_a_secret_at_the_end_of_what_is_kept_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of it would not be found any more."""
    secret = "a-secret-of-22-letters"
    forget_secrets(monkeypatch)
    REVEALED_SECRETS.add(secret)
    kept, buffer = make()
    text = "m" * (MAX_VALUE_CHARACTERS - 5) + secret
    assert describe(kept, "log", message=text)["input"]["message"].endswith("m***")
    blanks = "m" * MAX_VALUE_CHARACTERS + " " * 20_000 + secret
    assert describe(kept, "log", message=blanks)["input"]["message"] == "m" * MAX_VALUE_CHARACTERS
    # The ends of long texts are not encoded unless a secret is in what is searched.
    fields = {"a": "m" * (MAX_VALUE_CHARACTERS - 15) + secret, "b": "m" * 20_000}
    assert describe(kept, "log", fields=fields)["input"]["fields"].endswith('m***","b":')
    rows = ["m" * (MAX_VALUE_CHARACTERS - 10), secret, "m" * MAX_VALUE_CHARACTERS]
    assert describe(kept, "log", fields={"rows": rows[1:]})["input"]["fields"].startswith('{"rows":["***"')
    assert describe(kept, "log", fields=rows)["input"]["fields"].endswith('m","***",')
    kept.add_line("log", "run.0", {"stream": "line", "text": "m" * (MAX_LINE_CHARACTERS - 5) + secret})
    assert events_of(buffer)[0].payload["text"].endswith("m***")


def test_no_part_of_a_secret_is_kept_from_the_beginning_of_a_large_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Masks are shorter than the secrets, so the one that the end cuts moves to the front."""
    secret = "".join(f"part-{number:04}-" for number in range(2000))
    forget_secrets(monkeypatch)
    REVEALED_SECRETS.add(secret)
    kept, _ = make()
    shown = describe(kept, "log", fields={"rows": [secret * 100]})["input"]["fields"]
    assert "part-" not in shown
    rows = ["m" * 1000, secret, *["m" * 1000] * 1500]
    shown = describe(kept, "log", fields={"rows": rows})["input"]["fields"]
    assert shown.startswith('{"rows":["mmm') and '"***"' in shown


def test_a_parameter_with_a_short_secret_is_a_mask() -> None:
    """A secret of a few characters cannot be found in a text."""
    kept, _ = make()
    shown = describe(kept, "shell", command="env", env={"TOKEN": "abc"}, masks_secrets=True)
    assert shown["input"] == {"command": "env", "env": MASK}


def test_a_segment_keeps_a_number_of_characters() -> None:
    kept, buffer = make()
    for _ in range(MAX_KEPT_CHARACTERS // MAX_VALUE_CHARACTERS):
        assert describe(kept, "log", message="m" * MAX_VALUE_CHARACTERS)["input"]
    assert describe(kept, "log", message="mm", level="info") == {
        "input": {},
        "cut": {"message": 4, "level": 6},
    }
    for _ in range(3):
        kept.add_line("log", "run.0", {"stream": "line", "level": "info", "text": "x"})
    (event,) = events_of(buffer)
    assert event.payload == {
        "action": "log",
        "position": "run.0",
        "stream": "line",
        "level": "warning",
        "text": "the history keeps 65,536 characters; later lines are left out",
    }


def test_a_long_line_is_cut() -> None:
    kept, buffer = make()
    kept.add_line("shell", "run.0", {"stream": "stdout", "text": "x" * 1_000_000})
    (event,) = events_of(buffer)
    assert (event.type, event.step, event.at) == ("action.log", VISIT.step, 5.0)
    assert (len(event.payload["text"]), event.payload["cut"]) == (MAX_LINE_CHARACTERS, 1_000_000)


ITEM: FailedItem = {"number": 2, "total": 3, "value": "7"}


def fail_call(kept: KeptData, position: str, message: str, **parameters: Any) -> ErrorRecord:
    """Let a call of an item fail finally, and return its error."""
    error = make_error(message)
    kept.remember_call(position, ActionCall(catalogue()["set"], parameters, False))
    kept.keep_failed_call(position, error, 2)
    return error


def make_error(message: str, details: Any = None) -> ErrorRecord:
    return {
        "type": "TemplateError",
        "message": message,
        "action": None,
        "step": "a",
        "attempt": 1,
        "retryable": False,
        "status": None,
        "details": details,
    }


def test_a_failed_item_has_the_input_of_the_call_that_failed() -> None:
    kept, buffer = make()
    cause = fail_call(kept, "run.0", "no", set={"x": 1})
    kept.add_failed_item("run", ITEM, cause, {**cause, "message": "item 2 of 3: no"})
    (event,) = events_of(buffer)
    assert (event.type, event.payload["item"], event.payload["attempts"]) == ("loop.item_failed", ITEM, 2)
    assert event.payload["error"]["message"] == "item 2 of 3: no"
    assert event.payload["input"] == {"set": {"x": 1}}


def test_the_item_of_an_outer_loop_has_the_input_of_the_inner_one() -> None:
    kept, buffer = make()
    cause = fail_call(kept, "run.0[1]", "no", set={"x": 1})
    outer = {**cause, "message": "item 1 of 1: no"}
    kept.replace_error(cause, outer)
    kept.replace_error(make_error("of another call"), make_error("unknown"))
    kept.add_failed_item("run", ITEM, outer, outer)
    assert events_of(buffer)[0].payload["input"] == {"set": {"x": 1}}


def test_a_failed_item_without_a_call_has_no_input() -> None:
    kept, buffer = make(with_inputs=False)
    kept.add_failed_item("run", ITEM, fail_call(kept, "run.0", "no", set={"x": 1}), make_error("no"))
    kept.add_failed_item("run", ITEM, make_error("no"), make_error("no"))
    first, second = events_of(buffer)
    assert first.payload.keys() == {"position", "item", "error", "attempts"}
    assert second.payload.keys() == {"position", "item", "error"}


def test_a_call_that_has_not_failed_finally_is_dropped() -> None:
    kept, buffer = make()
    kept.remember_call("run.0", ActionCall(catalogue()["set"], {"set": {"x": 1}}, False))
    kept.forget_call("run.0")
    error = make_error("no")
    kept.keep_failed_call("run.0", error, 1)
    kept.add_failed_item("run", ITEM, error, error)
    assert "input" not in events_of(buffer)[0].payload


def test_a_segment_keeps_a_number_of_characters_of_failed_items() -> None:
    kept, buffer = make()
    long = make_error("m" * 10_000, {"body": "b" * 10_000})
    for _ in range(100):
        kept.add_failed_item("run", ITEM, long, long)
    errors = [event.payload["error"] for event in events_of(buffer)]
    assert 10 < len(errors) < 20
    assert sum(len(error["message"]) + len(error["details"]) for error in errors) <= MAX_ITEMS_CHARACTERS


def test_few_calls_are_referred_to_until_their_items_have_ended() -> None:
    kept, buffer = make()
    causes = [fail_call(kept, f"run.{number}", "no", set={"x": number}) for number in range(300)]
    kept.add_failed_item("run", ITEM, causes[0], causes[0])
    kept.add_failed_item("run", ITEM, causes[-1], causes[-1])
    oldest, newest = events_of(buffer)
    assert "input" not in oldest.payload
    assert newest.payload["input"] == {"set": {"x": 299}}


def test_inputs_can_be_left_out() -> None:
    kept, buffer = make(with_inputs=False)
    assert describe(kept, "log", message="m") == {}
    kept.add_line("log", "run.0", {"stream": "line", "level": "info", "text": "m"})
    assert len(events_of(buffer)) == 1


def test_the_setting_is_on_or_off() -> None:
    assert [keeps_inputs({"NOETL_KEEP_INPUTS": text}) for text in ("", "on", " OFF ")] == [True, True, False]
    with pytest.raises(SettingError, match="NOETL_KEEP_INPUTS is 'no'; it must be on or off"):
        keeps_inputs({"NOETL_KEEP_INPUTS": "no"})


PLAYBOOK = """\
name: kept
steps:
  - name: a
    run:
      - {action: shell, command: "echo one; exit 3", on_error: continue}
      - {action: set, set: {x: "{{ 1 / 0 }}"}}
"""


def test_a_command_that_fails_keeps_its_output(store: Store, tmp_path: Path) -> None:
    """A parameter that has no value leaves the start of the action without input."""
    harness = RunHarness(store, PLAYBOOK, folder=tmp_path).finish()
    lines = [event.payload["text"] for event in harness.events if event.type == "action.log"]
    assert lines == ["one\n"]
    starts = [event.payload for event in harness.events if event.type == "action.started"]
    assert [(start["action"], start.get("input")) for start in starts] == [
        ("shell", {"command": "echo one; exit 3"}),
        ("set", None),
    ]


def test_without_inputs_the_history_has_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_KEEP_INPUTS", "off")
    harness = RunHarness(store, PLAYBOOK, folder=tmp_path).finish()
    assert not any("input" in event.payload for event in harness.events)


def test_an_outcome_that_is_too_large_with_its_inputs_is_kept_without_them(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step must not fail for what only its history needs."""
    commit = store.queue.commit

    def refuse_inputs(written: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        if any("input" in event.payload or event.type == "action.log" for event in written.events):
            raise PayloadTooLargeError("the item is too large")
        return commit(written, now, claim_for)

    monkeypatch.setattr(store.queue, "commit", refuse_inputs)
    text = "steps: [{name: a, run: [{action: log, message: m}, {action: set, set: {x: 1}}]}]"
    harness = RunHarness(store, f"name: kept\n{text}", folder=tmp_path).finish()
    assert (harness.status, harness.result) == ("succeeded", {"x": 1})
    assert [event.type for event in harness.events if event.step == "a"] == [
        "step.started",
        *["action.started", "action.completed"] * 2,
        "step.completed",
    ]


def test_an_item_of_nested_loops_keeps_the_input_of_its_action(store: Store) -> None:
    playbook = """
        steps:
        - name: a
          loop: {items: [1, 2], as: x, on_error: continue}
          run:
          - {action: fail, message: "no {{ z }}", loop: {items: "{{ [5] if x == 2 else [] }}", as: z}}
    """
    run = RunHarness(store, playbook).finish()
    failed = [event for event in store.runs.events(run.id) if event.type == "loop.item_failed"]
    assert [event.payload["item"]["number"] for event in failed] == [2]
    assert failed[0].payload["error"]["message"] == "item 2 of 2: item 1 of 1: no 5"
    assert failed[0].payload["input"] == {"message": "no 5"}


@pytest.mark.parametrize("before", [MAX_VALUE_CHARACTERS - 40, MAX_VALUE_CHARACTERS - 2])
def test_a_callback_token_is_not_cut_in_two(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    tokens = CallbackTokens()
    monkeypatch.setattr(redaction, "CALLBACK_TOKENS", tokens)
    token = tokens.create()
    kept, _ = make()
    for value in (long := f"{' ' * before}{token} {'x' * 1000}", {"a": long}, [long]):
        shown = describe(kept, "set", set=value)
        assert "cut" in shown
        assert token[:2] not in str(shown["input"]["set"])
