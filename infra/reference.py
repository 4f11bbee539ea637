"""Write the parts of `docs/` that the code knows best: tables of keys, actions, filters, limits and diagnostics.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; everything else on a page is left alone.

    python -m noetl.infra.reference
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from noetl.executor.actions import _formats, _process, action, catalogue, file, http, python
from noetl.executor.clients import egress
from noetl.executor.engine import external, start, work_context
from noetl.executor.model import memory_budget
from noetl.executor.security import redaction
from noetl.executor.stores.sql import store as sql_store
from noetl.executor.stores.sql import waits as sql_waits
from noetl.infra.reference_words import CONSTRUCTS, FILTERS, KEYS, METHODS_OF
from noetl.planner.catalogue import ActionDeclaration, Parameter, Sink
from noetl.planner.diagnostics import diagnostic
from noetl.planner.diagnostics.codes import CODES
from noetl.planner.diagnostics.wording import listed, ticked
from noetl.planner.kinds import either
from noetl.planner.program import template_uses
from noetl.planner.syntax import limits, models, names, reader
from noetl.planner.syntax import parser as playbook_parser
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.planner.templates import budget, filters, sandbox
from noetl.planner.templates import parser as template_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("docs/language.md", "docs/actions.md")

_PART = re.compile(r"(?P<head><!-- generated: (?P<name>[^>]+?) -->\n).*?(?P<foot><!-- end -->)", re.DOTALL)


def main() -> None:
    """Bring all pages up to date, and say which were not."""
    for page in PAGES:
        path = ROOT / page
        old = path.read_text("utf-8")
        new = written(old)
        if new != old:
            path.write_text(new, "utf-8")
            print(f"{page} is new")


def written(page: str) -> str:
    """The text of a page with its generated parts as the code has them now.

    Raises:
        KeyError: it asks for a part that there is not.
    """
    return _PART.sub(lambda part: f"{part['head']}\n{_part(part['name'])}\n{part['foot']}", page)


def _part(name: str) -> str:
    what, _, argument = name.partition(" ")
    return _PARTS[what](argument)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines.append(["---"] * len(lines[0]))
    lines.extend([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _keys(construct: str) -> str:
    """The keys of a construct of the language."""
    model = CONSTRUCTS[construct]
    schema = build_json_schema(catalogue())
    definition = schema if model is models.Playbook else schema["$defs"].get(model.__name__, {})
    if model is models.ActionEntry:
        definition = {"properties": _common(schema), "required": ["action"]}
    needed = definition.get("required", ())
    rows = (
        (f"`{key}`", _takes(found), _default(found, needed=key in needed), KEYS[construct, key])
        for key, found in definition["properties"].items()
    )
    return _table(("key", "takes", "default", "meaning"), rows)


def _common(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What every action takes, as the schema repeats it for each type."""
    some = schema["$defs"]["ActionEntry"]["allOf"][0]
    keys = [field.alias or name for name, field in models.ActionEntry.model_fields.items()]
    return {key: some["then"]["properties"][key] for key in keys} | {"action": {"type": "string"}}


def _takes(schema: Mapping[str, Any]) -> str:
    if "`500ms`" in schema.get("description", ""):
        return "a duration"
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        words = [_takes(found) for found in alternatives if found.get("type") != "null"]
        return listed(list(dict.fromkeys(words)))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return listed(ticked(schema["enum"]))
    if "$ref" in schema:
        return _NOUNS[schema["$ref"].rpartition("/")[2]]
    match schema.get("type"):
        case "string":
            return "text"
        case "boolean":
            return "true or false"
        case "integer" | "number":
            return _number(schema)
        case "array":
            items = schema.get("items") or {}
            return f"a list of {_PLURALS[items['$ref'].rpartition('/')[2]]}" if "$ref" in items else "a list"
        case "object":
            return "a mapping"
    return "anything"


def _number(schema: Mapping[str, Any]) -> str:
    word = "a whole number" if schema["type"] == "integer" else "a number"
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None:
        return word
    return f"{word} from {least}" + (f" to {most:,}" if most is not None else "")


def _default(schema: Mapping[str, Any], *, needed: bool) -> str:
    if needed:
        return "needed"
    default = schema.get("default")
    if default is None or schema.get("const") == default:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


_NOUNS = {
    "InputDeclaration": "a mapping",
    "RetryPolicy": "a mapping",
    "Loop": "a mapping",
    "Repeat": "a mapping",
    "ActionEntry": "an action",
    "TaskEntry": "a call",
    "StepEntry": "a step",
}
_PLURALS = {"Step": "steps", "Task": "tasks", "Case": "cases"}


