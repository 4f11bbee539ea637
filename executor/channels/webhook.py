"""Channels of type `webhook`: a signed JSON body, as Standard Webhooks says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl.executor.channels.http_post import HttpPost, encode
from noetl.executor.channels.message import Message
from noetl.executor.security.webhook_signatures import sign_standard

if TYPE_CHECKING:
    import httpx


def webhook_post(url: httpx.URL, message: Message, secret: str | None, now: float) -> HttpPost:
    """Return the request. Without a secret it has an id and a time, and no signature.

    Raises:
        SigningSecretError: the secret has no valid base64.
    """
    body = encode(message.body)
    headers = {"webhook-id": message.id, "webhook-timestamp": str(int(now))}
    if secret is not None:
        headers = sign_standard(secret, message.id, now, body)
    return HttpPost("webhook", url, headers | {"idempotency-key": message.id}, body)
