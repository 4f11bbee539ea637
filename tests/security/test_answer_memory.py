"""Memory of what actions receive, which they reserve while they read it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from noetl.executor.actions import action
from noetl.executor.clients import aws
from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import Arrivals
from noetl.executor.security.capabilities import Capabilities
from tests.action_calls import perform_action
from tests.aws import REGION

MIB = 1024 * 1024


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arrivals]:
    """The budgets of a process with 4 MiB for answers, and 2 MiB of them for a run."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    created = Arrivals(4 * MIB)
    monkeypatch.setattr(action, "process_arrivals", lambda: created)
    yield created
    assert created.process.reserved == 0


def read_object(text: str, format: str) -> Any:
    data = text.encode()
    with Stubber(aws.client("s3")) as stub:
        body = StreamingBody(io.BytesIO(data), len(data))
        stub.add_response("get_object", {"Body": body, "ContentLength": len(data)})
        return perform_action("s3", get="s3://orders/x", format=format)


def list_objects(count: int) -> Any:
    now = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    entries = [{"Key": f"{n:01000}", "Size": 1, "ETag": "x", "LastModified": now} for n in range(count)]
    with Stubber(aws.client("s3")) as stub:
        stub.add_response("list_objects_v2", {"IsTruncated": False, "Contents": entries})
        return perform_action("s3", list="s3://orders/")


def invoke(text: str) -> Any:
    data = text.encode()
    with Stubber(aws.client("lambda", None)) as stub:
        stub.add_response("invoke", {"Payload": StreamingBody(io.BytesIO(data), len(data))})
        return perform_action("lambda", function="echo")


def list_files(folder: Path, count: int) -> Any:
    for number in range(count):
        (folder / f"{number:0200}").touch()
    return perform_action("file", list="*", capabilities=Capabilities(files_root=folder))


def append_row(folder: Path, size: int) -> Any:
    (folder / "x").write_text("a\n" + "x" * size)
    rows = [{"a": 1}]
    return perform_action(
        "file", append="x", content=rows, format="csv", capabilities=Capabilities(files_root=folder)
    )


CONTENTS = {
    "rows": ("csv", "a\n", "1\n", 20_000),
    "columns": ("csv", "a", ",{}", 20_000),
    "lines": ("jsonl", "", "1\n", 20_000),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("source", ["file", "s3"])
def test_rows_count_as_objects(tmp_path: Path, arrivals: Arrivals, name: str, source: str) -> None:
    """A row of two bytes takes two hundred. So a small file could fill the memory."""
    format, start, part, count = CONTENTS[name]

    def read(count: int) -> Any:
        text = start + "".join(part.replace("{}", str(n)) for n in range(count))
        if source == "s3":
            return read_object(text, format)
        (tmp_path / "x").write_text(text)
        return perform_action("file", read="x", format=format, capabilities=Capabilities(files_root=tmp_path))

    assert len(read(count // 10)) == (0 if name == "columns" else count // 10)
    with pytest.raises(ActionError, match="NOETL_ANSWER_MEMORY") as caught:
        read(count)
    assert caught.value.type == "LimitExceeded"


def test_lists_and_answers_count_while_they_arrive(tmp_path: Path, arrivals: Arrivals) -> None:
    assert len(list_objects(10)) == 10
    assert invoke("[[],[]]") == [[], []]
    assert len(list_files(tmp_path, 10)) == 10
    append_row(tmp_path, 10)
    receivers: list[Callable[[], Any]] = [
        lambda: list_objects(1000),
        lambda: invoke(f"[{'[],' * 20_000}[]]"),
        lambda: append_row(tmp_path, 2 * MIB),
    ]
    for receive in receivers:
        with pytest.raises(ActionError, match="NOETL_ANSWER_MEMORY") as caught:
            receive()
        assert caught.value.type == "LimitExceeded"
    arrivals.process.limit = 20_000
    with pytest.raises(ActionError, match="NOETL_ANSWER_MEMORY"):
        list_files(tmp_path, 100)