def _types(_: str) -> str:
    """The action types."""
    rows = (
        (
            f"[`{d.type}`](#{d.type})",
            d.description,
            _result(d) or "see below",
            "yes" if d.idempotent else "no",
        )
        for d in catalogue().values()
    )
    return _table(("type", "what it does", "result", "may simply be repeated"), rows)


def _result(declaration: ActionDeclaration) -> str:
    return ", ".join(f"`{key}`: {kind.value}" for key, kind in (declaration.result or {}).items())


def _action(action_type: str) -> str:
    """The parameters of an action type."""
    declaration = catalogue()[action_type]
    rows = []
    for name, parameter in declaration.parameters.items():
        rows.append(_parameter(name, parameter, declaration))
        rows.extend(_parameter(f"{name}.{part}", found) for part, found in parameter.fields.items())
    return _table(("parameter", "takes", "", "meaning"), rows)


def _parameter(
    name: str, parameter: Parameter, declaration: ActionDeclaration | None = None
) -> tuple[str, ...]:
    presence = (
        _presence(declaration, name, parameter) if declaration else "needed" if parameter.required else ""
    )
    return f"`{name}`", either(parameter.kinds), presence, parameter.description + _remarks(parameter)


def _presence(declaration: ActionDeclaration, name: str, parameter: Parameter) -> str:
    if parameter.required:
        return "needed"
    if name in declaration.one_of:
        return "one of these" if len(declaration.one_of) > 1 else "needed"
    if parameter.requires:
        return f"with {listed(ticked(parameter.requires), 'and')}"
    return ""


def _remarks(parameter: Parameter) -> str:
    remarks = []
    if parameter.choices:
        remarks.append(f"One of {listed(ticked(parameter.choices))}.")
    if parameter.sink is not Sink.PLAIN:
        remarks.append(f"A [{parameter.sink.value} sink](language.md#sinks).")
    if parameter.secrets:
        remarks.append("May carry [secrets](language.md#secrets).")
    return "".join(f" {remark}" for remark in remarks)


def _filters(_: str) -> str:
    known = [name for name in sandbox.Sandbox().filters if " " not in name]
    builtin = sorted(name for name in known if name not in FILTERS and name.isidentifier())
    rows = ((f"`{name}`", FILTERS[name]) for name in sorted(FILTERS))
    return (
        f"Of Jinja2: {', '.join(ticked(builtin))}.\n\nOur own:\n\n{_table(('filter', 'what it gives'), rows)}\n"
        f"Tests: {', '.join(ticked(sorted(sandbox.Sandbox().tests)))}.\n\n"
        f"Functions: {', '.join(ticked(sorted(sandbox.FUNCTIONS)))}.\n"
    )


def _methods(_: str) -> str:
    methods = {word: sorted(found) for word, found in _methods_by_word()}
    return _table(("of", "there are"), ((word, ", ".join(ticked(found))) for word, found in methods.items()))


def _methods_by_word() -> Iterator[tuple[str, frozenset[str]]]:
    for type_, found in sandbox._METHODS:  # noqa: SLF001 - the list that decides
        if type_ in METHODS_OF:
            yield METHODS_OF[type_], found | ({"replace", "join"} if type_ is str else set())


def _reserved(_: str) -> str:
    return f"{' '.join(ticked(sorted(names.RESERVED)))}\n"


