"""Generate the reference tables in `docs/`: keys, actions, filters, limits, diagnostics and states.

    python -m noetl.infra.reference

A table or a picture is between `<!-- generated: NAME -->` and `<!-- end -->`. The rest of a page does not
change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute

from noetl.api.access import ScopeAccess, declared_access
from noetl.api.app import find_routers
from noetl.executor.actions import (
    _files,
    _formats,
    _postgres_connection,
    _process,
    action,
    callback,
    catalogue,
    file,
    http,
    python,
)
from noetl.executor.clients import deadline_stream, egress
from noetl.executor.engine import (
    attempts,
    cached_work,
    external,
    initial_data,
    item_threads,
    start,
    work_context,
)
from noetl.executor.model import child_runs, count_budget, json_values, memory_budget, sql
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.security import redaction
from noetl.executor.security.capabilities import DEFAULT_FILE_BYTES, DEFAULT_LOG_BYTES
from noetl.executor.settings import GROUPS, SETTINGS
from noetl.infra import state_diagram
from noetl.infra.reference_text import CONSTRUCTS, FAMILIES, FILTERS, KEYS, METHODS_OF
from noetl.planner.catalogue import ActionDeclaration, Parameter, Sink
from noetl.planner.diagnostics import diagnostic
from noetl.planner.diagnostics.codes import CODES
from noetl.planner.diagnostics.wording import as_code, join_words
from noetl.planner.kinds import describe_kinds
from noetl.planner.program import template_uses
from noetl.planner.syntax import limits, models, names, reader
from noetl.planner.syntax import parser as playbook_parser
from noetl.planner.syntax.json_schema import build_json_schema
from noetl.planner.templates import attributes, budget, filter_costs, patterns, prices, sandbox
from noetl.planner.templates import parser as template_parser

ROOT = Path(__file__).resolve().parent.parent
_DECISIONS = ROOT / "docs" / "decisions"
_GENERATED = re.compile(
    r"(?P<head>^<!-- generated: (?P<name>[^>]+?) -->\n).*?(?P<foot>^<!-- end -->)", re.DOTALL | re.MULTILINE
)
_MIB = 1024 * 1024

PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if _GENERATED.search(path.read_text("utf-8"))
)
"""The pages with generated parts."""

LimitRow = tuple[str, str, str]
"""What is limited, its limit, and what happens beyond it."""


def main() -> None:
    """Update all pages, and print the names of those that changed."""
    for page in PAGES:
        path = ROOT / page
        old = path.read_text("utf-8")
        new = render_page(old)
        if new != old:
            path.write_text(new, "utf-8")
            print(f"{page} has changed")


def render_page(page: str) -> str:
    """Return the text of a page with its tables generated anew.

    Raises:
        KeyError: the name of a table is unknown.
    """
    return _GENERATED.sub(lambda match: f"{match['head']}\n{_render(match['name'])}\n{match['foot']}", page)


def _render(name: str) -> str:
    kind, _, argument = name.partition(" ")
    return _RENDERERS[kind](argument)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines.append(["---"] * len(lines[0]))
    lines.extend([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _keys(construct: str) -> str:
    """Render the keys of a construct of the language."""
    model = CONSTRUCTS[construct]
    schema = build_json_schema(catalogue())
    definition = schema if model is models.Playbook else schema["$defs"].get(model.__name__, {})
    if model is models.ActionEntry:
        definition = {"properties": _common_action_keys(schema), "required": ["action"]}
    if issubclass(model, models.TriggerDeclaration):
        definition = _trigger_keys(schema, model)
    required = definition.get("required", ())
    rows = (
        (
            f"`{key}`",
            _describe_type(key_schema),
            _describe_default(key_schema, is_required=key in required),
            KEYS[construct, key],
        )
        for key, key_schema in definition["properties"].items()
    )
    return _table(("key", "type", "default", "meaning"), rows)


def _trigger_keys(schema: Mapping[str, Any], model: type[models.TriggerDeclaration]) -> dict[str, Any]:
    """Return the keys that all triggers have, or those that only one type has."""
    is_common = model is models.TriggerDeclaration
    definition = schema["$defs"][(models.ScheduleDeclaration if is_common else model).__name__]
    common = {field.alias or name for name, field in models.TriggerDeclaration.model_fields.items()}
    keys = {key: value for key, value in definition["properties"].items() if (key in common) is is_common}
    if is_common:
        keys["type"] = {"enum": list(models.TRIGGER_MODELS)}
    return {**definition, "properties": keys}


def _common_action_keys(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of every action. The schema repeats them for each type, so the first type is enough."""
    first_type = schema["$defs"]["ActionEntry"]["allOf"][0]
    keys = [field.alias or name for name, field in models.ActionEntry.model_fields.items()]
    return {key: first_type["then"]["properties"][key] for key in keys} | {"action": {"type": "string"}}


