"""Channels of type `slack`: the text of a message to an incoming webhook of Slack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noetl.executor.channels.http_post import HttpPost, encode
from noetl.executor.channels.message import Message

if TYPE_CHECKING:
    import httpx

_ESCAPED = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


def slack_post(url: httpx.URL, message: Message) -> HttpPost:
    """Return the request. Control sequences of Slack are escaped, so no text mentions a person."""
    text = message.text
    for sign, escaped in _ESCAPED:
        text = text.replace(sign, escaped)
    return HttpPost("slack", url, {"idempotency-key": message.id}, encode({"text": text}))
