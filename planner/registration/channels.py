"""The check of the channels that a playbook names in `notify` (NP851)."""

from __future__ import annotations

from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.registration.findings import PlanPlace, RegistrationFindings
from noetl.planner.registration.registry import OperatorRules
from noetl.planner.syntax.models import DocumentPath


def check_channels(findings: RegistrationFindings, rules: OperatorRules) -> None:
    """Report each channel that does not exist, once."""
    notify = findings.plan.header.notify
    if notify is None:
        return
    known = rules.channels()
    reported = set(known)
    for event, names in notify.channels.items():
        path: DocumentPath = ("notify", "late", "to") if event == "late" else ("notify", event)
        for number, name in enumerate(names):
            if name not in reported:
                reported.add(name)
                hint = (
                    findings.did_you_mean(name, known)
                    or f"add it with `noetl channels add {name} --target URL`"
                )
                place = PlanPlace((*path, number))
                findings.report("NP851", f"unknown channel `{abbreviate(name)}`", place, hint)
