"""One HTTP request of a channel, to an address that the rules for egress allow."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from noetl.executor.clients.egress import MAX_PORT
from noetl.executor.errors import ActionError
from noetl.executor.model.deliveries import SEND_SECONDS, DeliveryFailure
from noetl.executor.patience import bounded_by_invocation
from noetl.executor.security.redaction import redact
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    import httpx

_HOST = re.compile(rb"[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
"""The host of a URL in the letters of DNS, or an address of IPv6."""

_AWAY_STATUSES = (408, 425, 429)
"""Statuses below 500 with which a receiver says that it can take nothing now."""


@frozen
class HttpPost:
    """A request: its URL, its headers and its body. `sender` is the type of the channel, for messages."""

    sender: str
    url: httpx.URL
    headers: Mapping[str, str]
    body: bytes

    def send(self, networks: tuple[str, ...], stopping: threading.Event) -> DeliveryFailure | None:
        """Send the request. Return None if the receiver answers with a status of 200 to 299.

        Redirects are not followed. `networks` are those that are allowed although they are not public.

        Raises:
            CancelledError: `stopping` was set.
        """
        import httpcore
        import httpx

        from noetl.executor.clients.egress import vetted_transport
        from noetl.executor.clients.time_limit import time_limit

        headers = {"content-type": "application/json", "user-agent": "noetl", **self.headers}
        request = httpx.Request("POST", self.url, headers=headers, content=self.body)
        server = self.url.netloc.decode()
        seconds = bounded_by_invocation(SEND_SECONDS)
        try:
            with time_limit(time.monotonic() + seconds, cancelled=stopping):
                response = vetted_transport(networks, self.sender).handle_request(request)
                response.close()
        except (httpcore.TimeoutException, TimeoutError):
            return DeliveryFailure(f"`{server}` did not answer within {round(seconds, 1):g} s")
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            return DeliveryFailure(
                f"no response from `{server}`: {redact(str(error)) or type(error).__name__}"
            )
        return _judge(server, response.status_code, response.headers)


def parse_target(text: str) -> httpx.URL:
    """Return the URL of a channel.

    Raises:
        ActionError: `ParameterError`, if it is no http or https URL, or has a template, a host that is none,
            a user name or a password.
    """
    import httpx

    if "{{" in text:
        raise _invalid("the URL of a channel must be text, or exactly one `{{ secrets.NAME }}`")
    try:
        url = httpx.URL(text)
        has_host = bool(url.host)  # It is decoded when it is read.
    except (httpx.InvalidURL, UnicodeError):
        raise _invalid("the URL of a channel is invalid") from None
    if url.scheme not in ("http", "https") or not has_host:
        raise _invalid("the URL of a channel must begin with http:// or https://")
    if not _HOST.fullmatch(url.raw_host):
        raise _invalid("the URL of a channel has a host that cannot exist")
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise _invalid(f"the URL of a channel has the port {url.port}, which does not exist")
    if url.userinfo:
        raise _invalid("the URL of a channel must not contain a user name or password")
    return url


def encode(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _judge(server: str, status: int, headers: Mapping[str, str]) -> DeliveryFailure | None:
    if 200 <= status < 300:
        return None
    reason = f"`{server}` answered {status}"
    if status == 410:
        return DeliveryFailure(f"{reason} Gone", refuses_all=True, is_away=False)
    if 300 <= status < 400:
        return DeliveryFailure(f"{reason}: redirects are not followed", is_away=False)
    is_away = status >= 500 or status in _AWAY_STATUSES
    return DeliveryFailure(reason, _retry_after(headers) if is_away else None, is_away=is_away)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the header `Retry-After`, or None (RFC 9110, section 10.2.3).

    >>> _retry_after({"retry-after": "120"}), _retry_after({"retry-after": "soon"})
    (120.0, None)
    >>> date = {"date": "Fri, 31 Dec 1999 23:59:00 GMT"}
    >>> _retry_after({**date, "retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"})
    59.0
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        now = time.time()
    return max(until - now, 0.0)


def _invalid(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
