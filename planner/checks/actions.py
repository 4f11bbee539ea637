"""Actions: known types, their parameters, and templates that would end up as code (NP501 to NP509, NP511, NP403)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink
from noetl.planner.checks.secrets import find_secret
from noetl.planner.diagnostics.diagnostic import suggest
from noetl.planner.diagnostics.wording import quoted
from noetl.planner.kinds import described, either, is_of_kind
from noetl.planner.lexers.shell import ShellLexer
from noetl.planner.lexers.sql import SqlLexer
from noetl.planner.lexers.url import UrlComponent, UrlLexer
from noetl.planner.program.program import Subject
from noetl.planner.syntax.addresses import is_never_allowed
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
from pydantic import ValidationError

COMMON = frozenset(field.alias or name for name, field in ActionEntry.model_fields.items())
"""What every action takes besides the parameters of its type."""

_BESIDE = "drop the quotes: the value is sent beside the statement"
_BY_ENV = 'hand it over by `env`, and write `"$NAME"` here'
_SHELL_HINTS = {
    "quotes": "drop the quotes: the value is quoted by itself",
    "a comment": "move it out of the comment",
    "an escape": "drop the backslash: the value is quoted by itself",
}


def check_actions(subject: Subject) -> None:
    """Report what is wrong with each action of the playbook, wherever it stands, and secrets that are written out elsewhere."""
    check = _Check(subject)
    for section in ("environment", "variables"):
        for name, value in getattr(subject.playbook, section).items():
            check.literal_secrets(name, value, (section, name))
    for entry, _, _ in subject.entries:
        if isinstance(entry, ActionEntry):
            check.action(entry.action, entry.parameters, entry.path)
        elif isinstance(entry, TaskEntry):
            check.literal_secrets("with", entry.with_, (*entry.path, "with"))


class _Check:
    def __init__(self, subject: Subject) -> None:
        self._document = subject.document
        self._catalogue = subject.catalogue
        self._diagnostics = subject.diagnostics

    def action(self, type_: str, parameters: Mapping[str, Any], path: DocumentPath) -> None:
        declaration = self._catalogue.get(type_)
        if declaration is None:
            at = self._document.span((*path, "action"))
            known = ", ".join(f"`{name}`" for name in self._catalogue)
            hint = suggest(type_, self._catalogue) or f"there are {known}"
            self._diagnostics.add("NP501", f"there is no action type `{type_}`", at, hint)
            return
        if type_ not in self._catalogue.allowed:
            at = self._document.span((*path, "action"))
            allowed = ", ".join(f"`{name}`" for name in self._catalogue if name in self._catalogue.allowed)
            hint = f"{self._catalogue.setting} allows {allowed}"
            self._diagnostics.add("NP511", f"`{type_}` may not be used here", at, hint)
        misspelt = set()
        for name, value in parameters.items():
            parameter = declaration.parameters.get(name)
            if parameter is None:
                misspelt |= self._unknown(declaration, name, path)
            else:
                self._parameter(declaration, name, parameter, value, (*path, name))
        self._missing(declaration, parameters, misspelt, path)

    def _unknown(self, declaration: ActionDeclaration, name: str, path: DocumentPath) -> set[str]:
        """Report a parameter that the type does not have; returns the names it may have been meant for."""
        known = {*declaration.parameters, *COMMON}
        close = suggest(name, known)
        hint = close or "it takes " + ", ".join(f"`{known}`" for known in declaration.parameters)
        message = f"`{declaration.type}` has no parameter `{name}`"
        self._diagnostics.add("NP502", message, self._document.key_span((*path, name)), hint)
        return {word for word in known if close and f"`{word}`" in close}

    def _missing(
        self, declaration: ActionDeclaration, given: Mapping[str, Any], misspelt: set[str], path: DocumentPath
    ) -> None:
        def report(message: str, hint: str | None = None) -> None:
            self._diagnostics.add("NP503", message, self._document.span((*path, "action")), hint)

        present = {*given, *misspelt}
        for name, parameter in declaration.parameters.items():
            if parameter.required and name not in present:
                report(f"`{declaration.type}` needs `{name}`", parameter.description)
            for other in parameter.requires if name in given else ():
                if other not in present and other not in declaration.one_of:
                    report(f"`{name}` needs `{other}` beside it", declaration.parameters[other].description)
        alternatives = [name for name in declaration.one_of if name in present]
        words = ", ".join(f"`{name}`" for name in declaration.one_of)
        if declaration.one_of and not alternatives:
            report(f"`{declaration.type}` needs one of {words}")
        if len(alternatives) > 1:
            both = " and ".join(f"`{name}`" for name in alternatives[:2])
            at = self._document.key_span((*path, alternatives[1]))
            self._diagnostics.add("NP503", f"{both} exclude each other: it takes exactly one of {words}", at)

    def _parameter(
        self, declaration: ActionDeclaration, name: str, parameter: Parameter, value: Any, path: DocumentPath
    ) -> None:
        self._kind(name, parameter, value, path)
        if parameter.written_out and isinstance(value, str) and has_template(value):
            message = f"`{name}` is written out, so that its names are known before it runs"
            self._diagnostics.add(
                "NP504", message, self._document.span(path), "give each name its own template"
            )
        if parameter.fields and isinstance(value, dict):
            self._fields(declaration, name, parameter.fields, value, path)
            return
        if parameter.sink is not Sink.PLAIN:
            for text, place in _sink_texts(parameter, value, path):
                self._sink(name, parameter.sink, text, place)
        if (
            Kind.ACTION in parameter.kinds
            and isinstance(value, dict)
            and isinstance(value.get("action"), str)
        ):
            self._nested(name, value, path)
        else:
            self.literal_secrets(name, value, path)

    def _nested(self, name: str, value: dict[str, Any], path: DocumentPath) -> None:
        """An action that is a parameter: it is done at once, and what it gives is not kept."""
        own = {key: item for key, item in value.items() if key not in COMMON}
        for key in value.keys() & (COMMON - {"action", "retry", "timeout"}):
            at = self._document.key_span((*path, key))
            self._diagnostics.add(
                "NP502", f"the action of `{name}` takes no `{key}`", at, "it takes `retry` and `timeout`"
            )
        try:
            ActionEntry.model_validate(
                {key: value[key] for key in ("action", "retry", "timeout") if key in value}
            )
        except ValidationError as problem:
            for error in problem.errors():
                place, inside = path, value
                for part in error["loc"]:
                    if isinstance(inside, dict) and part in inside:
                        place, inside = (*place, part), inside[part]
                mistake = describe_wrong_value(place, error["input"], [error])
                self._diagnostics.add(mistake.code, mistake.message, self._document.span(place), mistake.hint)
        nested = self._catalogue.get(value["action"])
        if nested is not None and nested.suspends:
            at = self._document.span((*path, "action"))
            self._diagnostics.add(
                "NP504", f"the action of `{name}` cannot be one that waits, as `{nested.type}` does", at
            )
        self.action(value["action"], own, path)

    def _fields(
        self,
        declaration: ActionDeclaration,
        name: str,
        fields: Mapping[str, Parameter],
        value: Mapping[str, Any],
        path: DocumentPath,
    ) -> None:
        for key, item in value.items():
            if key in fields:
                self._parameter(declaration, f"{name}.{key}", fields[key], item, (*path, key))
            else:
                hint = suggest(key, fields) or "it takes " + ", ".join(f"`{field}`" for field in fields)
                self._diagnostics.add(
                    "NP502", f"`{name}` has no `{key}`", self._document.key_span((*path, key)), hint
                )
        missing = [key for key, field in fields.items() if field.required and key not in value]
        for key in missing if value.keys() <= fields.keys() else ():
            at = self._document.key_span(path)
            self._diagnostics.add("NP503", f"`{name}` needs `{key}`", at, fields[key].description)

    def _kind(self, name: str, parameter: Parameter, value: Any, path: DocumentPath) -> None:
        if (value is None and not parameter.required) or (_may_be_anything(value) and not parameter.fields):
            return
        at = self._document.span(path)
        if not any(_is_fit(value, kind) for kind in parameter.kinds):
            message = f"`{name}` must be {either(parameter.kinds)}, and is {described(value)}"
            self._diagnostics.add("NP504", message, at)
        elif isinstance(value, str) and parameter.choices and not _is_choice(value, parameter):
            choices = ", ".join(f"`{choice}`" for choice in parameter.choices)
            hint = suggest(value.lower(), parameter.choices) or f"it is one of {choices}"
            self._diagnostics.add("NP504", f"`{name}` cannot be `{value}`", at, hint)
        elif parameter.refuses is not None and not any(
            has_template(text) for _, text, _ in _texts(name, value, path)
        ):
            if (reason := parameter.refuses(value)) is not None:
                self._diagnostics.add("NP504", f"`{name}` cannot be {_quoted(value)}", at, reason)

    def _sink(self, name: str, sink: Sink, text: str, path: DocumentPath) -> None:
        template = _parsed(text)
        if template is None:
            if sink is Sink.URL and not has_template(text):
                self._address(text, path, is_whole=True)
            return
        if template.parts is None:
            at = text.find("{%")
            span = self._document.text_span(path, at, text.find("%}", at) + 2)
            hint = "build the text in a `set` before it, or use `{{ a if b else c }}`"
            self._diagnostics.add("NP403", f"`{{% %}}` is not allowed in `{name}`", span, hint)
            return
        expressions = [part for part in template.parts if isinstance(part, Expression)]
        for expression in expressions:
            if expression.is_raw:
                message = f"`| raw` puts data into `{name}` as it is: it can become code"
                span = self._document.text_span(path, expression.start, expression.end)
                self._diagnostics.add(
                    "NP506", message, span, "leave it out unless the value is the author's own"
                )
        match sink:
            case Sink.SQL:
                self._sql(template, expressions, path)
            case Sink.SHELL:
                self._shell(template, path)
            case Sink.URL:
                self._address(_literal_start(template), path, is_whole=False)

    def _sql(self, template: Template, expressions: list[Expression], path: DocumentPath) -> None:
        if template.is_expression and not expressions[0].is_raw:
            message = "a statement cannot come from data: a template in `query` stands for a value"
            self._diagnostics.add("NP504", message, self._document.span(path), "write the statement out")
            return
        lexer = SqlLexer()
        parts = template.parts or ()
        for at, part in enumerate(parts):
            if isinstance(part, str):
                lexer.feed(part)
            elif lexer.context and not part.is_raw:
                hint = _sql_hint(lexer.context, part, parts[at - 1], (*parts, "")[at + 1])
                self._inside("NP505", lexer.context, part, path, hint)

    def _shell(self, template: Template, path: DocumentPath) -> None:
        lexer = ShellLexer()
        for part in template.parts or ():
            if isinstance(part, str):
                lexer.feed(part)
                continue
            if lexer.context and not part.is_raw:
                hint = _SHELL_HINTS.get(lexer.context, _BY_ENV)
                self._inside("NP509", lexer.context, part, path, hint)
            lexer.feed_value()

    def _inside(self, code: str, place: str, part: Expression, path: DocumentPath, hint: str) -> None:
        span = self._document.text_span(path, part.start, part.end)
        self._diagnostics.add(code, f"a template inside {place}", span, hint)

    def _address(self, text: str, path: DocumentPath, *, is_whole: bool) -> None:
        """Check an address, or the literal text it begins with."""
        scheme, slashes, rest = text.partition("://")
        if not slashes or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
            if is_whole:
                hint = (
                    f"write `https://{text.lstrip('/')}`"
                    if re.match(r"/{0,2}[\w-]+(\.[\w-]+)+", text)
                    else None
                )
                self._diagnostics.add(
                    "NP508", "an address begins with `http://` or `https://`", self._document.span(path), hint
                )
            return
        if scheme.lower() not in ("http", "https"):
            span = self._document.text_span(path, 0, len(scheme))
            self._diagnostics.add("NP508", f"`{scheme}` is not an address that `http` can reach", span)
            return
        authority = re.match(r"[^/?#\\]*", rest)
        if authority is None or (not is_whole and authority.end() == len(rest)):
            return
        start = len(scheme) + 3 + authority[0].rfind("@") + 1
        host = re.sub(r":\d*$", "", authority[0].rpartition("@")[2])
        if is_never_allowed(host):
            span = self._document.text_span(path, start, start + len(host))
            self._diagnostics.add("NP508", f"`{host}` is an address that is never allowed", span)

    def literal_secrets(self, name: str, value: Any, path: DocumentPath) -> None:
        """Report every text in a value that looks like a password, token or key."""
        for key, text, place in _texts(name, value, path):
            found = find_secret(key, text, within=name)
            if found is not None:
                span = self._document.text_span(place, *found)
                hint = "give it as `{{ secrets.NAME }}`, and set NOETL_SECRET_NAME where it runs"
                self._diagnostics.add("NP507", "this looks like a secret written out", span, hint)


def _parsed(text: str) -> Template | None:
    """The template, or None when there is none or it is broken, which others report."""
    if not has_template(text):
        return None
    try:
        return parse_template(text)
    except TemplateProblem:
        return None


def _sink_texts(parameter: Parameter, value: Any, path: DocumentPath) -> Iterator[tuple[str, DocumentPath]]:
    """The texts that end up in the sink: of a list of statements each one, of a list of arguments none."""
    if isinstance(value, str):
        yield value, path
    elif isinstance(value, list) and parameter.sink is Sink.SQL:
        yield from ((item, (*path, at)) for at, item in enumerate(value) if isinstance(item, str))


def _sql_hint(inside: str, part: Expression, before: object, behind: object) -> str:
    """How a template is freed of what it stands in, between two other parts of the statement."""
    if inside == "a comment":
        return "move it out of the comment"
    if inside == "a quoted name":
        whole = part.source if re.fullmatch(r"[\w.]+", part.source) else f"({part.source})"
        name = part.source if part.is_identifier else f"{whole} | identifier"
        return f"write `{{{{ {name} }}}}`, without the quotes"
    is_all = str(before).endswith("'") and str(behind).startswith("'")
    return _BESIDE if is_all else f"{_BESIDE}, and joined to text with `||`"


def _literal_start(template: Template) -> str:
    """The text of an address before its first template, when the whole origin is in it; else nothing."""
    first = template.parts[0] if template.parts else ""
    if not isinstance(first, str):
        return ""
    lexer = UrlLexer()
    lexer.feed(first)
    return first if lexer.component is not UrlComponent.ORIGIN or "://" in first else ""


def _may_be_anything(value: Any) -> bool:
    if not isinstance(value, str) or not has_template(value):
        return False
    template = _parsed(value)
    return template is None or template.is_expression


def _quoted(value: Any) -> str:
    return "empty" if value in ("", []) else quoted(value)


def _is_choice(value: str, parameter: Parameter) -> bool:
    return has_template(value) or value.lower() in {choice.lower() for choice in parameter.choices}


def _is_fit(value: Any, kind: Kind) -> bool:
    if kind is Kind.DURATION and not (isinstance(value, str) and has_template(value)):
        try:
            parse_duration(value)
        except ValueError:
            return False
    return is_of_kind(value, kind)


def _texts(key: str, value: Any, path: DocumentPath) -> Iterator[tuple[str, str, DocumentPath]]:
    """Every text in a value, with the key it stands under and its place."""
    if isinstance(value, str):
        yield key, value, path
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(str(name), item, (*path, name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _texts(key, item, (*path, at))
