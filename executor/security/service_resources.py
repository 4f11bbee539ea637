"""The queues, buckets and functions of AWS that a service uses itself, by the settings that name them.

All tenants share the permissions of a process. An action that writes to one of these acts as the service:
a forged event in its queue starts runs of other tenants. So actions refuse all of them, in any spelling.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal

ResourceKind = Literal["queue", "bucket", "function"]

EVENT_QUEUE_SETTING = "NOETL_EVENT_QUEUE"
"""The setting that names the queue to which EventBridge sends events."""

STACK_SETTING = "NOETL_STACK"
"""The setting that names the stack of the service, with which the names of its resources begin."""

STACK_KINDS: tuple[ResourceKind, ...] = ("queue", "function")
"""The kinds of resources that are refused by the name of the stack."""

RESOURCE_SETTINGS: Mapping[str, ResourceKind] = {
    "NOETL_QUEUE": "queue",
    EVENT_QUEUE_SETTING: "queue",
    "NOETL_BUCKET": "bucket",
    "AWS_LAMBDA_FUNCTION_NAME": "function",
}
"""The kind of the resource that each setting names."""

_QUEUE = re.compile(r"(?:arn:[\w-]+:sqs:[\w-]*:(\d+):|https?://[^/\s?#@]+/(\d+)/)(?P<name>[\w.-]+)", re.ASCII)


def spell_queue(address: str) -> str:
    """Return what the URLs and the ARN of a queue of SQS have in common. Another text is returned as it is.

    >>> spell_queue("https://sqs.eu-west-1.amazonaws.com/123456789012/orders")
    '123456789012 orders'
    >>> spell_queue("arn:aws:sqs:eu-west-1:123456789012:orders")
    '123456789012 orders'
    """
    found = _QUEUE.fullmatch(address)
    return address if found is None else f"{found[1] or found[2]} {found['name']}"


def find_resource_setting(
    kind: ResourceKind, name: str, environ: Mapping[str, str] = os.environ
) -> str | None:
    """Return the setting that says that a resource is one of the service, or None.

    `name` is the name of a bucket or function, or an address of a queue.

    >>> find_resource_setting("bucket", "Runs", {"NOETL_BUCKET": "runs"})
    'NOETL_BUCKET'
    """
    spelling = spell_queue(name).lower() if kind == "queue" else name.lower()
    for setting, resource_kind in RESOURCE_SETTINGS.items():
        used_name = environ.get(setting, "").strip()
        if used_name and resource_kind == kind and spell_queue(used_name).lower() == spelling:
            return setting
    stack = environ.get(STACK_SETTING, "").strip().lower()
    if stack and kind in STACK_KINDS and spelling.rpartition(" ")[2].startswith(f"{stack}-"):
        return STACK_SETTING
    return None
