"""Values as bytes in items: compressed JSON, or where that is long, its place in a bucket.

A bucket keeps a value under the run that it is of and the hash of its bytes: putting it again changes nothing, and what is
read is known to be what was written. A value whose commit was refused is left behind there; nothing names it.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections import OrderedDict
from typing import Any

from noetl.executor.clients.aws import client
from noetl.executor.clients.aws_retry import call_with_retries
from noetl.executor.errors import ActionError, StoreError
from noetl.executor.stores.sql.rows import to_text

INLINE_BYTES = 16 * 1024
"""How long a value is kept in its item where there is a bucket: a longer one costs less there."""

_SHORT = 160
"""What is shorter gains nothing from compression."""

_CACHED_BYTES = 32 * 1024 * 1024
_COMPRESSED, _ELSEWHERE = b"z", b"@"


def to_bytes(value: Any) -> bytes:
    """JSON, compressed where that is shorter."""
    text = to_text(value).encode("ascii")
    if len(text) < _SHORT:
        return text
    packed = _COMPRESSED + zlib.compress(text)
    return packed if len(packed) < len(text) else text


def from_bytes(packed: bytes) -> Any:
    """The value that `to_bytes` was given."""
    return json.loads(zlib.decompress(packed[1:]) if packed[:1] == _COMPRESSED else packed)


class Blobs:
    """The values of runs; `bucket` keeps the long ones, where there is one."""

    def __init__(self, bucket: str | None) -> None:
        self.bucket = bucket
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()

    def keep(self, run_id: str, value: Any) -> bytes | None:
        """What stands for a value in an item: None for None and for an empty object."""
        if value is None or value == {}:
            return None
        packed = to_bytes(value)
        if self.bucket is None or len(packed) <= INLINE_BYTES:
            return packed
        key = f"runs/{run_id}/{hashlib.sha256(packed).hexdigest()}"
        self._call("put_object", Key=key, Body=packed, ContentType="application/octet-stream")
        self._remember(key, packed)
        return _ELSEWHERE + key.encode("ascii")

    def look(self) -> None:
        """Ask whether the bucket is there, if one is named.

        Raises:
            StoreError: it is not, or it may not be asked.
        """
        if self.bucket is not None:
            self._call("head_bucket")

    def read(self, kept: bytes | None) -> Any:
        """The value that `keep` was given; None for one that was empty."""
        if kept is None:
            return None
        return from_bytes(self._fetch(kept[1:].decode("ascii")) if kept[:1] == _ELSEWHERE else kept)

    def _fetch(self, key: str) -> bytes:
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        packed: bytes = self._call("get_object", Key=key)
        if hashlib.sha256(packed).hexdigest() != key.rpartition("/")[2]:
            raise StoreError(
                f"The store in DynamoDB is damaged: {key} in bucket {self.bucket} is not what was put there."
            )
        self._remember(key, packed)
        return packed

    def _remember(self, key: str, packed: bytes) -> None:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = packed
                self._cached += len(packed)
            while self._cached > _CACHED_BYTES:
                self._cached -= len(self._cache.popitem(last=False)[1])

    def _call(self, call: str, **asked: Any) -> Any:
        try:
            method = getattr(client("s3", once=True), call)
        except ActionError as error:
            raise StoreError(
                f"The bucket of the store (NOETL_BUCKET) cannot be used: {error.message}"
            ) from error

        def one() -> Any:
            answer = method(Bucket=self.bucket, **asked)
            return answer["Body"].read() if "Body" in answer else answer

        return call_with_retries(f"bucket {self.bucket} (NOETL_BUCKET)", one)[0]
