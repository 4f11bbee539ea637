"""`s3`: objects of a bucket."""

from __future__ import annotations

from typing import NoReturn

from executor.actions._formats import FORMATS
from executor.actions.action import Call, not_supported
from planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="s3",
    description="Reads, writes, lists or deletes objects of a bucket.",
    parameters={
        "get": Parameter((Kind.STRING,), "The URI of the object to read."),
        "put": Parameter((Kind.STRING,), "The URI of the object to write.", requires=("content",)),
        "list": Parameter((Kind.STRING,), "A prefix, as a URI."),
        "delete": Parameter((Kind.STRING,), "The URI of the object to delete."),
        "content": Parameter((Kind.ANY,), "What to write."),
        "format": Parameter((Kind.STRING,), "How the object is written: `text` unless given.", choices=FORMATS),
    },
    one_of=("get", "put", "list", "delete"),
    supported=False,
)


def perform(call: Call) -> NoReturn:
    not_supported("s3")
