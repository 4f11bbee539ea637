"""The fit of a call, or of a trigger, and the playbook that it names: inputs, and entries of the result.

Cost: proportional to what the use names, and to the misfits that are read. A use that fits costs nothing for
the inputs that it does not name. The word that was probably meant is searched for each finding, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from noetl.planner.checks.triggers import find_mismatch
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words
from noetl.planner.plan import Header
from noetl.planner.registration.findings import PlanPlace, key_of
from noetl.planner.registration.result_reads import ResultRead
from noetl.planner.syntax.models import DocumentPath

_MAX_SHOWN_NAMES = 5


class UnknownName(NamedTuple):
    """A name that is not one of the known names."""

    name: str
    known: Collection[str]


class Misfit(NamedTuple):
    """A reason why a call and the called playbook do not fit.

    Attributes:
        message: the problem.
        place: its place in the text of the caller.
        hint: how the caller can fix it.
        cause: the path of what it concerns in the called playbook.
        unknown: the name that may be misspelt. The name that was meant is a better hint.
    """

    message: str
    place: PlanPlace
    hint: str
    cause: DocumentPath
    unknown: UnknownName | None = None


class UsedVersion:
    """A version of a playbook with which uses are compared."""

    def __init__(self, header: Header, find_result_names: Callable[[], Collection[str]]) -> None:
        self.header = header
        self._find_result_names = find_result_names

    @cached_property
    def required_inputs(self) -> tuple[str, ...]:
        """The inputs without a default."""
        return tuple(name for name, declared in self.header.inputs.items() if declared.required)

    @cached_property
    def input_hint(self) -> str:
        """The hint that lists inputs."""
        return _list_names("inputs", self.header.inputs)

    @cached_property
    def result_names(self) -> Collection[str]:
        """The names of the entries that the result of a run may have."""
        return self._find_result_names()

    @cached_property
    def result_hint(self) -> str:
        """The hint that lists entries of the result."""
        return _list_names("entries", self.result_names)


def find_input_misfits(
    label: str, version: UsedVersion, given: Mapping[str, Any], path: DocumentPath
) -> Iterator[Misfit]:
    """Yield the inputs that are unknown, missing or of another kind, as a start of the run would.

    `label` names the called playbook. The call is at `path`, and its inputs are under `input`.
    """
    header = version.header
    for name, value in given.items():
        declared = header.inputs.get(name)
        shown, value_path = abbreviate(name), (*path, "input", name)
        if declared is not None:
            if (problem := find_mismatch(declared, value)) is not None:
                message = f"input `{shown}` of `{label}` {problem}"
                hint = f"write what `{label}` declares"
                yield Misfit(message, PlanPlace(value_path), hint, ("input", name))
        elif not header.accepts_other_inputs:
            message, unknown = f"`{label}` has no input `{shown}`", UnknownName(name, header.inputs)
            yield Misfit(message, key_of(*value_path), version.input_hint, ("input",), unknown)
    for name in version.required_inputs:
        if name not in given:
            message = f"`{label}` requires the input `{abbreviate(name)}`"
            hint = f"add it to `input`, or give it a `default` in `{label}`"
            yield Misfit(message, PlanPlace((*path, "playbook")), hint, ("input", name))


def find_result_misfits(label: str, version: UsedVersion, reads: Iterable[ResultRead]) -> Iterator[Misfit]:
    """Yield the entries that are read of a result and that it never has."""
    for read in reads:
        known = version.result_names
        if read.name not in known:
            message = f"result of `{label}` has no entry `{abbreviate(read.name)}`"
            unknown = UnknownName(read.name, known)
            yield Misfit(message, read.place, version.result_hint, ("output",), unknown)


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
