"""The fit of a call, or of a trigger, and the playbook that it names: inputs, and entries of the result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from noetl.planner.checks.triggers import find_mismatch
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words
from noetl.planner.plan import Header
from noetl.planner.registration.findings import PlanPlace, key_of
from noetl.planner.registration.result_reads import ResultRead
from noetl.planner.syntax.models import DocumentPath

_MAX_SHOWN_NAMES = 5


class Misfit(NamedTuple):
    """A reason why a call and the called playbook do not fit.

    Attributes:
        message: the problem.
        place: its place in the text of the caller.
        hint: how the caller can fix it.
        cause: the path of what it concerns in the called playbook.
    """

    message: str
    place: PlanPlace
    hint: str
    cause: DocumentPath


def find_input_misfits(
    label: str, header: Header, given: Mapping[str, Any], path: DocumentPath
) -> Iterator[Misfit]:
    """Yield the inputs that are unknown, missing or of another kind, as a start of the run would.

    `label` names the called playbook. The call is at `path`, and its inputs are under `input`.
    """
    for name, value in given.items():
        declared = header.inputs.get(name)
        shown, value_path = abbreviate(name), (*path, "input", name)
        if declared is not None:
            if (problem := find_mismatch(declared, value)) is not None:
                message = f"input `{shown}` of `{label}` {problem}"
                hint = f"write what `{label}` declares"
                yield Misfit(message, PlanPlace(value_path), hint, ("input", name))
        elif not header.accepts_other_inputs:
            hint = did_you_mean(name, header.inputs) or _list_names("inputs", header.inputs)
            yield Misfit(f"`{label}` has no input `{shown}`", key_of(*value_path), hint, ("input",))
    for name, declared in header.inputs.items():
        if declared.required and name not in given:
            message = f"`{label}` requires the input `{abbreviate(name)}`"
            hint = f"add it to `input`, or give it a `default` in `{label}`"
            yield Misfit(message, PlanPlace((*path, "playbook")), hint, ("input", name))


def find_result_misfits(
    label: str, reads: Iterable[ResultRead], names: Callable[[], Collection[str]]
) -> Iterator[Misfit]:
    """Yield the entries that are read of a result and that it never has.

    `names` returns those that it may have.
    """
    for read in reads:
        known = names()
        if read.name not in known:
            message = f"result of `{label}` has no entry `{abbreviate(read.name)}`"
            hint = did_you_mean(read.name, known) or _list_names("entries", known)
            yield Misfit(message, read.place, hint, ("output",))


def _list_names(noun: str, names: Collection[str]) -> str:
    """Return a hint that lists names.

    >>> _list_names("inputs", ["b", "a"]), _list_names("inputs", [])
    ('inputs: `a`, `b`', 'it has no inputs')
    """
    if not names:
        return f"it has no {noun}"
    shown = as_code(map(abbreviate, sorted(names)[:_MAX_SHOWN_NAMES]))
    more = len(names) - len(shown)
    return f"{noun}: {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")


def list_versions(versions: Collection[str]) -> str:
    """Return a hint with some versions of a playbook."""
    shown = as_code(map(abbreviate, versions))[:_MAX_SHOWN_NAMES]
    return f"versions: {join_words(shown, 'and')}"
