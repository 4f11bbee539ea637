"""A budget for the large answers that clients have not read yet.

Problem: a server takes a response whole, however large it is, and keeps it until its client has read it. A
client that asks for many large results, and reads none, fills the memory of the process.

Algorithm: a large answer is sent after its route has ended, in parts of PART_BYTES. The server takes the next
part when the client has read enough (flow control). Until the last part the answer counts, for its tenant and
for the process. An answer beyond the budget is dropped, and its request is answered with 503.

Cost: a copy of each part. Other requests have their turns between the parts. While other tenants send
requests, the large answers of a tenant pause together (`noetl.api.http.part_pauses`).

Limits: MAX_UNSENT_BYTES, which tenants share by dynamic thresholds
(`noetl.api.http.dynamic_threshold`). Answers of one part are not counted, nor are
streams, whose parts are made one after the other. How long a client may take is up to the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noetl.api.http.dynamic_threshold import DynamicThreshold
from noetl.api.http.part_pauses import PartPauses
from noetl.api.http.problems import Problem

MAX_UNSENT_BYTES = 256 * 1024 * 1024
"""How many bytes of large answers a process keeps for clients. A result has up to a quarter of it."""

PART_BYTES = 64 * 1024
"""Size of a part. A server takes about as much without waiting for its client."""

PART_SECONDS = 0.001
"""How long the large answers of a tenant pause after a part while others send requests: 64 MB a second."""

RETRY_SECONDS = 5


class AnswerBudget:
    """The bytes of large answers that are being sent. Only one thread may use it."""

    def __init__(self, max_bytes: int = MAX_UNSENT_BYTES) -> None:
        self._bytes = DynamicThreshold(max_bytes)

    @property
    def reserved_bytes(self) -> int:
        """Number of bytes that are being sent now."""
        return self._bytes.total

    @contextmanager
    def reserve(self, tenant: str, size: int) -> Iterator[None]:
        """Count an answer to a tenant during this block.

        Raises:
            Problem: 503, the tenant or the process has too many bytes of answers that were not read.
        """
        if not self._bytes.may_take(tenant, size):
            held = self._bytes.held_by(tenant)
            subject, held = ("tenant", held) if held else ("process", self.reserved_bytes)
            raise _too_many_answers(f"This {subject} has {held:,}")
        self._bytes.take(tenant, size)
        try:
            yield
        finally:
            self._bytes.give_back(tenant, size)


class UnsentAnswersMiddleware:
    """Middleware that sends large answers in parts, within a budget.

    `tenant_of` returns under which name the answer to a request counts. `is_contended` returns whether
    tenants other than one send requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        budget: AnswerBudget,
        tenant_of: Callable[[Scope], str],
        is_contended: Callable[[Scope, str], bool] = lambda _scope, _tenant: False,
    ) -> None:
        self._app = app
        self._budget = budget
        self._tenant_of = tenant_of
        self._is_contended = is_contended
        self._pauses = PartPauses(PART_SECONDS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _HeldAnswer(send)
        await self._app(scope, receive, answer.receive)
        body = answer.body
        if answer.start is None or body is None:
            return
        tenant = self._tenant_of(scope)
        with ExitStack() as places:
            try:
                places.enter_context(self._budget.reserve(tenant, len(body)))
            except Problem as problem:
                answer.body = body = None
                await problem.response(scope["path"])(scope, receive, send)
                return
            await send(answer.start)
            for start in range(0, len(body), PART_BYTES):
                end = start + PART_BYTES
                more_body = end < len(body)
                await send({"type": "http.response.body", "body": body[start:end], "more_body": more_body})
                await self._pause(scope, tenant)

    async def _pause(self, scope: Scope, tenant: str) -> None:
        """Let other requests run. A server takes all parts at once if the client reads fast."""
        if self._is_contended(scope, tenant):
            await self._pauses.wait(tenant)
        else:
            await asyncio.sleep(0)


@dataclass(slots=True)
class _HeldAnswer:
    """The messages of an app on their way to `send`. A large answer that is complete is held."""

    send: Send
    start: dict[str, Any] | None = None
    body: bytes | None = field(default=None, repr=False)

    async def receive(self, message: Message) -> None:
        """Pass a message on, or hold it."""
        if message["type"] == "http.response.start":
            self.start = dict(message)
            return
        if message["type"] == "http.response.body" and self.start is not None:
            body = message.get("body", b"")
            if len(body) > PART_BYTES and not message.get("more_body", False):
                self.body = body
                return
            start, self.start = self.start, None
            await self.send(start)
        await self.send(message)


def _too_many_answers(subject: str) -> Problem:
    detail = f"{subject} bytes of answers that were not read. Read them first."
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return Problem(503, detail, slug="too-many-answers", headers=headers)
