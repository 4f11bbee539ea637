"""Caches of work in the plan: hashes of work, reads of default keys, and which actions only read."""

from __future__ import annotations

import pytest
from jsonschema_rs import Draft202012Validator

from noetl.executor.actions import catalogue
from noetl.planner.plan import Cache, Step
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.testing.run_harness import compile_text
from tests.planner.findings import diagnose

TEXT = """
    input: {id: string, suffix: {type: string, default: x}}
    environment: {base: "https://example.com"}
    tasks:
      fetch: [{action: http, url: "{{ environment.base }}/{{ args.id }}", as: page}]
    steps:
    - name: a
      loop: {items: [1, 2], as: n}
      cache: {ttl: 2h}
      run:
      - {task: fetch, with: {id: "{{ input.id ~ n }}"}}
      - {action: set, loop: {items: [3], as: m}, set: {y: "{{ m + n + loop.index }}"}}
      rule: [{case: "{{ suffix }}", run: [b]}]
    - name: b
      run:
      - action: http
        url: "https://example.com/{{ input.id }}"
        paginate: {next: "{{ response.body.next ~ input.suffix }}"}
        headers: {Authorization: "{{ secrets.TOKEN }}"}
        cache: 5
"""


def step_cache(text: str = TEXT) -> Cache:
    cache = compile_text(text).steps["a"].cache
    assert cache is not None
    return cache


def test_a_step_reads_the_free_names_of_its_work() -> None:
    cache = step_cache()
    assert cache.reads == (("environment", "base"), ("input", "id"), ("loop", "index"), ("n",))
    assert (cache.ttl_seconds, cache.key, cache.types) == (7200.0, None, ("http", "set"))


def test_an_action_reads_what_only_its_handler_evaluates() -> None:
    work = compile_text(TEXT).steps["b"].run[0]
    cache = getattr(work, "cache", None)
    assert cache is not None
    assert (cache.reads, cache.ttl_seconds) == ((("input", "suffix"),), 5.0)


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("name: b", "name: b\n      description: x", True),
        ("items: [1, 2]", "items: [1, 2, 3], concurrency: 4", True),
        ("{ttl: 2h}", "{ttl: 3h, key: x}", True),
        ("as: page", "as: page, retry: 3, timeout: 5s", True),
        ("    tasks:", "    # a comment\n    tasks:", True),
        ("as: page", "as: paper", False),
        ("/{{ args.id", "/x/{{ args.id", False),
        ("m + n", "n + m", False),
        ("as: n}", "as: n}\n      parallel: true", False),
    ],
)
def test_the_hash_is_that_of_the_work(old: str, new: str, is_same: bool) -> None:
    assert old in TEXT
    assert (step_cache(TEXT.replace(old, new)).work_hash == step_cache().work_hash) is is_same


def test_a_plan_with_caches_is_read_as_it_was_written() -> None:
    plan = compile_text(TEXT)
    assert {name: Step.from_json(name, step.to_json()) for name, step in plan.steps.items()} == plan.steps


def test_a_plan_without_a_cache_has_no_such_key() -> None:
    plan = compile_text("steps: [{name: a, run: [{action: set, set: {x: 1}}]}]")
    assert "cache" not in str(plan.to_json()["steps"])


@pytest.mark.parametrize(
    ("parameters", "is_reader"),
    [
        ("action: http, url: 'https://x.test'", True),
        ("action: http, method: get, url: 'https://x.test'", True),
        ("action: http, method: DELETE, url: 'https://x.test'", False),
        ("action: file, read: a", True),
        ("action: file, list: '*'", True),
        ("action: file, delete: a", False),
        ("action: s3, get: 's3://b/k'", True),
        ("action: s3, delete: 's3://b/k'", False),
        ("action: postgres, connection: x, query: 'SELECT 1'", True),
        ("action: postgres, connection: x, query: ['values (1)', 'show all']", True),
        ("action: postgres, connection: x, query: ['select 1', 'delete from t']", False),
        ("action: postgres, connection: x, query: 'select 1 for update'", False),
        ("action: postgres, connection: x, query: \"select nextval('s')\"", False),
        ("action: postgres, connection: x, query: 'select {{ run.playbook | raw }}'", False),
        ("action: postgres, connection: x, query: 'select %(a)s', rows: [{a: 1}]", False),
        ("action: postgres, connection: x, copy_to: {query: 'select 1', file: a}", False),
        ("action: log, message: x", True),
        ("action: fail, message: x", True),
        ("action: shell, command: ls", False),
        ("action: lambda, function: f", False),
        ("action: message, to: 'https://sqs.eu-west-1.amazonaws.com/1/q', body: x", False),
    ],
)
def test_actions_that_only_read_may_be_cached(parameters: str, is_reader: bool) -> None:
    text = f"name: p\nsteps: [{{name: a, run: [{{{parameters}, cache: 1h}}]}}]"
    codes = {finding.code for finding in diagnose(text)}
    assert ("NP513" not in codes) is is_reader
    skipping = {finding.code for finding in diagnose(text.replace("1h}]", "{skip_effects: true}}]"))}
    assert not skipping & {"NP513", "NP514"}


def test_an_unknown_action_is_reported_once() -> None:
    codes = [
        f.code for f in diagnose("name: p\nsteps: [{name: a, cache: 1h, run: [{action: huh, cache: 1h}]}]")
    ]
    assert codes == ["NP501"]


def test_secrets_are_not_allowed_in_a_key() -> None:
    text = "name: p\nsteps: [{name: a, run: [{action: log, message: x, cache: {key: '{{ secrets.X }}'}}]}]"
    assert [finding.code for finding in diagnose(text)] == ["NP406"]


def test_a_key_reads_known_names() -> None:
    text = "name: p\ninput: {}\nsteps: [{name: a, cache: {key: '{{ b }}'}, run: [{action: log, message: x}]}]"
    assert [finding.code for finding in diagnose(text)] == ["NP301"]


@pytest.mark.parametrize(
    ("cache", "is_valid"),
    [
        ("1h", True),
        (30, True),
        ({"key": [1], "ttl": "2d", "skip_effects": True}, True),
        ([1], False),
        ({"a": 1}, False),
    ],
)
def test_the_json_schema_knows_caches(cache: object, is_valid: bool) -> None:
    validator = Draft202012Validator(build_json_schema(catalogue()))
    action = {"action": "log", "message": "x", "cache": cache}
    for step in ({"run": [action]}, {"run": ["t"], "cache": cache}):
        playbook = {"name": "p", "steps": [{"name": "a", **step}]}
        assert validator.is_valid(playbook) is is_valid
