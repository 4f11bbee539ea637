"""The entries of results that a playbook reads of the playbooks that it calls or awaits.

Problem: a name may be saved in several places, and a template may handle a value that is missing.

Algorithm: only reads count of which one call is the source. They read the name that the call alone saves
with `as`, or `trigger.result`. If the call is the last work of its step, `steps.NAME.result` and
`result.data` count, too.

Cost: one parse of each text, which is cached.

Limits: reads through `set`, `with`, loops and whole values are not followed, nor are results of loops, of
parallel work and of detached runs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from noetl.planner.dataflow.narrowing import handles_undefined
from noetl.planner.plan import Action, Header, Loop, Plan, Step, Trigger
from noetl.planner.registration.call_sites import CallSite, Catalogued
from noetl.planner.registration.findings import PlanPlace, word_at
from noetl.planner.registration.plan_texts import PlacedText, find_all_texts, find_all_work, find_texts_in
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.template import Template, TemplateProblem, parse_template

_METHODS = frozenset(name for name in dir(dict) if not name.startswith("_"))
"""The methods of an object, which are read like its entries."""


class ResultRead(NamedTuple):
    """A read of an entry of a result: its name, and its place."""

    name: str
    place: PlanPlace


def find_result_reads(
    plan: Plan, sites: Sequence[CallSite], action_types: Catalogued
) -> Mapping[DocumentPath, list[ResultRead]]:
    """Return the entries that a plan reads of the result of each call, by the path of the call."""
    sources: defaultdict[AccessPath, list[CallSite]] = defaultdict(list)
    for site in sites:
        for prefix in _find_prefixes(site):
            sources[prefix].append(site)
    saved = _count_savers(plan, action_types)
    hidden = {*plan.header.variables, *plan.header.inputs, *_bound_names(plan, action_types)}
    reads: dict[DocumentPath, list[ResultRead]] = {site.path: [] for site in sites}
    for text in find_all_texts(plan) if sources else ():
        for access, template, offset in _find_accesses(text.text):
            for prefix in (access[:1], access[:2], access[:3]):
                if len(prefix) == 1 and (saved[access[0]] != 1 or access[0] in hidden):
                    continue
                for site in sources.get(prefix, ()):
                    if _is_its_result(site, access, text):
                        part = access[: len(prefix) + 1]
                        reads[site.path] += _read(template, part, len(prefix), text.path, offset)
    return reads


def find_trigger_reads(trigger: Trigger, number: int) -> Iterator[ResultRead]:
    """Yield the entries of the result of the awaited run that a trigger reads.

    `number` is that of the trigger in its playbook.
    """
    values = {"input": trigger.input, "if": trigger.condition, "key": trigger.key}
    for key, value in values.items():
        for text_path, text in find_texts_in(value, ("triggers", number, key)):
            for access, template, offset in _find_accesses(text):
                if access[:2] == ("trigger", "result"):
                    yield from _read(template, access[:3], 2, text_path, offset)


def find_result_names(header: Header, steps: Iterable[Step]) -> frozenset[str]:
    """Return the names of the entries that the result of a run may have."""
    if header.output is not None:
        return frozenset(header.output)
    return frozenset(header.variables).union(*(step.saves for step in steps))


def _find_prefixes(site: CallSite) -> Iterator[AccessPath]:
    """Yield the accesses whose value is the result of a call."""
    action, step = site.action, site.step
    if not site.returns_result or action.loop is not None or (step is not None and step.loop is not None):
        return
    if action.save_as is not None:
        yield (action.save_as,)
    if step is not None and not step.parallel and step.run and step.run[-1] is action:
        yield "steps", step.name, "result"
        yield "result", "data"


def _is_its_result(site: CallSite, access: AccessPath, text: PlacedText) -> bool:
    """Return whether the value of an access is a result of the call. `result` is that of its own step."""
    return access[0] != "result" or (text.rule_of is not None and text.rule_of is site.step)


def _count_savers(plan: Plan, action_types: Catalogued) -> Counter[str]:
    """Return how many places of a plan save each name."""
    saved: Counter[str] = Counter()
    for _, work, _ in find_all_work(plan):
        if work.save_as is not None:
            saved[work.save_as] += 1
        if isinstance(work, Action) and work.type in action_types:
            saved.update([*action_types[work.type].saved_names(work.parameters)])
    return saved


def _bound_names(plan: Plan, action_types: Catalogued) -> Iterator[str]:
    """Yield the names that have another meaning in some places: those of loops and of handlers."""
    loops: list[Loop | None] = [work.loop for _, work, _ in find_all_work(plan)]
    loops += [step.loop for step in plan.steps.values()]
    yield from (loop.name for loop in loops if loop is not None)
    for declaration in action_types.values():
        for parameter in declaration.parameters.values():
            yield from parameter.deferred_names


def _find_accesses(text: str) -> Iterator[tuple[AccessPath, Template, int]]:
    try:
        template = parse_template(text)
    except TemplateProblem:
        return
    for access, offset in template.reads.items():
        yield access, template, offset


def _read(
    template: Template, access: AccessPath, length: int, path: DocumentPath, offset: int
) -> Iterator[ResultRead]:
    """Yield the read of the last part of an access after `length` other parts, unless it may be missing."""
    if len(access) <= length or access[-1] in _METHODS or handles_undefined(template, *access):
        return
    name = access[-1]
    start = max(template.source.find(name, offset + len(".".join(access[:-1]))), 0)
    yield ResultRead(name, word_at(path, start, name))
