"""The service of webhooks: it finds them, recognises the senders of requests, and starts runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from noetl.api.service.errors import NotFoundError
from noetl.api.service.tenant import TenantContext
from noetl.executor.errors import SettingError
from noetl.planner.frozen import frozen
from noetl.planner.syntax.names import is_webhook_path

if TYPE_CHECKING:
    from noetl.executor.engine.firing import Firer
    from noetl.executor.engine.webhook_firing import Delivery, WebhookRequest

UNSIGNED_SETTING = "NOETL_ALLOW_UNSIGNED_WEBHOOKS"
"""The setting that allows webhooks whose senders are not recognised."""


@frozen
class WebhookService:
    """The webhooks of one tenant."""

    context: TenantContext

    def find(self, path: str) -> Firer:
        """Return what fires the webhook at a path.

        Raises:
            NotFoundError: there is no such webhook. An unknown tenant has the same message.
        """
        from noetl.executor.engine.webhook_firing import find_webhook

        tenant = self.context.tenant
        now = self.context.clock()
        firer = find_webhook(self.context.store, tenant, path, now) if is_webhook_path(path) else None
        if firer is None:
            raise NotFoundError("unknown webhook")
        return firer

    def check_sender(
        self, firer: Firer, headers: Mapping[str, str], body: bytes, environ: Mapping[str, str]
    ) -> None:
        """Check that the expected sender has signed a request.

        Raises:
            SignatureError: another sender has sent it, or it is too old.
            MissingSecretError: no secret of the webhook can be read.
        """
        from noetl.executor.engine.webhook_firing import check_sender

        check_sender(firer, headers, body, environ)

    def deliver(self, firer: Firer, request: WebhookRequest) -> Delivery:
        """Start the run of a request, or return that of an earlier one with the same key.

        Raises:
            RejectedError: `quota_exceeded`; `trigger_changed`.
        """
        from noetl.executor.engine.webhook_firing import perform_request

        return perform_request(firer, request, self.context.clock)


def allows_unsigned(settings: Mapping[str, str]) -> bool:
    """Return whether webhooks with the scheme `none` are accepted.

    Raises:
        SettingError: the setting is neither 1 nor 0.
    """
    text = settings.get(UNSIGNED_SETTING, "").strip()
    if text not in ("", "0", "1"):
        raise SettingError(f"{UNSIGNED_SETTING} is {text!r}; it must be 1 or 0.")
    return text == "1"