def _limits(_: str) -> str:
    mib = 1024 * 1024
    rows = (
        ("a playbook", f"{reader.MAX_BYTES // mib} MiB of text, {reader.MAX_DEPTH} levels deep", "NP004"),
        ("what aliases expand to", f"{reader.MAX_ALIASED_NODES:,} nodes", "NP005"),
        ("steps; cases of a step; targets of a case", _sizes(), "NP701"),
        (
            "tasks; entries of the `run` of a step or task",
            f"{limits.MAX_TASKS:,}; {limits.MAX_TARGETS:,}",
            "NP701",
        ),
        (
            "cases of all steps; entries of all `run`",
            f"{limits.MAX_ALL_CASES:,}; {limits.MAX_ALL_ENTRIES:,}",
            "NP701",
        ),
        ("tasks that call each other", f"{names.MAX_TASK_DEPTH} deep", "NP701"),
        (
            "findings; constructs of the wrong shape",
            f"{diagnostic.MAX_FINDINGS:,}; {playbook_parser.MAX_SCHEMA_VIOLATIONS:,}",
            "NP902",
        ),
        ("the name of a step or task", f"{names.MAX_NAME} characters", "NP110"),
        (
            "one template",
            f"{template_parser.MAX_SOURCE // 1024} KiB, {template_parser.MAX_NODES:,} nodes",
            "NP405",
        ),
        (
            "all expressions that do more than name what they read",
            f"{template_uses.MAX_CODE // 1024} KiB",
            "NP701",
        ),
        ("a text that an expression makes", f"{budget.MAX_TEXT // mib} MiB of characters", "`LimitExceeded`"),
        ("a list that an expression makes", f"{budget.MAX_ITEMS:,} items", "`LimitExceeded`"),
        ("an expression, and all templates of an action together", _budget(), "`LimitExceeded`"),
        (
            "`environment` and `variables` at the start",
            f"{start.MAX_HELD // mib} MiB as JSON",
            "the run is refused",
        ),
        ("a whole number", f"{budget.MAX_INTEGER_BITS:,} bits", "`LimitExceeded`"),
        ("a regular expression", f"{filters.REGEX_SECONDS:g} s", "`LimitExceeded`"),
        ("items of `parallel` at work at once", f"{work_context.MAX_PARALLEL}; the others wait", ""),
        (
            "the body of an `http` response",
            f"{http.MAX_BYTES // mib} MiB unless `max_bytes` says",
            "`LimitExceeded`",
        ),
        (
            "the pages of an `http` action together",
            f"{http.LARGEST_BYTES // mib} MiB as JSON",
            "`LimitExceeded`",
        ),
        (
            "silence of a server, for `http`",
            f"{egress.SILENCE_SECONDS:g} s unless `timeout` says",
            "`Timeout`",
        ),
        (
            "`http` and `postgres`",
            f"{action.DEFAULT_TIMEOUT_SECONDS / 3600:g} h unless `timeout` says",
            "`Timeout`",
        ),
        (
            "redirects that `http` follows",
            f"{http.MAX_REDIRECTS} unless `follow_redirects` says",
            "`HTTPStatus`",
        ),
        ("a file that `file` reads", _file(), "`LimitExceeded`"),
        ("files that `list` finds", f"{file.MAX_FILES:,}", "`LimitExceeded`"),
        ("what a command prints on a stream", f"{_process.MAX_OUTPUT // mib} MiB", "`LimitExceeded`"),
        ("what a function of `python` returns", f"{python.MAX_RESULT // mib} MiB as JSON", "`LimitExceeded`"),
        (
            "what the work of a step holds at once, and the batches of a loop together",
            f"{memory_budget.MOST_HELD // mib} MiB, and {memory_budget.MOST_GIVEN // mib} MiB, as JSON",
            "`PayloadTooLarge`",
        ),
        (
            "what a visit saves, in SQLite",
            f"{sql_store.MAX_PAYLOAD_BYTES // mib} MiB as JSON",
            "`PayloadTooLarge`",
        ),
        ("an answer to a callback", f"{sql_waits.MAX_ANSWER_BYTES // mib} MiB as JSON", "refused"),
        ("runs that start each other", f"{external.MAX_DEPTH} deep", "`LimitExceeded`"),
        ("a secret that is kept out of sight", f"{redaction.SHORTEST} characters or more", ""),
    )
    return _table(("what", "at most", "beyond it"), rows)


def _budget() -> str:
    units = f"{budget.BUDGET // (1024 * 1024)} Mi characters and items"
    return f"{units}, {budget.CPU_SECONDS:g} s of work, {budget.SHARED_SECONDS:g} s together"


def _file() -> str:
    return f"{file.MAX_BYTES // (1024 * 1024)} MiB; {_formats.MAX_VALUES:,} values of CSV or JSON"


def _sizes() -> str:
    return f"{limits.MAX_STEPS:,}; {limits.MAX_CASES:,}; {limits.MAX_TARGETS:,}"


def _diagnostics(_: str) -> str:
    rows = (
        (f"[{code}](../planner/diagnostics/explanations/{code}.md)", entry.severity.value, entry.title)
        for code, entry in CODES.items()
    )
    return _table(("code", "severity", "what it stands for"), rows)


_PARTS: Mapping[str, Callable[[str], str]] = {
    "keys": _keys,
    "types": _types,
    "action": _action,
    "filters": _filters,
    "methods": _methods,
    "limits": _limits,
    "reserved": _reserved,
    "diagnostics": _diagnostics,
}


if __name__ == "__main__":
    main()
