"""The registry of diagnostic codes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """The severity of a diagnostic. Only errors prevent a run from starting."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Code:
    """A diagnostic code with its title and its default severity."""

    code: str
    title: str
    severity: Severity = Severity.ERROR


def _codes(*rows: tuple[str, str] | tuple[str, str, Severity]) -> dict[str, Code]:
    return {row[0]: Code(*row) for row in rows}


CODES = _codes(
    ("NP001", "invalid YAML"),
    ("NP002", "duplicate key"),
    ("NP003", "tag, merge key or second document"),
    ("NP004", "too large or too deep"),
    ("NP005", "aliases expand too far"),
    ("NP006", "scalar that YAML 1.1 and 1.2 read differently", Severity.WARNING),
    ("NP010", "unknown key"),
    ("NP011", "missing key"),
    ("NP012", "wrong type"),
    ("NP101", "unknown step"),
    ("NP102", "duplicate step"),
    ("NP103", "unknown task"),
    ("NP104", "duplicate task"),
    ("NP105", "name of both a step and a task"),
    ("NP106", "step not allowed here"),
    ("NP107", "step with neither `run` nor `rule`"),
    ("NP108", "tasks call each other in a cycle"),
    ("NP109", "unused task", Severity.WARNING),
    ("NP110", "illegal or reserved name"),
    ("NP201", "unreachable step", Severity.WARNING),
    ("NP202", "cycle without a bound"),
    ("NP203", "unreachable case", Severity.WARNING),
    ("NP204", "no end can be reached"),
    ("NP205", "cycle leaves a parallel region before its join"),
    ("NP206", "duplicate `default`"),
    ("NP207", "`finally` step is also part of the flow"),
    ("NP208", "rule that is not exhaustive", Severity.NOTE),
    ("NP301", "name that no path assigns"),
    ("NP302", "name that some paths do not assign", Severity.WARNING),
    ("NP303", "parallel branches write one name"),
    ("NP304", "name that is saved and never read", Severity.NOTE),
    ("NP305", "one name with two meanings"),
    ("NP306", "inferred input", Severity.NOTE),
    ("NP401", "expression syntax"),
    ("NP402", "unknown filter, test or function"),
    ("NP403", "not allowed in the sandbox"),
    ("NP404", "two cases with the same guard", Severity.WARNING),
    ("NP405", "expression too complex"),
    ("NP406", "secret not allowed here"),
    ("NP407", "guard is plain text"),
    ("NP501", "unknown action type"),
    ("NP502", "unknown parameter"),
    ("NP503", "missing parameter"),
    ("NP504", "value of the wrong type"),
    ("NP505", "template inside SQL quotes"),
    ("NP506", "`raw` in a sink", Severity.WARNING),
    ("NP507", "possible literal secret", Severity.WARNING),
    ("NP508", "forbidden address"),
    ("NP509", "template inside shell quotes"),
    ("NP510", "retried work that is not idempotent", Severity.NOTE),
    ("NP511", "action type that is not enabled"),
    ("NP601", "timeout beyond what one invocation can last"),
    ("NP602", "retries that cannot end within the run's timeout", Severity.WARNING),
    ("NP701", "playbook exceeds a limit"),
    ("NP900", "internal error"),
    ("NP902", "findings that are not shown", Severity.NOTE),
)
