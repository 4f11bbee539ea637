"""Reading of requests: bodies, headers and query parameters."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
import yaml
from fastapi import Request

from noetl.api.http.parameters import StartHeaders
from noetl.api.http.problems import Problem
from noetl.api.http.requests import (
    MAX_BODY_BYTES,
    FormBody,
    decode_json,
    read_callback_answer,
    read_playbook,
    read_resume_request,
    read_submission,
)
from noetl.api.service.compiler import InlinePlaybook, PlaybookReference
from noetl.api.service.runs import ResumeRequest
from noetl.executor.model.json_values import nests_deeper
from noetl.executor.model.start_request import StartRequest


def request(*chunks: bytes, **headers: str) -> Request:
    pending = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    pending.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, object]:
        return pending.pop(0)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/workflows/run",
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    return Request(scope, receive)


def find_problem(*chunks: bytes, input: str | None = None, **headers: str) -> Problem:
    with pytest.raises(Problem) as raised:
        asyncio.run(read_submission(request(*chunks, **headers), input))
    return raised.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": 1} x',
        b'{"a": NaN}',
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e999]",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'["\\ud800"]',
        b'{"\\udc00": 1}',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b"9" * 5000,
        b"[" * 101 + b"]" * 101,
        b'{"a":' * 200_000,
        b"[" * 500_000 + b"]" * 500_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_json_that_parsers_read_differently_is_malformed(body: bytes) -> None:
    with pytest.raises(Problem) as raised:
        decode_json(body, "The body")
    assert raised.value.status == 400
    assert len(raised.value.detail) < 300


@pytest.mark.parametrize("opened", [b"[", b'{"":', b'["[]",{"\\"]":', b"[{},"])
def test_depth_is_limited_before_decoding(opened: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(json, "loads", lambda text, **_: decoded.append(text))
    with pytest.raises(Problem, match="more than 100 levels"):
        decode_json(opened * (MAX_BODY_BYTES // len(opened)), "The body")
    assert not decoded


@pytest.mark.parametrize(
    "filling", [b'"' + b"[{" * 300 + b'"', b'"\\"[[[' + b"[" * 300 + b'"', b'"' + b"[" * 300]
)
def test_brackets_in_strings_are_no_depth(filling: bytes) -> None:
    assert not nests_deeper(b'{"a": [' + filling + b"]}", 100)


def test_a_large_body_leaves_the_event_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def loads(text: str, **_: object) -> object:
        threads.append(threading.current_thread().name)
        return []

    monkeypatch.setattr(json, "loads", loads)
    for size in (10, MAX_BODY_BYTES):
        body = b"[" + b" " * (size - 2) + b"]"
        asyncio.run(read_callback_answer(request(body, content_type="application/json")))
    assert [name == threading.main_thread().name for name in threads] == [True, False]


def test_json_is_decoded_to_its_value() -> None:
    text = '{"a": [1, 2.5, null, true, "\\ud83d\\ude00 \u00e9"], "b": {}}'
    assert decode_json(text.encode(), "The body") == {"a": [1, 2.5, None, True, "\U0001f600 \u00e9"], "b": {}}
    nested = b"[" * 100 + b"]" * 100
    assert decode_json(nested, "The body") == json.loads(nested)


@pytest.mark.parametrize(
    "content_type", ["application/yaml", "application/x-yaml", "text/yaml", "Application/YAML; charset=UTF-8"]
)
def test_yaml_is_returned_unchanged(content_type: str) -> None:
    sent_request = request(b"name: a\n", b"steps: []\n", content_type=content_type)
    playbook, start = asyncio.run(read_submission(sent_request, '{"n": 1}'))
    assert playbook == InlinePlaybook(b"name: a\nsteps: []\n")
    assert start == StartRequest({"n": 1})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "text/plain"},
        {"content_type": "application/yaml; charset=latin-1"},
        {"content_type": "application/yaml", "content_encoding": "gzip"},
        {"content_type": "\x7f;;"},
        {"content_type": f"application/yaml; charset*{'9' * 5000}=utf-8; charset=latin-1"},
    ],
)
def test_other_content_types_are_unsupported(headers: dict[str, str]) -> None:
    problem = find_problem(b"name: a", **headers)
    assert problem.status == 415
    assert problem.headers is not None
    assert "application/yaml" in problem.headers["Accept-Post"]


def test_a_body_is_refused_as_soon_as_it_is_too_large() -> None:
    announced = request(content_type="application/yaml", content_length=str(MAX_BODY_BYTES + 1))
    with pytest.raises(Problem) as raised:
        asyncio.run(read_submission(announced, None))
    assert raised.value.status == 413
    chunk = b"x" * (MAX_BODY_BYTES // 2 + 1)
    assert find_problem(chunk, chunk, chunk, content_type="application/yaml").status == 413


@pytest.mark.parametrize(("chunks", "expected"), [(5, 5), (50, 19)])
def test_the_rest_of_a_refused_body_is_read_up_to_a_limit(chunks: int, expected: int) -> None:
    """A client that writes all before it reads would else report a broken connection."""
    read: list[int] = []

    async def receive() -> dict[str, object]:
        read.append(1)
        return {"type": "http.request", "body": b"x" * MAX_BODY_BYTES, "more_body": len(read) < chunks}

    scope = request(content_type="application/yaml").scope
    with pytest.raises(Problem) as raised:
        asyncio.run(read_submission(Request(scope, receive), None))
    assert (raised.value.status, len(read)) == (413, expected)


def test_the_largest_body_is_read() -> None:
    sent_request = request(b"x" * MAX_BODY_BYTES, content_type="application/yaml")
    assert asyncio.run(read_submission(sent_request, None))[0] == InlinePlaybook(b"x" * MAX_BODY_BYTES)


def test_json_has_a_playbook_with_input_variables_and_tags() -> None:
    body = {"playbook": "name: a", "input": {"n": 1}, "variables": {"v": 2}, "tags": ["x", "y"]}
    playbook, start = asyncio.run(
        read_submission(request(json.dumps(body).encode(), content_type="application/json"), None)
    )
    assert playbook == InlinePlaybook("name: a")
    assert start == StartRequest({"n": 1}, variables={"v": 2}, tags=("x", "y"))


def test_a_playbook_as_json_has_the_same_value_in_yaml() -> None:
    message = "\x7f\x85\u2028\u2029\ufeff\U0001f600\n\t\"'\x00é"
    playbook = {"name": "a", "steps": [{"name": "s", "run": [{"action": "log", "message": message}]}]}
    body = json.dumps({"playbook": playbook}).encode()
    source, _ = asyncio.run(read_submission(request(body, content_type="application/json"), None))
    assert isinstance(source, InlinePlaybook)
    assert yaml.safe_load(source.text) == playbook


def test_a_deep_playbook_as_json_has_no_indentation() -> None:
    """Each item of a list at depth 60 would have 120 spaces: 60 MB for a body of 1 MB."""
    playbook = f'{{"a": {"[" * 60}{"1," * 400_000}1{"]" * 60}}}'
    body = f'{{"playbook": {playbook}}}'.encode()
    source, _ = asyncio.run(read_submission(request(body, content_type="application/json"), None))
    assert isinstance(source, InlinePlaybook)
    assert len(source.text) <= MAX_BODY_BYTES
    assert json.loads(source.text) == json.loads(playbook)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "must be a JSON object"),
        ({}, "no `playbook`"),
        ({"playbok": "a"}, "did you mean `playbook`?"),
        ({"playbook": "a", "zzz": 1}, "Unknown key `zzz` in the body"),
        ({"playbook": 7}, "text of a playbook or an object"),
        ({"playbook": "a", "input": [1]}, "`input` must be an object"),
        ({"playbook": "a", "variables": "x"}, "`variables` must be an object"),
        ({"playbook": "a", "tags": "x"}, "`tags` must be"),
        ({"playbook": "a", "tags": [""]}, "`tags` must be"),
        ({"playbook": "a", "tags": ["x" * 101]}, "`tags` must be at most 50 strings of 1 to 100 characters."),
        ({"playbook": "a", "tags": ["x"] * 51}, "`tags` must be"),
        ({"playbook": "a", "tags": {}}, "`tags` must be"),
        ({"playbook": "a", "input": "x", "tags": 1}, "`input` must be an object"),
        ({"playbook": 7, "zzz": 1}, "Unknown key `zzz` in the body"),
        ({"playbook": {"name": 1}}, "`name` and `version`, both strings"),
        ({"playbook": {"name": "a", "version": 1}}, "`name` and `version`, both strings"),
    ],
)
def test_an_invalid_json_body_is_unprocessable(body: object, words: str) -> None:
    problem = find_problem(json.dumps(body).encode(), content_type="application/json")
    assert problem.status == 422
    assert words in problem.detail


@pytest.mark.parametrize(
    ("input", "content_type", "words"),
    [
        ("{", "application/yaml", "not JSON"),
        ("[1]", "application/yaml", "must be a JSON object"),
        ('{"a": 1, "a": 2}', "application/yaml", "the key `a` twice"),
        ("{}", "application/json", "a member of the body"),
    ],
)
def test_a_wrong_input_in_the_query_is_refused(input: str, content_type: str, words: str) -> None:
    problem = find_problem(b"name: a", input=input, content_type=content_type)
    assert problem.status == 400
    assert words in problem.detail


@pytest.mark.parametrize(
    ("playbook", "reference"),
    [
        ({"name": "a"}, PlaybookReference("a")),
        ({"name": "a/b ü", "version": "1"}, PlaybookReference("a/b ü", "1")),
        ({"name": "a", "version": None}, PlaybookReference("a")),
    ],
)
def test_an_object_with_only_name_and_version_is_a_reference(
    playbook: dict[str, Any], reference: PlaybookReference
) -> None:
    body = json.dumps({"playbook": playbook, "input": {"n": 1}}).encode()
    source, start = asyncio.run(read_submission(request(body, content_type="application/json"), None))
    assert (source, start.input) == (reference, {"n": 1})


@pytest.mark.parametrize(
    "playbook", [{}, {"version": "1"}, {"name": "a", "steps": []}, {"name": "a", "input": {}}]
)
def test_another_object_is_a_playbook(playbook: dict[str, Any]) -> None:
    body = json.dumps({"playbook": playbook}).encode()
    source, _ = asyncio.run(read_submission(request(body, content_type="application/json"), None))
    assert isinstance(source, InlinePlaybook)
    assert yaml.safe_load(source.text) == playbook


def test_a_playbook_to_register_is_yaml_or_json() -> None:
    def read(body: bytes, **headers: str) -> str | bytes:
        return asyncio.run(read_playbook(request(body, **headers)))

    assert read(b"name: a", content_type="application/yaml") == b"name: a"
    assert read(b'{"playbook": "name: a"}', content_type="application/json") == "name: a"
    reference = yaml.safe_load(read(b'{"playbook": {"name": "a"}}', content_type="application/json"))
    assert reference == {"name": "a"}
    for body, headers, status in (
        (b"name: a", {}, 415),
        (b"{}", {"content_type": "application/json"}, 422),
        (b'{"playbook": "name: a", "input": {}}', {"content_type": "application/json"}, 422),
    ):
        with pytest.raises(Problem) as raised:
            read(body, **headers)
        assert raised.value.status == status


@pytest.mark.parametrize("body", [b"null", b"0", b'"text"', b"[1, {}]", b'{"a": null}', b" 1.5 "])
def test_an_answer_is_any_json_value(body: bytes) -> None:
    assert asyncio.run(read_callback_answer(request(body, content_type="application/json"))) == json.loads(
        body
    )


def test_an_answer_without_a_body_is_null() -> None:
    assert asyncio.run(read_callback_answer(request())) is None
    assert (
        asyncio.run(read_callback_answer(request(content_type="application/x-www-form-urlencoded"))) is None
    )
    form = request(b"a=1&b=", content_type="application/x-www-form-urlencoded")
    assert asyncio.run(read_callback_answer(form)) == FormBody({"a": "1", "b": ""})
    for headers, status in (
        ({"content_type": "multipart/form-data"}, 415),
        ({"content_type": "application/yaml"}, 415),
        ({}, 415),
        ({"content_type": "application/json", "content_length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"content_type": "application/json"}, 400),
    ):
        with pytest.raises(Problem) as raised:
            asyncio.run(read_callback_answer(request(b"a=1", **headers)))
        assert raised.value.status == status


def test_a_resume_request_may_have_input_and_a_step() -> None:
    def read(body: bytes, **headers: str) -> object:
        return asyncio.run(read_resume_request(request(body, **headers), None))

    assert read(b"") == ResumeRequest()
    assert read(b"{}", content_type="application/json") == ResumeRequest()
    assert read(b'{"input": {"a": 1}}', content_type="application/json") == ResumeRequest({"a": 1})
    assert read(b'{"from": "a b"}', content_type="application/json") == ResumeRequest({}, "a b")
    for body, status in ((b'{"from": 1}', 422), (b'{"inptu": {}}', 422), (b'{"input": 1}', 422), (b"{", 400)):
        with pytest.raises(Problem) as raised:
            read(body, content_type="application/json")
        assert raised.value.status == status
    with pytest.raises(Problem) as raised:
        read(b"{}", content_type="text/plain")
    assert raised.value.status == 415


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=3", 3),
        ("respond-async, wait = 3; x=y", 3),
        ('Wait="7"', 7),
        ("wait=0", 0),
        ("wait=600", 25),
        ("wait=-1", None),
        ("wait=soon", None),
        ("wait=\u0663", None),
        ("return=minimal", None),
        ("", None),
    ],
)
def test_the_preferred_wait_is_read_and_limited(prefer: str, seconds: int | None) -> None:
    assert StartHeaders(Prefer=[prefer]).wait_seconds == seconds
    assert StartHeaders(Prefer=["respond-async", prefer]).wait_seconds == seconds


def test_two_traces_of_a_request_are_none() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert StartHeaders(traceparent=[parent], tracestate=["a=1", "b=2"]).trace == f"{parent} a=1,b=2"
    assert StartHeaders(traceparent=[parent, parent], tracestate=["a=1"]).trace is None
    assert StartHeaders().trace is None
