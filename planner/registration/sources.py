"""The check of the sources of triggers that a service may not read (NP820)."""

from __future__ import annotations

from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.registration.findings import PlanPlace, RegistrationFindings
from noetl.planner.registration.registry import OperatorRules


def check_sources_allowed(findings: RegistrationFindings, rules: OperatorRules) -> None:
    """Report each trigger that does not fire, as the operator does not allow its source."""
    for number, trigger in enumerate(findings.plan.header.triggers):
        rule = rules.missing_rule(trigger.source)
        if rule is not None:
            message = (
                f"trigger `{trigger.name}` does not fire: this service may not read `{abbreviate(rule)}`"
            )
            hint = f"add the rule `{rule}` to `NOETL_TRIGGER_SOURCES`"
            findings.report("NP820", message, PlanPlace(("triggers", number, "type")), hint)
