"""The log lines of a service about firings that start nothing: `rejected` and `missed`.

The process that has committed a firing logs it. A store logs those that a change of the live version has
missed, as only it knows them. All firings of a trigger with an outcome have one message,
and the reason is a field. So a flood of them has a few lines a minute, as of each fault
(`noetl.executor.runtime.repeat_limit`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from noetl.executor.model.triggers import MAX_REASON_LENGTH, Firing, FiringOutcome, instant_key
from noetl.executor.security.redaction import redact_cut_text

LOGGED = frozenset({FiringOutcome.REJECTED, FiringOutcome.MISSED})
"""The outcomes that have a line. The others are wanted by the playbook."""

MAX_LOGGED_REASON = MAX_REASON_LENGTH // 2
"""How many characters of a reason a line has. The stored reason may end in a part of a secret."""

logger = logging.getLogger("noetl.triggers")
# A command that resumes a trigger has no log, and says itself what it has done.
logger.addHandler(logging.NullHandler())


def log_firings(firings: Iterable[Firing]) -> None:
    """Log the committed firings that have started nothing, though they should have."""
    for firing in firings:
        if firing.outcome in LOGGED:
            message = f"firing {firing.outcome.value}: trigger {firing.trigger} of {firing.playbook}"
            logger.warning("%s", message, extra={"fields": _fields(firing)})


def _fields(firing: Firing) -> dict[str, object]:
    instant = firing.fired_at if firing.scheduled_at is None else firing.scheduled_at
    return {
        "playbook": firing.playbook,
        "trigger": firing.trigger,
        "tenant": firing.tenant,
        "version": firing.version,
        "outcome": firing.outcome.value,
        "reason": redact_cut_text(firing.reason or "")[:MAX_LOGGED_REASON],
        "instant": instant_key(instant),
        **({"count": firing.count} if firing.count > 1 else {}),
        **({} if firing.backfill is None else {"backfill": firing.backfill}),
    }
