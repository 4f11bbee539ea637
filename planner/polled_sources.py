"""The sources of triggers that a service reads by itself: folders, queues, and events of a bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.planner.frozen import frozen

DEFAULT_SETTLE_SECONDS = 2.0
MAX_SETTLE_SECONDS = 3600.0

DEFAULT_RECEIVES = 5


@frozen
class Folder:
    """Files of a folder, each of which starts a run.

    Attributes:
        folder: the folder below that of NOETL_FILES_ROOT.
        glob: the pattern of the files below the folder.
        settle_seconds: for how long a file must stay as it is before it counts.
    """

    folder: str
    glob: str = "*"
    settle_seconds: float = DEFAULT_SETTLE_SECONDS

    @property
    def timing(self) -> tuple[Any, ...]:
        """The values that decide when it fires, which are not times."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Folder:
        return cls(**data)


@frozen
class Queue:
    """Messages of a queue, each of which starts a run.

    Attributes:
        url: the address of a queue of SQS, or None.
        table: the table of the database of the store, or None.
        max_receives: how often a message of the table is refused before it is dead.
    """

    url: str | None = None
    table: str | None = None
    max_receives: int = DEFAULT_RECEIVES

    @property
    def name(self) -> str:
        """The address or the table."""
        return self.url or f"table {self.table}"

    @property
    def timing(self) -> tuple[Any, ...]:
        """The values that decide when it fires, which are not times."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Queue:
        return cls(**data)


@frozen
class BucketObjects:
    """Objects that are written to a bucket of S3, each of which starts a run.

    Attributes:
        bucket: the name of the bucket.
        prefix: what the keys of the objects begin with.
    """

    bucket: str
    prefix: str = ""

    @property
    def timing(self) -> tuple[Any, ...]:
        """The values that decide when it fires, which are not times."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BucketObjects:
        return cls(**data)


@frozen
class BusEvents:
    """Events of Amazon EventBridge, each of which starts a run.

    Attributes:
        source: the `source` of the events.
        detail_types: their `detail-type`, one of these. None are given for events of every type.
    """

    source: str
    detail_types: tuple[str, ...] = ()

    @property
    def timing(self) -> tuple[Any, ...]:
        """The values that decide when it fires, which are not times."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {"source": self.source, "detail_types": list(self.detail_types)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BusEvents:
        return cls(data["source"], tuple(data["detail_types"]))
