from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from noetl.executor.actions import s3
from noetl.executor.clients import aws as aws_clients
from noetl.executor.errors import ActionError
from tests.action_calls import perform_action
from tests.aws import Client, drop_permissions


@pytest.fixture
def bucket(moto_aws: Client) -> str:
    """The name of an empty bucket. Names are unique across all accounts."""
    name = f"orders-{uuid4()}"
    moto_aws("s3").create_bucket(Bucket=name)
    return name


@pytest.mark.parametrize(
    ("options", "content", "stored", "media_type"),
    [
        ({}, "grüße\n", "grüße\n", "text/plain; charset=utf-8"),
        ({"format": "json"}, {"ü": [1]}, '{\n  "ü": [\n    1\n  ]\n}\n', "application/json"),
        ({"format": "jsonl"}, [{"a": 1}, 2], '{"a":1}\n2\n', "application/x-ndjson"),
        ({"format": "csv"}, [{"a": "x", "b": "1"}], "a,b\nx,1\n", "text/csv; charset=utf-8"),
    ],
)
def test_an_object_is_written_and_read_in_its_format(
    bucket: str, options: dict[str, Any], content: Any, stored: str, media_type: str
) -> None:
    uri = f"s3://{bucket}/a b/{{{{ name }}}}"
    put = perform_action(
        "s3", put=uri, content="{{ content }}", names={"name": "ü?#%.txt", "content": content}, **options
    )
    assert put["uri"] == f"s3://{bucket}/a b/ü?#%.txt"
    assert put["bytes"] == len(stored.encode())
    assert perform_action("s3", get=uri, names={"name": "ü?#%.txt"}, **options) == content
    found = aws_clients.client("s3").get_object(Bucket=bucket, Key="a b/ü?#%.txt")
    assert (found["Body"].read().decode(), found["ContentType"]) == (stored, media_type)
    assert found["ETag"].strip('"') == put["etag"]


def test_a_csv_header_may_contain_types(moto_aws: Client, bucket: str) -> None:
    moto_aws("s3").put_object(Bucket=bucket, Key="x.csv", Body="\ufeffid:integer,name\n1,ann\n".encode())
    assert perform_action("s3", get=f"s3://{bucket}/x.csv", format="csv") == [{"id": 1, "name": "ann"}]


def test_objects_are_listed_by_prefix(moto_aws: Client, bucket: str) -> None:
    for key in ("2026/b", "2026/a ü", "other"):
        moto_aws("s3").put_object(Bucket=bucket, Key=key, Body=b"abc")
    first, second = perform_action("s3", list=f"s3://{bucket}/2026/")
    assert first.pop("modified_at").endswith("+00:00")
    assert first == {
        "uri": f"s3://{bucket}/2026/a ü",
        "key": "2026/a ü",
        "bytes": 3,
        "etag": "900150983cd24fb0d6963f7d28e17f72",
    }
    assert second["key"] == "2026/b"
    assert (
        len(perform_action("s3", list=f"s3://{bucket}"))
        == len(perform_action("s3", list=f"s3://{bucket}/"))
        == 3
    )
    assert perform_action("s3", list=f"s3://{bucket}/none") == []


def test_all_pages_of_a_list_are_read_up_to_the_limit(
    moto_aws: Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "1")
    for key in ("a", "b", "c"):
        moto_aws("s3").put_object(Bucket=bucket, Key=key, Body=b"")
    assert moto_aws("s3").list_objects_v2(Bucket=bucket)["IsTruncated"]
    assert [entry["key"] for entry in perform_action("s3", list=f"s3://{bucket}")] == ["a", "b", "c"]
    monkeypatch.setattr(s3, "MAX_OBJECTS", 2)
    with pytest.raises(ActionError, match="more than 2 objects") as caught:
        perform_action("s3", list=f"s3://{bucket}")
    assert caught.value.type == "LimitExceeded"


def test_deleting_a_missing_object_succeeds(bucket: str) -> None:
    perform_action("s3", put=f"s3://{bucket}/x", content="x")
    for _ in range(2):
        assert perform_action("s3", delete=f"s3://{bucket}/x") == {"uri": f"s3://{bucket}/x"}
    assert perform_action("s3", list=f"s3://{bucket}") == []


@pytest.mark.parametrize("suffix", ["", "-which-is-none"])
def test_a_missing_object_or_bucket_is_an_error(bucket: str, suffix: str) -> None:
    uri = f"s3://{bucket}{suffix}/none"
    with pytest.raises(ActionError, match=uri) as caught:
        perform_action("s3", get=uri)
    assert (caught.value.type, caught.value.status, caught.value.retryable) == ("NotFound", 404, False)


@pytest.mark.parametrize(
    ("body", "format", "message"), [(b"{", "json", "invalid JSON"), (b"\xff", "text", "not UTF-8")]
)
def test_an_object_that_violates_its_format_is_an_error(
    moto_aws: Client, bucket: str, body: bytes, format: str, message: str
) -> None:
    moto_aws("s3").put_object(Bucket=bucket, Key="x", Body=body)
    with pytest.raises(ActionError, match=message) as caught:
        perform_action("s3", get=f"s3://{bucket}/x", format=format)
    assert (caught.value.type, caught.value.retryable) == ("FileError", False)


def test_an_object_that_is_too_long_is_refused(
    moto_aws: Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto_aws("s3").put_object(Bucket=bucket, Key="x", Body=b"abcd")
    monkeypatch.setattr(s3, "MAX_BYTES", 3)
    with pytest.raises(ActionError, match="longer than 3 bytes") as caught:
        perform_action("s3", get=f"s3://{bucket}/x")
    assert caught.value.type == "LimitExceeded"


@pytest.mark.parametrize("uri", ["orders/x", "s3://orders", "s3://orders/", "s3:///x", "https://orders/x"])
def test_an_invalid_uri_is_refused(uri: str) -> None:
    with pytest.raises(ActionError, match="write `s3://BUCKET/KEY`") as caught:
        perform_action("s3", get=uri)
    assert caught.value.type == "ParameterError"


def test_a_missing_permission_is_an_error(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = f"orders-{uuid4()}"
    aws("s3").create_bucket(Bucket=bucket)
    perform_action("s3", put=f"s3://{bucket}/x", content="x")
    drop_permissions(aws, monkeypatch)
    with pytest.raises(ActionError) as caught:
        perform_action("s3", get=f"s3://{bucket}/x")
    assert (caught.value.type, caught.value.status, caught.value.retryable) == ("AccessDenied", 403, False)


def test_the_bucket_with_the_state_of_runs_is_forbidden(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_BUCKET", bucket)
    for verb in ("get", "list", "delete"):
        with pytest.raises(ActionError, match="NOETL_BUCKET") as caught:
            parameters: dict[str, Any] = {verb: f"s3://{bucket}/x"}
            perform_action("s3", **parameters)
        assert caught.value.type == "AccessDenied"
