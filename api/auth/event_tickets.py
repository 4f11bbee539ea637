"""Tickets with which a browser opens the event stream of a run.

Problem: the EventSource of browsers cannot send the header `Authorization`. A key in the address would be
written to logs and histories.

Algorithm: a ticket is a capability (Dennis and Van Horn 1966): a tenant, a run and a time, authenticated with
HMAC-SHA256 (RFC 2104). All processes of a service sign with one random key. The first of them adds it to the
API keys of the store. That record belongs to no tenant, and no text has its value as hash.

Cost: one HMAC for each ticket. A process reads the key once.

Limits: a ticket is valid for TICKET_SECONDS, any number of times. An open stream outlasts it, by an hour at
most (`client_check`). It cannot be revoked. A reader of the store can sign tickets, but can also read the
events themselves.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from noetl.api.http.problems import Problem, unauthenticated
from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import SERVICE_TENANT, ApiKey
from noetl.executor.stores.interface import Store

TICKET_SECONDS = 60
SIGNING_KEY_ID = "event-tickets"

_USE = b"noetl event stream 1\n"
"""Prefix of what is signed. The key signs nothing else."""

_TICKET = re.compile(r"(?P<claims>[A-Za-z0-9_-]{1,1000})\.(?P<signature>[A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class TicketClaims:
    """The run that a ticket opens, its tenant, and the time from which the ticket is refused."""

    tenant: str
    run_id: str
    expires_at: int


class EventTickets:
    """The tickets of a service. Safe to share between threads.

    The clock is that of the store, because another process may check a ticket than the one that issued it.
    """

    def __init__(self, store: Store, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._clock = clock or store.clock
        self._key: bytes | None = None

    def issue(self, tenant: str, run_id: str) -> tuple[str, TicketClaims]:
        """Return a new ticket for the events of a run, which the caller must be allowed to read."""
        claims = TicketClaims(tenant, run_id, int(self._clock()) + TICKET_SECONDS)
        content = json.dumps([claims.tenant, claims.run_id, claims.expires_at], separators=(",", ":"))
        text = _encode(content.encode())
        return f"{text}.{_sign(self._signing_key(), text)}", claims

    def verify(self, ticket: str, run_id: str) -> TicketClaims:
        """Return what a valid ticket for a run claims.

        Raises:
            Problem: 401, the ticket is not valid, or is for another run.
        """
        match, key = _TICKET.fullmatch(ticket), self._stored_key()
        if match is None or key is None:
            raise invalid_ticket()
        if not hmac.compare_digest(_sign(key, match["claims"]), match["signature"]):
            raise invalid_ticket()
        padding = "=" * (-len(match["claims"]) % 4)
        claims = TicketClaims(*json.loads(base64.urlsafe_b64decode(match["claims"] + padding)))
        if claims.run_id != run_id or self._clock() >= claims.expires_at:
            raise invalid_ticket()
        return claims

    def _signing_key(self) -> bytes:
        """Return the key, and create it if the store has none."""
        key = self._stored_key()
        if key is None:
            value = secrets.token_hex(32)
            record = ApiKey(SIGNING_KEY_ID, value, SERVICE_TENANT, "signs tickets", (), self._clock())
            with suppress(RejectedError):  # Another process was first.
                self._store.keys.add(record)
            key = self._stored_key()
            assert key is not None
        return key

    def _stored_key(self) -> bytes | None:
        if self._key is None:
            record = self._store.keys.get(SIGNING_KEY_ID)
            self._key = None if record is None else record.hash.encode()
        return self._key


def invalid_ticket() -> Problem:
    """Return the problem of a ticket that is not accepted. It does not say why."""
    return unauthenticated("The ticket is not valid for this run, or has expired. Request another one.")


def _sign(key: bytes, text: str) -> str:
    return _encode(hmac.new(key, _USE + text.encode(), hashlib.sha256).digest())


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