def _describe_type(schema: Mapping[str, Any]) -> str:
    description = schema.get("description", "")
    if "`500ms`" in description:
        return "a duration"
    if "`512KiB`" in description:
        return "a size"
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        words = [
            _describe_type(alternative) for alternative in alternatives if alternative.get("type") != "null"
        ]
        return join_words(list(dict.fromkeys(words)))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return join_words(as_code(schema["enum"]))
    if "$ref" in schema:
        return _NOUNS[schema["$ref"].rpartition("/")[2]]
    match schema.get("type"):
        case "string":
            return "text"
        case "boolean":
            return "true or false"
        case "integer" | "number":
            return _describe_number(schema)
        case "array":
            items = schema.get("items") or {}
            first = next(iter(items.get("oneOf", ())), items)
            plural = _PLURALS.get(first.get("$ref", "").rpartition("/")[2])
            return "a list" if plural is None else f"a list of {plural}"
        case "object":
            return "a mapping"
    return "anything"


def _describe_number(schema: Mapping[str, Any]) -> str:
    word = "a whole number" if schema["type"] == "integer" else "a number"
    minimum, maximum = schema.get("minimum"), schema.get("maximum")
    if minimum is None:
        return word
    return f"{word} from {minimum}" + (f" to {maximum:,}" if maximum is not None else "")


def _describe_default(schema: Mapping[str, Any], *, is_required: bool) -> str:
    if is_required:
        return "required"
    default = schema.get("default")
    if default is None or schema.get("const") == default:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list):
        return f"`[{', '.join(default)}]`"
    return f"`{default:.10g}`" if isinstance(default, float) else f"`{default}`"


_NOUNS = {
    "InputDeclaration": "a mapping",
    "RetryPolicy": "a mapping",
    "CachePolicy": "a mapping",
    "CatchUpPolicy": "a mapping",
    "WebhookAuthDeclaration": "a mapping",
    "NotifyDeclaration": "a mapping",
    "LatePolicy": "a mapping",
    "LimitDeclaration": "a mapping",
    "DebouncePolicy": "a mapping",
    "RateDeclaration": "a mapping",
    "Loop": "a mapping",
    "Repeat": "a mapping",
    "ActionEntry": "an action",
    "TaskEntry": "a call",
    "StepEntry": "a step",
}
_PLURALS = {"Step": "steps", "Task": "tasks", "Case": "cases", "ScheduleDeclaration": "triggers"}


def _types(_: str) -> str:
    """Render the action types."""
    rows = (
        (
            f"[`{declaration.type}`](#{declaration.type})",
            declaration.description,
            _describe_result(declaration) or "see below",
            "yes" if declaration.idempotent else "no",
        )
        for declaration in catalogue().values()
    )
    return _table(("type", "what it does", "result", "idempotent"), rows)


def _describe_result(declaration: ActionDeclaration) -> str:
    return ", ".join(f"`{key}`: {kind.value}" for key, kind in (declaration.result or {}).items())


