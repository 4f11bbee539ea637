"""Checks of actions: types, parameters, injection, addresses and literal secrets.

These are the codes NP403, NP501 to NP509, NP511 and NP512.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink
from noetl.planner.checks.inputs import check_declared_fields
from noetl.planner.diagnostics.diagnostic import closest, did_you_mean, suggest
from noetl.planner.diagnostics.wording import as_code, quote_or_describe
from noetl.planner.kinds import describe_kind_of, describe_kinds, is_of_kind
from noetl.planner.lexers.shell import ShellLexer, read_as_code
from noetl.planner.lexers.sql import SqlLexer
from noetl.planner.lexers.url import UrlComponent, UrlLexer
from noetl.planner.literal_secrets import find_literal_secret
from noetl.planner.program.program import Program
from noetl.planner.syntax.addresses import is_forbidden_host
from noetl.planner.syntax.durations import parse_duration
from noetl.planner.syntax.models import ActionEntry, DocumentPath, TaskEntry
from noetl.planner.syntax.schema_errors import describe_wrong_value
from noetl.planner.templates.template import (
    Expression,
    Template,
    TemplateProblem,
    has_template,
    parse_template,
)

COMMON_PARAMETERS = frozenset(field.alias or name for name, field in ActionEntry.model_fields.items())
"""The keys that every action takes in addition to the parameters of its type."""

_DROP_SQL_QUOTES = "remove the quotes: the value is sent separately from the statement"
_USE_ENV = 'pass it by `env`, and write `"$NAME"` here'
_SHELL_HINTS = {
    "quotes": "remove the quotes: the value is quoted automatically",
    "a comment": "move it out of the comment",
    "an escape": "remove the backslash: the value is quoted automatically",
}


def check_actions(program: Program) -> None:
    """Check every action, and report literal secrets in `environment`, `variables` and arguments of tasks."""
    checker = _ActionChecker(program)
    for section in ("environment", "variables"):
        for name, value in getattr(program.playbook, section).items():
            checker.check_literal_secrets(name, value, (section, name))
    for entry, _, _ in program.entries:
        if isinstance(entry, ActionEntry):
            checker.check_action(entry.action, entry.parameters, entry.path)
        elif isinstance(entry, TaskEntry):
            checker.check_literal_secrets("with", entry.with_, (*entry.path, "with"))


class _ActionChecker:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._document = program.document
        self._catalogue = program.catalogue
        self._diagnostics = program.diagnostics

    def check_action(self, type_: str, parameters: Mapping[str, Any], path: DocumentPath) -> None:
        declaration = self._catalogue.get(type_)
        if declaration is None:
            span = self._document.span((*path, "action"))
            hint = did_you_mean(type_, self._catalogue) or f"known types: {_list(self._catalogue)}"
            self._diagnostics.add("NP501", f"unknown action type `{type_}`", span, hint)
            return
        if type_ not in self._catalogue.allowed:
            span = self._document.span((*path, "action"))
            allowed = [name for name in self._catalogue if name in self._catalogue.allowed]
            hint = f"use a type that {self._catalogue.setting} allows: {_list(allowed)}"
            self._diagnostics.add("NP511", f"action type `{type_}` is not allowed here", span, hint)
        intended = set()
        for name, value in parameters.items():
            parameter = declaration.parameters.get(name)
            if parameter is None:
                intended |= self._report_unknown_parameter(declaration, name, path)
            else:
                self._check_parameter(declaration, name, parameter, value, (*path, name))
        self._check_missing_parameters(declaration, parameters, intended, path)

    def _report_unknown_parameter(
        self, declaration: ActionDeclaration, name: str, path: DocumentPath
    ) -> set[str]:
        """Report an unknown parameter. Return the parameter that was probably meant, if any."""
        meant = closest(name, {*declaration.parameters, *COMMON_PARAMETERS})
        hint = suggest(name, meant) or f"parameters: {_list(declaration.parameters)}"
        message = f"unknown parameter `{name}` of `{declaration.type}`"
        self._diagnostics.add("NP502", message, self._document.key_span((*path, name)), hint)
        return {meant} if meant else set()

    def _check_missing_parameters(
        self, declaration: ActionDeclaration, given: Mapping[str, Any], intended: set[str], path: DocumentPath
    ) -> None:
        def report(message: str, hint: str | None = None) -> None:
            self._diagnostics.add("NP503", message, self._document.span((*path, "action")), hint)

        present = {*given, *intended}
        for name, parameter in declaration.parameters.items():
            if parameter.required and name not in present:
                report(f"missing parameter `{name}` of `{declaration.type}`", _add_hint(name, parameter))
            for required in parameter.requires if name in given else ():
                if required not in present and required not in declaration.one_of:
                    hint = _add_hint(required, declaration.parameters[required])
                    report(f"missing parameter `{required}`, which `{name}` requires", hint)
        alternatives = [name for name in declaration.one_of if name in present]
        if declaration.one_of and not alternatives:
            report(f"`{declaration.type}` must have one of {_list(declaration.one_of)}")
        if len(alternatives) > 1:
            pair = " and ".join(as_code(alternatives[:2]))
            span = self._document.key_span((*path, alternatives[1]))
            message = f"{pair} exclude each other: exactly one of {_list(declaration.one_of)} must be given"
            self._diagnostics.add("NP503", message, span)
        excluding = [name for name in declaration.at_most_one if name in present]
        if len(excluding) > 1:
            span = self._document.key_span((*path, excluding[1]))
            message = f"{' and '.join(as_code(excluding[:2]))} exclude each other"
            self._diagnostics.add("NP503", message, span, f"remove `{excluding[1]}` or `{excluding[0]}`")

    def _check_parameter(
        self, declaration: ActionDeclaration, name: str, parameter: Parameter, value: Any, path: DocumentPath
    ) -> None:
        self._check_kind(name, parameter, value, path)
        if parameter.must_be_literal and isinstance(value, str) and has_template(value):
            message = f"`{name}` must be a literal mapping, not a template"
            is_declaration = parameter.declares_fields
            hint = "write each field as `NAME: TYPE`" if is_declaration else "give each name its own template"
            self._diagnostics.add("NP504", message, self._document.span(path), hint)
        if parameter.declares_fields and isinstance(value, dict):
            check_declared_fields(self._program, name, value, path)
        if parameter.fields and isinstance(value, dict):
            self._check_fields(declaration, name, parameter.fields, value, path)
            return
        if parameter.sink is not Sink.PLAIN:
            for text, text_path in _sink_texts(parameter, value, path):
                self._check_sink(declaration, name, parameter.sink, text, text_path)
            if parameter.sink is Sink.SHELL and isinstance(value, list):
                self._check_arguments(value, path)
        if (
            Kind.ACTION in parameter.kinds
            and isinstance(value, dict)
            and isinstance(value.get("action"), str)
        ):
            self._check_nested_action(name, value, path)
        else:
            self.check_literal_secrets(name, value, path)

    def _check_nested_action(self, name: str, value: dict[str, Any], path: DocumentPath) -> None:
        """Check an action that is a parameter. It is executed at once, and its result is not kept."""
        for key in value.keys() & (COMMON_PARAMETERS - {"action", "retry", "timeout"}):
            span = self._document.key_span((*path, key))
            message = f"unknown parameter `{key}` in the action of `{name}`"
            self._diagnostics.add("NP502", message, span, "only `retry` and `timeout` are allowed here")
        try:
            ActionEntry.model_validate(
                {key: value[key] for key in ("action", "retry", "timeout") if key in value}
            )
        except ValidationError as problem:
            for error in problem.errors():
                error_path, inside = path, value
                for part in error["loc"]:
                    if isinstance(inside, dict) and part in inside:
                        error_path, inside = (*error_path, part), inside[part]
                wrong = describe_wrong_value(error_path, error["input"], [error])
                self._diagnostics.add(wrong.code, wrong.message, self._document.span(error_path), wrong.hint)
        nested = self._catalogue.get(value["action"])
        if nested is not None and nested.suspends:
            span = self._document.span((*path, "action"))
            message = f"the action of `{name}` cannot be `{nested.type}`, which waits"
            self._diagnostics.add("NP504", message, span)
        parameters = {key: item for key, item in value.items() if key not in COMMON_PARAMETERS}
        self.check_action(value["action"], parameters, path)

    def _check_fields(
        self,
        declaration: ActionDeclaration,
        name: str,
        fields: Mapping[str, Parameter],
        value: Mapping[str, Any],
        path: DocumentPath,
    ) -> None:
        for key, item in value.items():
            if key in fields:
                self._check_parameter(declaration, f"{name}.{key}", fields[key], item, (*path, key))
            else:
                hint = did_you_mean(key, fields) or f"fields: {_list(fields)}"
                span = self._document.key_span((*path, key))
                self._diagnostics.add("NP502", f"unknown field `{key}` of `{name}`", span, hint)
        missing = [key for key, field in fields.items() if field.required and key not in value]
        for key in missing if value.keys() <= fields.keys() else ():
            span = self._document.key_span(path)
            self._diagnostics.add(
                "NP503", f"missing field `{key}` of `{name}`", span, fields[key].description
            )

    def _check_kind(self, name: str, parameter: Parameter, value: Any, path: DocumentPath) -> None:
        if (value is None and not parameter.required) or (_has_unknown_kind(value) and not parameter.fields):
            return
        span = self._document.span(path)
        if not any(_is_valid(value, kind) for kind in parameter.kinds):
            message = f"`{name}` must be {describe_kinds(parameter.kinds)}, not {describe_kind_of(value)}"
            self._diagnostics.add("NP504", message, span)
        elif isinstance(value, str) and parameter.choices and not _is_choice(value, parameter):
            choices = f"choices: {_list(parameter.choices)}"
            hint = suggest(value, closest(value.lower(), parameter.choices)) or choices
            self._diagnostics.add("NP504", f"`{name}` cannot be `{value}`", span, hint)
        elif parameter.rejection_reason is not None:
            if not any(has_template(text) for _, text, _ in _find_texts(name, value, path)):
                if (reason := parameter.rejection_reason(value)) is not None:
                    self._diagnostics.add("NP504", f"`{name}` cannot be {_quote(value)}", span, reason)

    def _check_sink(
        self, declaration: ActionDeclaration, name: str, sink: Sink, text: str, path: DocumentPath
    ) -> None:
        template = _parse(text)
        if template is None:
            if sink is Sink.URL and not has_template(text):
                self._check_url(declaration, text, path, is_complete=True)
            return
        if template.parts is None:
            start = text.find("{%")
            span = self._document.text_span(path, start, text.find("%}", start) + 2)
            hint = "build the text in a `set` before it, or use `{{ a if b else c }}`"
            self._diagnostics.add("NP403", f"`{{% %}}` is not allowed in `{name}`", span, hint)
            return
        expressions = [part for part in template.parts if isinstance(part, Expression)]
        for expression in expressions:
            if expression.is_raw:
                message = f"`| raw` inserts data into `{name}` without quoting: the data can become code"
                span = self._document.text_span(path, expression.start, expression.end)
                hint = "remove it, unless the author of the playbook wrote the value"
                self._diagnostics.add("NP506", message, span, hint)
        if sink is Sink.SQL:
            self._check_sql(name, template, expressions, path)
        elif sink is Sink.SHELL:
            self._check_shell(template, path)
        else:
            self._check_url(declaration, _literal_start(template), path, is_complete=False)

    def _check_sql(
        self, name: str, template: Template, expressions: list[Expression], path: DocumentPath
    ) -> None:
        if template.is_expression and not expressions[0].is_raw:
            message = (
                f"a statement cannot be a template: a template in `{name.rpartition('.')[2]}` is a value"
            )
            self._diagnostics.add("NP504", message, self._document.span(path), "write the statement as text")
            return
        lexer = SqlLexer()
        parts = template.parts or ()
        for index, part in enumerate(parts):
            if isinstance(part, str):
                lexer.feed(part)
            elif lexer.context and not part.is_raw:
                hint = _sql_hint(lexer.context, part, parts[index - 1], (*parts, "")[index + 1])
                self._report_context("NP505", lexer.context, part, path, hint)

    def _check_shell(self, template: Template, path: DocumentPath) -> None:
        lexer = ShellLexer()
        for part in template.parts or ():
            if isinstance(part, str):
                lexer.feed(part)
                continue
            if lexer.context and not part.is_raw:
                hint = _SHELL_HINTS.get(lexer.context, _USE_ENV)
                self._report_context("NP509", lexer.context, part, path, hint)
            elif not part.is_raw:
                self._check_code(lexer.words, (part.start, part.end), path)
            lexer.feed_value()

    def _check_arguments(self, arguments: list[Any], path: DocumentPath) -> None:
        """Check a command that is a list: each template in it is an argument, unchanged."""
        for index, argument in enumerate(arguments):
            template = _parse(argument) if isinstance(argument, str) else None
            for part in (template.parts or ()) if template else ():
                if isinstance(part, Expression):
                    words = [str(word) for word in arguments[:index]]
                    self._check_code(words, (part.start, part.end), (*path, index))

    def _check_code(self, words: Sequence[str], place: tuple[int, int], path: DocumentPath) -> None:
        """Report a template after words of a command that reads it as code."""
        if (command := read_as_code(words)) is not None:
            span = self._document.text_span(path, *place)
            hint = 'write the script as literal text, and pass the value after it as `"$1"`, or by `env`'
            self._diagnostics.add("NP512", f"`{command}` executes the value as code", span, hint)

    def _report_context(
        self, code: str, context: str, part: Expression, path: DocumentPath, hint: str
    ) -> None:
        span = self._document.text_span(path, part.start, part.end)
        self._diagnostics.add(code, f"template inside {context}", span, hint)

    def _check_url(
        self, declaration: ActionDeclaration, text: str, path: DocumentPath, *, is_complete: bool
    ) -> None:
        """Check a URL, or the literal text at its start if it is not complete."""
        scheme, separator, rest = text.partition("://")
        if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
            if is_complete:
                is_host = re.match(r"/{0,2}[\w-]+(\.[\w-]+)+", text)
                hint = f"write `https://{text.lstrip('/')}`" if is_host else None
                message = "a URL must start with `http://` or `https://`"
                self._diagnostics.add("NP508", message, self._document.span(path), hint)
            return
        if scheme.lower() not in ("http", "https"):
            span = self._document.text_span(path, 0, len(scheme))
            message = f"URL scheme `{scheme}` is not supported by `{declaration.type}`"
            self._diagnostics.add("NP508", message, span, "write a URL with `http://` or `https://`")
            return
        authority = re.match(r"[^/?#\\]*", rest)
        if authority is None or (not is_complete and authority.end() == len(rest)):
            return
        start = len(scheme) + len("://") + authority[0].rfind("@") + 1
        host = re.sub(r":\d*$", "", authority[0].rpartition("@")[2])
        if is_forbidden_host(host):
            span = self._document.text_span(path, start, start + len(host))
            self._diagnostics.add("NP508", f"host `{host}` is never allowed", span)

    def check_literal_secrets(self, name: str, value: Any, path: DocumentPath) -> None:
        """Report every text in a value that looks like a password, token or key."""
        is_connection_string = name in self._catalogue.connection_strings
        for key, text, text_path in _find_texts(name, value, path):
            position = find_literal_secret(key, text, is_connection_string=is_connection_string)
            if position is not None:
                span = self._document.text_span(text_path, *position)
                hint = "write `{{ secrets.NAME }}`, and set NOETL_SECRET_NAME where the playbook runs"
                self._diagnostics.add("NP507", "text looks like a literal secret", span, hint)


def _add_hint(name: str, parameter: Parameter) -> str:
    """Return the hint to add a parameter, with its description."""
    description = parameter.description.rstrip(".")
    if not description:
        return f"add `{name}`"
    is_word = description[1:2].islower() or description[1:2] == " "
    return f"add `{name}`: {description[0].lower() if is_word else description[0]}{description[1:]}"


def _list(words: Iterable[str]) -> str:
    return ", ".join(as_code(words))


def _parse(text: str) -> Template | None:
    """Return the template, or None if the text has none or it is invalid, which another check reports."""
    if not has_template(text):
        return None
    try:
        return parse_template(text)
    except TemplateProblem:
        return None


def _sink_texts(parameter: Parameter, value: Any, path: DocumentPath) -> Iterator[tuple[str, DocumentPath]]:
    """Yield the texts that the sink interprets: every SQL statement of a list, but no argument of a list."""
    if isinstance(value, str):
        yield value, path
    elif isinstance(value, list) and parameter.sink is Sink.SQL:
        yield from ((item, (*path, index)) for index, item in enumerate(value) if isinstance(item, str))


def _sql_hint(context: str, part: Expression, before: object, after: object) -> str:
    """Return how to move a template out of its context, given the parts of the statement around it."""
    if context == "a comment":
        return "move it out of the comment"
    if context == "a quoted name":
        source = part.source if re.fullmatch(r"[\w.]+", part.source) else f"({part.source})"
        name = part.source if part.is_identifier else f"{source} | identifier"
        return f"write `{{{{ {name} }}}}`, without the quotes"
    fills_quotes = str(before).endswith("'") and str(after).startswith("'")
    return _DROP_SQL_QUOTES if fills_quotes else f"{_DROP_SQL_QUOTES}; join it to text with `||`"


def _literal_start(template: Template) -> str:
    """Return the text of a URL before its first template if it contains the origin, else an empty string."""
    first = template.parts[0] if template.parts else ""
    if not isinstance(first, str):
        return ""
    lexer = UrlLexer()
    lexer.feed(first)
    return first if lexer.component is not UrlComponent.ORIGIN or "://" in first else ""


def _has_unknown_kind(value: Any) -> bool:
    if not isinstance(value, str) or not has_template(value):
        return False
    template = _parse(value)
    return template is None or template.is_expression


def _quote(value: Any) -> str:
    return "empty" if value in ("", []) else quote_or_describe(value)


def _is_choice(value: str, parameter: Parameter) -> bool:
    return has_template(value) or value.lower() in {choice.lower() for choice in parameter.choices}


def _is_valid(value: Any, kind: Kind) -> bool:
    if kind is Kind.DURATION and not (isinstance(value, str) and has_template(value)):
        try:
            parse_duration(value)
        except ValueError:
            return False
    return is_of_kind(value, kind)


def _find_texts(key: str, value: Any, path: DocumentPath) -> Iterator[tuple[str, str, DocumentPath]]:
    """Yield every text in a value with its key and its path."""
    if isinstance(value, str):
        yield key, value, path
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _find_texts(str(name), item, (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_texts(key, item, (*path, index))
