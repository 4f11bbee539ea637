"""The return of messages whose visit could not be executed because the store failed.

Problem: a message that a function does not finish stays hidden for six times the time limit of the function.
An outage of seconds would hold a run for minutes. A claim that is not released counts as a lost worker, and
five of them fail a step, although no worker was lost.

Algorithm: another message, which arrives after RETURN_SECONDS, replaces the one that was received. It names
the worker that gives up the visit, and its receiver releases the claim. So SQS carries the release while the
store is away, and the number of receives stays small. If the store cannot even be opened, or the message not
be sent, the visibility timeout of the received one is shortened. Source: Amazon SQS Developer Guide.

Cost: nothing while the store works. Otherwise one request for each message.

Limits: if SQS fails as well, the message stays hidden for its visibility timeout. The sweep may find the run
earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from noetl.executor.errors import StoreError
from noetl.executor.model.run import Claim
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.planner.frozen import frozen, replace

RETURN_SECONDS = 20
"""After which time a message arrives again if the store failed."""

logger = logging.getLogger("noetl.executor")


@frozen
class MessageReturn:
    """The return of messages of a batch to the queue at `queue_url`, the setting `NOETL_QUEUE`."""

    queue_url: str

    def shorten(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Let messages arrive again after RETURN_SECONDS. Without access to SQS they arrive later."""
        for record in records:
            handle = record.get("receiptHandle")
            if isinstance(handle, str) and self.queue_url:
                queue = MessageQueue(_queue_of(record, self.queue_url))
                _try_to(partial(queue.extend_visibility, handle, RETURN_SECONDS))

    def send(self, message: DueMessage, now: float) -> bool:
        """Send a message about a visit that is given up, to arrive later. Return whether it was sent.

        `now` is the time of the store.
        """
        later = replace(message, due_at=now + RETURN_SECONDS)
        return bool(self.queue_url) and _try_to(partial(MessageQueue(self.queue_url).send, [later], now))


def message_of_claim(received: DueMessage, claim: Claim) -> DueMessage:
    """Return the message about a claimed visit of the run of a received message."""
    visit = claim.visit
    return replace(
        received, visit_id=visit.id, step=visit.step, cause=None, holders=(), tenant=claim.run.tenant
    )


def _queue_of(record: Mapping[str, Any], queue_url: str) -> str:
    """Return the URL of the queue of a message. Dead letters are in another queue of the same account.

    >>> _queue_of({"eventSourceARN": "arn:aws:sqs:us-east-1:1:dead"}, "https://sqs.test/1/steps")
    'https://sqs.test/1/dead'
    """
    name = str(record.get("eventSourceARN") or queue_url).rpartition("/")[2].rpartition(":")[2]
    return f"{queue_url.rpartition('/')[0]}/{name}"


def _try_to(call: Callable[[], object]) -> bool:
    """Make a call. Return whether it succeeded."""
    try:
        call()
    except StoreError as error:
        logger.warning("a message could not be returned; it arrives after its visibility timeout: %s", error)
        return False
    return True