def _action(action_type: str) -> str:
    """Render the parameters of an action type."""
    declaration = catalogue()[action_type]
    rows = []
    for name, parameter in declaration.parameters.items():
        rows.append(_parameter_row(name, parameter, _describe_presence(declaration, name, parameter)))
        for field, field_parameter in parameter.fields.items():
            presence = "required" if field_parameter.required else ""
            rows.append(_parameter_row(f"{name}.{field}", field_parameter, presence))
    return _table(("parameter", "type", "", "meaning"), rows)


def _parameter_row(name: str, parameter: Parameter, presence: str) -> tuple[str, ...]:
    return f"`{name}`", describe_kinds(parameter.kinds), presence, parameter.description + _remarks(parameter)


def _describe_presence(declaration: ActionDeclaration, name: str, parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    if name in declaration.one_of:
        return "one of these" if len(declaration.one_of) > 1 else "required"
    if parameter.requires:
        return f"with {join_words(as_code(parameter.requires), 'and')}"
    return ""


def _remarks(parameter: Parameter) -> str:
    remarks = []
    if parameter.choices:
        remarks.append(f"One of {join_words(as_code(parameter.choices))}.")
    if parameter.sink is not Sink.PLAIN:
        remarks.append(f"A [{parameter.sink.value} sink](language.md#sinks).")
    if parameter.secrets:
        remarks.append("May contain [secrets](language.md#secrets).")
    return "".join(f" {remark}" for remark in remarks)


def _filters(_: str) -> str:
    all_filters = [name for name in sandbox.Sandbox().filters if " " not in name]
    builtin = sorted(name for name in all_filters if name not in FILTERS and name.isidentifier())
    groups = (
        ("filters of Jinja2", builtin),
        ("tests", sorted(sandbox.Sandbox().tests)),
        ("functions", sorted(sandbox.FUNCTIONS)),
    )
    name_rows = ((group, ", ".join(as_code(members))) for group, members in groups)
    filter_rows = ((f"`{name}`", FILTERS[name]) for name in sorted(FILTERS))
    return (
        f"{_table(('', 'names'), name_rows)}\n"
        f"Filters that NoETL adds:\n\n{_table(('filter', 'result'), filter_rows)}"
    )


def _methods(_: str) -> str:
    rows = ((type_name, ", ".join(as_code(sorted(methods)))) for type_name, methods in methods_by_type())
    return _table(("of", "methods"), rows)


def methods_by_type() -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the methods that expressions may call, with the name of their type."""
    for type_, methods in sandbox._METHODS:  # noqa: SLF001 - the list that the sandbox enforces
        if type_ in METHODS_OF:
            yield METHODS_OF[type_], methods | ({"replace", "join"} if type_ is str else set())


def _reserved(_: str) -> str:
    return f"{' '.join(as_code(sorted(names.RESERVED_NAMES)))}\n"


def _limits(_: str) -> str:
    rows = [*_language_limits(), *_template_limits(), *_action_limits(), *_parameter_limits(), *_run_limits()]
    return _table(("what", "at most", "beyond it"), rows)


def _prices(_: str) -> str:
    rows = [
        ("a name, a constant, an operator, a comparison", prices.NODE_UNITS),
        ("an output `{{ }}`, in addition to its expression", prices.OUTPUT_UNITS),
        ("an attribute or a test", prices.CALL_UNITS),
        ("a method or a function", prices.METHOD_UNITS),
        ("a simple filter such as `trim` or `int`", prices.SIMPLE_FILTER_UNITS),
        ("another filter, such as `tojson`, `sort` or `regex_replace`", prices.FILTER_UNITS),
        ("a round of a `for`", prices.ROUND_UNITS),
        ("an item of `map`, `select` or `reject`, also outside of loops", filter_costs.CALL_UNITS),
    ]
    return _table(("in the body of a `for`", "units"), [(name, f"{units:,}") for name, units in rows])


def _language_limits() -> list[LimitRow]:
    size = f"{reader.MAX_BYTES // _MIB} MiB of text, {reader.MAX_DEPTH} levels deep"
    steps = f"{limits.MAX_STEPS:,}; {limits.MAX_CASES:,}; {limits.MAX_TARGETS:,}"
    tasks = f"{limits.MAX_TASKS:,}; {limits.MAX_TARGETS:,}"
    totals = f"{limits.MAX_ALL_CASES:,}; {limits.MAX_ALL_ENTRIES:,}"
    findings = f"{diagnostic.MAX_FINDINGS:,}; {playbook_parser.MAX_SCHEMA_VIOLATIONS:,}"
    template = f"{template_parser.MAX_SOURCE // 1024} KiB, {template_parser.MAX_NODES:,} nodes"
    return [
        ("a playbook", size, "NP004"),
        ("expansion of aliases", f"{reader.MAX_ALIASED_NODES:,} nodes, 1 Mi characters", "NP005"),
        ("steps; cases of a step; targets of a case", steps, "NP701"),
        ("tasks; entries of the `run` of a step or task", tasks, "NP701"),
        ("triggers", f"{limits.MAX_TRIGGERS}", "NP701"),
        ("cases of all steps; entries of all `run`", totals, "NP701"),
        ("tasks that call each other", f"{names.MAX_TASK_DEPTH} deep", "NP701"),
        ("diagnostics; constructs with a wrong form", findings, "NP902"),
        ("the name of a step or task", f"{names.MAX_NAME_LENGTH} characters", "NP110"),
        ("one template", template, "NP405"),
        ("all expressions that do more than read names", f"{template_uses.MAX_CODE // 1024} KiB", "NP701"),
    ]


def _template_limits() -> list[LimitRow]:
    units = f"[{budget.BUDGET // _MIB} Mi units](#how-much-an-expression-may-do)"
    work = f"{units}, {budget.CPU_SECONDS:g} s of work, {budget.SHARED_SECONDS:g} s together"
    start_data = f"{initial_data.MAX_INITIAL_DATA // _MIB} MiB as JSON"
    return [
        ("a text that an expression creates", f"{budget.MAX_TEXT // _MIB} MiB of characters", _EXCEEDED),
        ("a list that an expression creates", f"{budget.MAX_ITEMS:,} items", _EXCEEDED),
        ("an expression, and all templates of an action together", work, _EXCEEDED),
        ("`environment` and `variables` at the start", start_data, "the run is refused"),
        (
            "a whole number; one of `range`",
            f"{budget.MAX_INTEGER_BITS:,} bits; {sandbox.MAX_RANGE_BITS} bits",
            _EXCEEDED,
        ),
        (
            "the names of `attribute`, such as `a.b.c`; the attributes of `sort`",
            str(attributes.MAX_PATH),
            _EXCEEDED,
        ),
        ("a regular expression", f"{patterns.MAX_PATTERN:,} characters", _EXCEEDED),
        (
            "bytes of a text, times positions of a regular expression with more than 8",
            f"{patterns.MAX_STEPS // 10**6} million",
            _EXCEEDED,
        ),
    ]


def _action_limits() -> list[LimitRow]:
    body = f"{http.MAX_BYTES // _MIB} MiB, or `max_bytes`"
    seconds = f"{action.DEFAULT_TIMEOUT_SECONDS / 3600:g} h, or `timeout`"
    return [
        ("items of `parallel` at the same time", f"{work_context.MAX_PARALLEL}; the others wait", ""),
        (
            "threads for parallel items and items of loops, in a process",
            f"{item_threads.DEFAULT_THREADS}, a step half of them ([`NOETL_ITEM_THREADS`](settings.md))",
            "",
        ),
        ("the body of an `http` response", body, _EXCEEDED),
        ("the pages of an `http` action together", f"{http.LARGEST_BYTES // _MIB} MiB as JSON", _EXCEEDED),
        (
            "time without data from a server, for `http`",
            f"{egress.MAX_IDLE_SECONDS:g} s, or `timeout`",
            "`Timeout`",
        ),
        ("`http` and `postgres`", seconds, "`Timeout`"),
        (
            "informational answers (1xx) before an answer",
            f"{deadline_stream.MAX_INFORMATIONAL}",
            "`ConnectionFailed`",
        ),
        (
            "memory of the answers that arrive at the same time",
            "half of the memory, at most 1 GiB; a run half of it ([`NOETL_ANSWER_MEMORY`](settings.md))",
            _EXCEEDED,
        ),
        (
            "what a server of `postgres` sends for 32 rows",
            f"{_postgres_connection.MAX_CHUNK_BYTES // _MIB} MiB",
            _EXCEEDED,
        ),
        (
            "the depth of the result of an action, and of JSON from outside",
            f"{json_values.MAX_DEPTH} levels",
            _EXCEEDED,
        ),
    ]


def _parameter_limits() -> list[LimitRow]:
    path_length = f"{_files.MAX_PATH_LENGTH:,} characters"
    file_size = f"{file.MAX_BYTES // _MIB} MiB; {_formats.MAX_VALUES:,} values of CSV or JSON"
    row = f"{_formats.MAX_ROW // _MIB} Mi characters in a row"
    written = f"{json_values.MAX_WRITTEN // _MIB} MiB; of CSV {_formats.MAX_VALUES:,} cells, and {row}"
    return [
        ("redirects that `http` follows", f"{http.MAX_REDIRECTS}, or `follow_redirects`", "`HTTPStatus`"),
        ("the address of a request", f"{json_values.MAX_URL:,} characters", _WRONG),
        ("an encoded `form`", f"{http.MAX_FORM // _MIB} MiB", _WRONG),
        ("JSON that an action sends", f"{json_values.MAX_WRITTEN // _MIB} MiB", _WRONG),
        ("an argument or a variable of a command", f"{json_values.MAX_ARGUMENT:,} characters", _WRONG),
        (
            "a statement of `postgres` with what templates insert; its values",
            f"{sql.MAX_STATEMENT // _MIB} MiB of characters; {json_values.MAX_WRITTEN // _MIB} MiB as JSON",
            _WRONG,
        ),
        ("the `title` of a `callback`", f"{callback.MAX_TITLE:,} characters", _WRONG),
        (
            "the message of an error; its type",
            f"{attempts.MAX_ERROR_MESSAGE:,} characters; {attempts.MAX_ERROR_TYPE}",
            "cut",
        ),
        ("a file that `file` reads", file_size, _EXCEEDED),
        ("CSV or JSON that `file` and `s3` write", written, _EXCEEDED),
        ("a path of `file`; an address of `s3`", path_length, "`FileError`; `ParameterError`"),
        ("files that `list` finds", f"{file.MAX_FILES:,}", _EXCEEDED),
        ("output of a command on a stream", f"{_process.MAX_OUTPUT // _MIB} MiB", _EXCEEDED),
        ("the result of a function of `python`", f"{python.MAX_RESULT // _MIB} MiB as JSON", _EXCEEDED),
    ]


def _run_limits() -> list[LimitRow]:
    memory = (
        f"{memory_budget.MAX_RESERVED // _MIB} MiB, and {memory_budget.MAX_LOOP_RESULT // _MIB} MiB, as JSON"
    )
    payload_limits = PayloadLimits()
    outputs = f"{payload_limits.payload_bytes // _MIB} MiB as JSON"
    return [
        ("memory of the work of a step, and the batches of a loop together", memory, _TOO_LARGE),
        ("the outputs of a visit, in SQLite", outputs, _TOO_LARGE),
        ("the input of a run", f"{start.MAX_INPUT // _MIB} MiB as JSON", "the run is refused"),
        ("the key of a cache", f"{cached_work.MAX_KEY // _MIB} MiB as JSON", _EXCEEDED),
        (
            "the details of an error",
            f"{attempts.MAX_ERROR_DETAILS // 1024} KiB as JSON",
            "without the largest entries",
        ),
        ("an answer to a callback", f"{payload_limits.answer_bytes // _MIB} MiB as JSON", "refused"),
        (
            "actions of a visit, with all its pauses and attempts",
            f"{count_budget.DEFAULT_ACTIONS:,}, or `{count_budget.ACTIONS_SETTING}`",
            _EXCEEDED,
        ),
        (
            "actions of a step that wait",
            f"{count_budget.DEFAULT_WAITS:,}, or `{count_budget.WAITS_SETTING}`",
            _EXCEEDED,
        ),
        (
            "lines of the log of a run of a service",
            f"{DEFAULT_LOG_BYTES // _MIB} MiB, or `NOETL_LOG_BYTES`",
            "dropped",
        ),
        (
            "files that a run of a service writes",
            f"{DEFAULT_FILE_BYTES // (1024 * _MIB)} GiB, or `NOETL_FILE_BYTES`",
            _EXCEEDED,
        ),
        (
            "child runs of a run of a service and of its child runs",
            f"{child_runs.DEFAULT_CHILD_RUNS:,}, or `{child_runs.CHILD_RUNS_SETTING}`",
            _EXCEEDED,
        ),
        ("runs that start each other", f"{external.MAX_RUN_DEPTH} deep", _EXCEEDED),
        ("a secret that is redacted", f"{redaction.MIN_REDACTED_LENGTH} characters or more", ""),
    ]


_EXCEEDED = "`LimitExceeded`"
_WRONG = "`ParameterError`"
_TOO_LARGE = "`PayloadTooLarge`"


def _diagnostics(_: str) -> str:
    """Render the diagnostic codes, in one table for each family."""
    families: dict[str, list[tuple[str, str, str]]] = {title: [] for title in FAMILIES.values()}
    for code, entry in CODES.items():
        link = f"[{code}](../../../planner/diagnostics/explanations/{code}.md)"
        families[FAMILIES[code[:3]]].append((link, entry.severity.value, entry.title))
    head = ("code", "severity", "title")
    return "\n".join(f"## {title}\n\n{_table(head, rows)}" for title, rows in families.items())


def _routes(_: str) -> str:
    """Render the HTTP calls with the scope that each needs."""
    rows = []
    for route in (route for router in find_routers() for route in router.routes):
        if isinstance(route, APIRoute) and route.include_in_schema:
            access = declared_access(route)
            scope = f"`{access.scope}`" if isinstance(access, ScopeAccess) else "none"
            summary = " ".join(route.description.partition("\n\n")[0].split())
            rows += [(route.path_format, method, scope, summary) for method in route.methods or ()]
    cells = ((f"`{method} {path}`", scope, summary) for path, method, scope, summary in sorted(rows))
    return _table(("call", "scope", "what it does"), cells)


def _states(_: str) -> str:
    """Render the states of a visit as a picture."""
    return f"```mermaid\n{state_diagram.draw_mermaid()}```\n"


def _transitions(_: str) -> str:
    return _table(("from", "trigger", "to", "function"), state_diagram.transition_rows())


def _combined(_: str) -> str:
    return _table(("first", "second", "seen as"), state_diagram.combined_rows())


def _settings(_: str) -> str:
    """Render the settings, in one table for each group."""
    head = ("setting", "value", "default", "meaning")
    return "\n".join(
        f"## {title}\n\n"
        + _table(head, ((f"`{s.name}`", s.value, s.default, s.meaning) for s in SETTINGS if s.group == group))
        for group, title in GROUPS.items()
    )


def _decisions(_: str) -> str:
    """Render the list of decisions, from the headings of their pages."""
    pages = sorted(_DECISIONS.glob("0*.md"))
    headings = (path.read_text("utf-8").partition("\n")[0].removeprefix("# ") for path in pages)
    links = (f"[{heading}]({path.name})" for path, heading in zip(pages, headings, strict=True))
    return "".join(f"- {link}\n" for link in links)


_RENDERERS: Mapping[str, Callable[[str], str]] = {
    "keys": _keys,
    "types": _types,
    "action": _action,
    "filters": _filters,
    "methods": _methods,
    "limits": _limits,
    "prices": _prices,
    "reserved": _reserved,
    "diagnostics": _diagnostics,
    "routes": _routes,
    "states": _states,
    "transitions": _transitions,
    "combined": _combined,
    "decisions": _decisions,
    "settings": _settings,
}


if __name__ == "__main__":
    main()
