"""The branches, joins and names of a run as they were after an event: what `noetl runs show --at` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from noetl.api.service.past_views import PastBranch, PastJoin, PastName, PastState
from noetl.executor.model.json_values import write_json
from noetl.planner.diagnostics.terminal_text import to_printable

_MAX_VALUE_LENGTH = 200
"""How many characters of a value are printed. `--json` has all that the service shows."""


def format_event(state: PastState) -> str:
    """Return the event after which a run is shown: its number, its type, its step and its time."""
    event = state.event
    step = "" if event.step is None else f" {to_printable(event.step)}"
    visit = f" visit {event.visit}" if (event.visit or 1) > 1 else ""
    return f"event {state.number:,} of {state.events:,}, {event.type}{step}{visit}, {event.at[:23]}Z"


def format_past(state: PastState) -> str:
    """Return lines with the branches, the joins and the names of a run."""
    sections = [
        ("branches", [_describe_branch(branch) for branch in state.branches]),
        ("joins", [_describe_join(name, join) for name, join in state.joins.items()]),
        ("names", list(_name_lines(state))),
    ]
    return "".join(
        f"\n{title}\n" + "".join(f"  {line}\n" for line in lines) for title, lines in sections if lines
    )


def _describe_branch(branch: PastBranch) -> str:
    step = to_printable(branch.step)
    if branch.kind == "arrived":
        return f"{step}: has arrived, and waits for the others"
    if branch.kind == "queued":
        return f"{step}: has its turn later"
    visit = f" visit {branch.visit}" if (branch.visit or 1) > 1 else ""
    return f"{step}{visit}: {branch.status}"


def _describe_join(name: str, join: PastJoin) -> str:
    fired = f", has fired {join.fired:,} times" if join.fired > 1 else ", has fired" if join.fired else ""
    return f"{to_printable(name)}: {join.arrived:,} here, {join.expected:,} may still arrive{fired}"


def _name_lines(state: PastState) -> Iterator[str]:
    for name in state.names:
        value = f"({name.problem})" if name.problem is not None else _shorten(write_json(name.value))
        yield f"{name.name} = {to_printable(value)}  {_describe_source(name, state.branches)}"


def _describe_source(name: PastName, branches: Sequence[PastBranch]) -> str:
    """Return which visit saved a value, and which branches had it if others had not."""
    visit = f" visit {name.visit}" if (name.visit or 1) > 1 else ""
    source = "first value" if name.step is None else f"from {to_printable(name.step)}{visit}"
    if len(name.branches) == sum(branch.kind != "queued" for branch in branches):
        return f"({source})"
    holders = ", ".join(to_printable(branches[place].step) for place in name.branches)
    return f"({source}; in {holders})"


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 1] + "…"
