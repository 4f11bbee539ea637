"""Values as bytes: compressed JSON in an item, or in a bucket if they are long.

Problem: an item has at most 400 KB, and each KB costs a write unit. Outputs of steps may have megabytes.

Algorithm: the claim-check pattern (Hohpe and Woolf 2003) with content addressing. A long value is stored in
S3 under its run and the SHA-256 of its bytes, and the item holds that key. Storing a value twice changes
nothing, and a read verifies the hash.

A long list is stored as the text of its JSON in parts, so that a page of it is read alone. Each part is
compressed. In S3 the parts are one object, of which a range is read.

Cost: one S3 request for each long value. Up to _CACHED_BYTES of values are cached, least recently used first
out. In a Lambda function it is at most a 16th of the free memory.

Limits: the object of a commit that was refused stays in the bucket, and no item refers to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from noetl.executor.clients.aws_retry import call_with_retries, store_client
from noetl.executor.errors import ActionError, PayloadLostError, StoreError
from noetl.executor.model.function_memory import free_bytes, read_function_bytes
from noetl.executor.model.read_memory import is_counting_reads, reserve_read
from noetl.executor.model.stored_json import encode_json

INLINE_BYTES = 8 * 1024
"""Longest value that stays in its item although there is a bucket: a longer one costs less in S3.

