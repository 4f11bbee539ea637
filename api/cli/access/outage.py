"""Repetition of requests to a service while it is away: it restarts, or the network is down.

Problem: a command follows a run for hours, and one failed request must not end it.

Algorithm: exponential backoff with a longest wait. `Retry-After` of the service may make a wait longer.

Cost: a request in each wait.

Limits: only requests that change nothing are repeated. After MAX_OUTAGE_SECONDS the command fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_message
from noetl.api.cli.service_requests import PassingFailureError

FIRST_WAIT_SECONDS = 0.5
MAX_WAIT_SECONDS = 10.0
MAX_OUTAGE_SECONDS = 300.0
CHECK_SECONDS = 0.1
"""How often a wait checks whether the command must end."""

R = TypeVar("R")


class OutageError(CommandError):
    """A service that was away for too long."""


@dataclass(frozen=True, slots=True)
class ServiceOutage:
    """The waits for a service that is away. `check` raises if the command must end."""

    host: str
    check: Callable[[], object]

    def outlast(self, request: Callable[[], R]) -> R:
        """Return what a request returns, which is repeated while it fails for a reason that may pass.

        Raises:
            OutageError: it has failed for MAX_OUTAGE_SECONDS.
        """
        began_at: float | None = None
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                response = request()
            except PassingFailureError as error:
                now = time.monotonic()
                if began_at is None:
                    began_at = now
                    print_message(f"{error.summary}; trying again for up to {MAX_OUTAGE_SECONDS:.0f} s")
                remaining = began_at + MAX_OUTAGE_SECONDS - now
                if remaining <= 0:
                    message = f"{self.host} has not answered for {MAX_OUTAGE_SECONDS:.0f} s: {error.summary}"
                    raise OutageError(message, EXIT_FAILED) from error
                self._sleep(min(max(wait, error.retry_after), remaining))
                wait = min(wait * 2, MAX_WAIT_SECONDS)
            else:
                if began_at is not None:
                    print_message(f"{self.host} answers again")
                return response

    def _sleep(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while (remaining := ends_at - time.monotonic()) > 0:
            self.check()
            time.sleep(min(remaining, CHECK_SECONDS))
        self.check()
