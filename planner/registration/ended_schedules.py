"""The check of schedules whose time is over when they are registered (NP802)."""

from __future__ import annotations

from datetime import UTC, datetime

from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.plan import Plan
from noetl.planner.registration.findings import PlanPlace, RegistrationFindings
from noetl.planner.schedules.schedule import Schedule

ENDED_CODE = "NP802"


def find_ended_schedules(plan: Plan, now: float) -> tuple[Diagnostic, ...]:
    """Return a warning for each schedule that has no firing after a time.

    The compiler has no clock, so only a registration can know this.
    """
    findings = RegistrationFindings(plan)
    for number, trigger in enumerate(plan.header.triggers):
        source = trigger.source
        if isinstance(source, Schedule) and source.end_at is not None and source.next_after(now) is None:
            end = datetime.fromtimestamp(source.end_at, UTC).isoformat().replace("+00:00", "Z")
            message = f"trigger `{abbreviate(trigger.name)}` has no firing left before its end, {end}"
            hint = "write a later `end`, or remove the trigger"
            place = PlanPlace(("triggers", number, "end"))
            findings.report(ENDED_CODE, message, place, hint, Severity.WARNING)
    return findings.to_diagnostics()
