"""The service of callbacks: answers and heartbeats for steps that wait for an external system."""

from __future__ import annotations

from typing import Any

from noetl.api.service.tenant import TenantContext
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.run import WaitKey
from noetl.executor.model.wait_transition import unknown_token
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.frozen import frozen


@frozen
class CallbackService:
    """The callbacks of all tenants: a token is the credential for its wait."""

    context: TenantContext

    def check_token(self, token: str) -> None:
        """Raise unless the token was given out. So the body of a request with another one is never read.

        Raises:
            RejectedError: `unknown_token`.
        """
        if not self.context.store.waits.has_token(hash_secret(token)):
            raise unknown_token()

    def answer(self, token: str, body: Any) -> WaitKey:
        """Complete the action that waits for the token with `body`, and return the key of its wait.

        The same answer again changes nothing. The answer is stored without secrets.

        Raises:
            RejectedError: `unknown_token`; `answered_otherwise`, by another answer before; `closed`, if no
                action waits for it any more; `too_large`.
        """
        answer = redact_for_storage(body)
        return self.context.store.waits.answer(hash_secret(token), answer, self.context.clock())

    def record_heartbeat(self, token: str) -> None:
        """Record that an external worker is still working on the answer to a token.

        Raises:
            RejectedError: `unknown_token` and `closed`, as for an answer.
        """
        self.context.store.waits.record_heartbeat(hash_secret(token), self.context.clock())