A test compares the prices. The bytes are those of the compressed value.
"""

NO_BUCKET = "The store in DynamoDB has values in a bucket. Set NOETL_BUCKET to its name."
"""The problem of a store without the name of its bucket."""

PART_CHARACTERS = 16 * 1024
"""Length of the parts of a long list. A shorter list is not divided."""

_MIN_COMPRESSED = 160
"""Length in bytes below which compression gains nothing."""

_CACHED_BYTES = 32 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_LENGTH = "characters"
"""The metadata of an object that say how long its value is as JSON."""

_GUESSED_RATIO = 2
"""How much longer the value of an object is than its bytes, if it has no such metadata."""

_COMPRESSED, _IN_BUCKET = b"z", b"@"
"""First bytes that mark a compressed value and the key of an object. JSON text begins with neither."""


def to_bytes(value: Any) -> bytes:
    """Return the JSON of a value, compressed if that is shorter."""
    return _pack(encode_json(value).encode("ascii"))


def _pack(text: bytes) -> bytes:
    if len(text) < _MIN_COMPRESSED:
        return text
    packed = _COMPRESSED + zlib.compress(text)
    return packed if len(packed) < len(text) else text


def is_in_bucket(stored: bytes | None) -> bool:
    """Return whether a stored value is the key of an object."""
    return stored is not None and stored[:1] == _IN_BUCKET


def from_bytes(packed: bytes) -> Any:
    """Return the argument of `to_bytes`.

    >>> from_bytes(to_bytes(["x" * 1000])) == ["x" * 1000]
    True
    """
    return json.loads(unpack(packed))


def unpack(packed: bytes) -> bytes:
    """Return the JSON text in the bytes of a value."""
    return zlib.decompress(packed[1:]) if packed[:1] == _COMPRESSED else packed


def count_characters(packed: bytes) -> int:
    """Return the length of the JSON text in the bytes of a value, without holding it.

    >>> count_characters(to_bytes("x" * 1_000_000))
    1000002
    """
    return _count_packed(packed[1:]) if packed[:1] == _COMPRESSED else len(packed)


def _count_packed(packed: bytes) -> int:
    decompressor, rest, length = zlib.decompressobj(), packed, 0
    while rest:
        length += len(decompressor.decompress(rest, _CHUNK_BYTES))
        rest = decompressor.unconsumed_tail
    return length + len(decompressor.flush())


class Blobs:
    """Values of runs as bytes for items. `bucket` is the name of the S3 bucket for long values, or None."""

    def __init__(self, bucket: str | None) -> None:
        self.bucket = bucket
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cached_bytes = 0
        size = read_function_bytes(os.environ)
        self._cache_limit = _CACHED_BYTES if size is None else min(_CACHED_BYTES, free_bytes(size) // 16)
        self._lock = threading.Lock()

    def store(self, run_id: str, value: Any) -> bytes | None:
        """Return the bytes that stand for a value in an item, and store a long value; None for None and for
        {}.
        """
        if value is None or value == {}:
            return None
        text = encode_json(value).encode("ascii")
        packed = _pack(text)
        if self.bucket is None or len(packed) <= INLINE_BYTES:
            return packed
        length = len(text)
        del text
        return self._put(run_id, packed, length)

    def _put(self, run_id: str, packed: bytes, length: int) -> bytes:
        """Store an object of which the JSON has a length, and return what stands for it in an item."""
        key = f"runs/{run_id}/{hashlib.sha256(packed).hexdigest()}"
        media_type, metadata = "application/octet-stream", {_LENGTH: str(length)}
        self._call("put_object", Key=key, Body=packed, ContentType=media_type, Metadata=metadata)
        self._add_to_cache(key, packed)
        return _IN_BUCKET + key.encode("ascii")

    def store_parts(self, run_id: str, text: str) -> list[bytes | int]:
        """Return the parts of an ASCII text for an item. Of long ones, store an object, and return where
        each ends.
        """
        starts = range(0, len(text), PART_CHARACTERS)
        parts: list[bytes | int] = []
        packed, ends = bytearray(), []
        for start in starts:
            part = zlib.compress(text[start : start + PART_CHARACTERS].encode("ascii"))
            parts.append(part)
            packed += part
            ends.append(len(packed))
        if self.bucket is None or len(packed) <= INLINE_BYTES:
            return parts
        return [self._put(run_id, bytes(packed), len(text)), *ends]

    def load_parts(self, stored: Sequence[bytes | int], first: int = 0, last: int | None = None) -> str:
        """Return the text of the parts from `first` to `last`, or to the end.

        Raises:
            PayloadLostError, ActionError: as `load` does.
        """
        key, *ends = stored
        if not isinstance(key, bytes) or not is_in_bucket(key):
            chosen = [part for part in stored if isinstance(part, bytes)][first:last]
            reserve_read(sum(map(_count_packed, chosen)) if is_counting_reads() else 0)
            return b"".join(map(zlib.decompress, chosen)).decode("ascii")
        places = [0, *(end for end in ends if isinstance(end, int))]
        last = min(len(places) - 1 if last is None else last, len(places) - 1)
        if first >= last:
            return ""
        packed = self._get_range(key[1:].decode("ascii"), places[first], places[last])
        bounds = zip(places[first:last], places[first + 1 : last + 1], strict=True)
        texts = [
            zlib.decompress(packed[begin - places[first] : end - places[first]]) for begin, end in bounds
        ]
        return b"".join(texts).decode("ascii")

    def _get_range(self, key: str, begin: int, end: int) -> bytes:
        with self._lock:
            cached = self._cache.get(key)
        if cached is not None:
            return cached[begin:end]
        return self._get_object(key, Range=f"bytes={begin}-{end - 1}")

    def delete_run(self, run_id: str) -> None:
        """Delete all objects of a run.

        Raises:
            StoreError: the bucket cannot be reached, or access is denied.
        """
        if self.bucket is None:
            return
        while True:
            page = self._call("list_objects_v2", Prefix=f"runs/{run_id}/")
            found = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
            if found:
                deleted = self._call("delete_objects", Delete={"Objects": found, "Quiet": True})
                if deleted.get("Errors"):
                    reason = deleted["Errors"][0].get("Message", "access is denied")
                    raise StoreError(f"Objects in bucket {self.bucket} could not be deleted: {reason}.")
            if not page.get("IsTruncated"):
                return

    def check_access(self) -> None:
        """Check that the bucket exists and may be used, if one is named.

        Raises:
            StoreError: it does not exist, or access is denied.
        """
        if self.bucket is not None:
            self._call("head_bucket")

    def has_object(self, stored: bytes) -> bool:
        """Return whether the object of a value in the bucket exists."""
        try:
            self._call("head_object", Key=stored[1:].decode("ascii"))
        except StoreError as error:
            if _error_code(error) not in ("404", "NoSuchKey"):
                raise
            return False
        return True

    def load(self, stored: bytes | None) -> Any:
        """Return the value that `store` was given, or None for {}.

        Raises:
            PayloadLostError: its object was deleted, or is damaged.
            ActionError: `PayloadTooLarge`, in a block `strict_reads`, if the memory does not suffice.
        """
        if stored is None:
            return None
        if stored[:1] == _IN_BUCKET:
            return from_bytes(self._fetch(stored[1:].decode("ascii")))
        _reserve(stored)
        return from_bytes(stored)

    def _fetch(self, key: str) -> bytes:
        with self._lock:
            cached = self._cache.get(key)
            if cached is not None:
                self._cache.move_to_end(key)
        if cached is not None:
            _reserve(cached)
            return cached
        packed = self._get_object(key)
        if hashlib.sha256(packed).hexdigest() != key.rpartition("/")[2]:
            raise PayloadLostError(f"object {key} in bucket {self.bucket} does not match its hash")
        self._add_to_cache(key, packed)
        return packed

    def load_if_kept(self, stored: bytes | None) -> Any:
        """Return the value that `store` was given, or None for {} and for a value that is lost."""
        try:
            return self.load(stored)
        except PayloadLostError:
            return None

    def _get_object(self, key: str, **options: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            PayloadLostError: it does not exist, although its bucket does.
            StoreError: no bucket is named.
        """
        if self.bucket is None:
            raise StoreError(NO_BUCKET)
        try:
            packed: bytes = self._call("get_object", Key=key, **options)
        except StoreError as error:
            if _error_code(error) != "NoSuchKey":
                raise
            raise PayloadLostError(f"object {key} is not in bucket {self.bucket} any more") from error
        return packed

    def _add_to_cache(self, key: str, packed: bytes) -> None:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = packed
                self._cached_bytes += len(packed)
            while self._cached_bytes > self._cache_limit:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def _call(self, call: str, **parameters: Any) -> Any:
        try:
            method = getattr(store_client("s3"), call)
        except ActionError as error:
            raise StoreError(
                f"The bucket of the store (NOETL_BUCKET) cannot be used: {error.message}"
            ) from error

        has_reserved = False

        def call_once() -> Any:
            nonlocal has_reserved
            response = method(Bucket=self.bucket, **parameters)
            if "Body" not in response:
                return response
            with closing(response["Body"]) as body:
                if not has_reserved:
                    try:
                        reserve_read(_length_of(response))
                    except ActionError as problem:
                        return problem
                    has_reserved = True
                return body.read()

        result = call_with_retries(f"bucket {self.bucket} (NOETL_BUCKET)", call_once)
        if isinstance(result, ActionError):
            raise result
        return result


def _error_code(error: StoreError) -> str:
    """Return the code with which S3 has refused a request."""
    return str(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", ""))


def _length_of(response: Any) -> int:
    """Return the length of the value of an object as JSON, or a guess."""
    text = response.get("Metadata", {}).get(_LENGTH, "")
    return int(text) if text.isdecimal() else _GUESSED_RATIO * int(response["ContentLength"])


def _reserve(packed: bytes) -> None:
    """Reserve memory for a value that is about to be decompressed.

    Raises:
        ActionError: as `reserve_read`.
    """
    if is_counting_reads():
        reserve_read(count_characters(packed))
