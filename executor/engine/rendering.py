"""From the parameters of a playbook to the parameters of a call: templates filled in as the sink of each allows."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import to_text
from noetl.executor.security.secret_sources import SecretReference, resolve_secret
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink
from noetl.planner.diagnostics.wording import quote_or_describe
from noetl.planner.kinds import describe_kind_of, describe_kinds, is_of_kind
from noetl.planner.lexers.url import UrlComponent, UrlLexer
from noetl.planner.templates.template import (
    EvaluationError,
    Expression,
    Lookup,
    Template,
    has_template,
    parse_template,
    shared_budget,
)

if TYPE_CHECKING:
    from noetl.executor.model.sql import Sql


@shared_budget()
def render_parameters(
    declaration: ActionDeclaration, parameters: Mapping[str, Any], lookup: Lookup
) -> dict[str, Any]:
    """All parameters of an action, rendered and of the kinds it declares.

    An optional parameter that renders to none is left out, unless none is a value it can have. Choices come out as
    declared, however they were capitalised.

    Raises:
        ActionError: one has no value here, or not one it may have; the message names it. Retryable only where a secret
            was not to be had for now.
    """
    rendered = {}
    for name, value in parameters.items():
        try:
            rendered[name] = _rendered(value, declaration.parameters.get(name), lookup)
        except ActionError as error:
            raise ActionError(error.type, f"`{name}`: {error.message}", retryable=error.retryable) from error
    return check_kinds(declaration, rendered)


@shared_budget()
def render(value: Any, parameter: Parameter | None, lookup: Lookup) -> Any:
    """`value` with every template in it filled in, at any depth and on one budget; keys stay as they are.

    Text of a sink comes out as that sink needs it: a whole `Sql`, a quoted command, an encoded address. `secrets` are
    revealed where the parameter may carry them, unknown where it may not, and by reference where there is no parameter.
    A template that reads a late name of its parameter comes out as a function of the late names, given as keywords. An
    action that is a parameter stays as it is: it is rendered when it is performed.

    Raises:
        ActionError: `UndefinedName`, `TemplateError`, `LimitExceeded`, `ParameterError`, or what keeps a secret away.
    """
    return _rendered(value, parameter, lookup)


def _rendered(value: Any, parameter: Parameter | None, lookup: Lookup) -> Any:
    if parameter is not None and Kind.ACTION in parameter.kinds:
        return value
    if parameter is not None and parameter.fields:
        return _fields(value, parameter.fields, lookup)
    if (
        parameter is not None
        and parameter.deferred_names
        and isinstance(value, str)
        and _reads_any(value, parameter.deferred_names)
    ):
        return _late(value, parameter, lookup)
    sink = Sink.PLAIN if parameter is None else parameter.sink
    if sink is Sink.SQL and isinstance(value, str):
        return _sql(value, parameter, lookup)
    if isinstance(value, str):
        return _text(value, parameter, lookup)
    if parameter is not None and sink is Sink.SHELL and isinstance(value, list):
        word = replace(parameter, sink=Sink.PLAIN)
        return [to_text(_rendered(item, word, lookup)) for item in value]
    if isinstance(value, dict):
        return {key: _rendered(item, parameter, lookup) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, parameter, lookup) for item in value]
    return value


def check_kinds(declaration: ActionDeclaration, rendered: Mapping[str, Any]) -> dict[str, Any]:
    """The rendered parameters, as `render_parameters` gives them.

    Raises:
        ActionError: `ParameterError`, naming the parameter that is of the wrong kind, missing or not to be combined.
    """
    checked = _checked(declaration.type, declaration.parameters, rendered)
    if declaration.one_of and sum(name in checked for name in declaration.one_of) != 1:
        raise _wrong(
            f"`{declaration.type}` needs exactly one of {', '.join(f'`{n}`' for n in declaration.one_of)}"
        )
    return checked


def _checked(owner: str, parameters: Mapping[str, Parameter], rendered: Mapping[str, Any]) -> dict[str, Any]:
    checked = {}
    for name, value in rendered.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise _wrong(f"`{owner}` has no parameter `{name}`")
        if value is None and not parameter.required and Kind.ANY not in parameter.kinds:
            continue
        plain = "" if parameter.sink is Sink.SQL and _is_statement(value) else value
        if not callable(value) and not any(is_of_kind(plain, kind) for kind in parameter.kinds):
            raise _wrong(
                f"`{name}` must be {describe_kinds(parameter.kinds)}, and is {describe_kind_of(value)}"
            )
        if parameter.fields:
            checked[name] = _checked(name, parameter.fields, value)
        else:
            checked[name] = _chosen(name, value, parameter) if parameter.choices else value
        if (
            parameter.rejection_reason is not None
            and not callable(value)
            and (reason := parameter.rejection_reason(value)) is not None
        ):
            raise _wrong(
                f"`{name}` cannot be {describe_kind_of(value) if parameter.secrets else quote_or_describe(value)}: {reason}"
            )
    for name, parameter in parameters.items():
        if parameter.required and name not in checked:
            raise _wrong(f"`{owner}` needs `{name}`")
        for other in parameter.requires if name in checked else ():
            if other not in checked:
                raise _wrong(f"`{name}` needs `{other}` beside it")
    return checked


def _chosen(name: str, value: Any, parameter: Parameter) -> Any:
    for choice in parameter.choices:
        if isinstance(value, str) and value.lower() == choice.lower():
            return choice
    if isinstance(value, str):
        raise _wrong(f"`{name}` is {value!r}; it must be one of {', '.join(parameter.choices)}")
    return value


def _wrong(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)


def _fields(value: Any, fields: Mapping[str, Parameter], lookup: Lookup) -> Any:
    if isinstance(value, str) and has_template(value):
        raise _wrong("it must be written out, part by part")
    if not isinstance(value, dict):
        return value
    rendered = {}
    for key, item in value.items():
        try:
            rendered[key] = _rendered(item, fields.get(key), lookup)
        except ActionError as error:
            raise ActionError(error.type, f"`{key}`: {error.message}", retryable=error.retryable) from error
    return rendered


def _reads_any(text: str, names: tuple[str, ...]) -> bool:
    return has_template(text) and not parse_template(text).names.isdisjoint(names)


def _late(text: str, parameter: Parameter, lookup: Lookup) -> Callable[..., Any]:
    return lambda **names: _evaluate(
        text, parameter, lambda name: names[name] if name in names else lookup(name)
    )


def _text(text: str, parameter: Parameter | None, lookup: Lookup) -> Any:
    if not has_template(text):
        return text
    sink = Sink.PLAIN if parameter is None else parameter.sink
    if sink is Sink.SHELL:
        return _shell(text, parameter, lookup)
    if sink is Sink.URL:
        return _url(text, parameter, lookup)
    return _evaluate(text, parameter, lookup)


def _evaluate(text: str, parameter: Parameter | None, lookup: Lookup) -> Any:
    if not has_template(text):
        return text
    template = parse_template(text)
    value = _guarded(template, parameter, lookup, template.evaluate)
    if parameter is None and "secrets" in template.names and not isinstance(value, SecretReference):
        raise _wrong("a secret is passed on by itself: put text around it where it is used")
    return str(value) if isinstance(value, str) and not isinstance(value, SecretReference) else value


def _parts(text: str, parameter: Parameter | None, lookup: Lookup) -> list[tuple[str | Expression, Any]]:
    """The parts of a text that ends up in a sink, each expression with its value."""
    template = parse_template(text)
    if template.parts is None:
        raise _wrong("`{% %}` is not allowed here")
    values = iter(_guarded(template, parameter, lookup, template.values))
    return [(part, None if isinstance(part, str) else next(values)) for part in template.parts]


def _guarded(template: Template, parameter: Parameter | None, lookup: Lookup, evaluate: Any) -> Any:
    """What `evaluate` makes of the template, with the secrets that the parameter may see."""
    missing: list[ActionError] = []

    def seen(name: str) -> Any:
        if name == "secrets":
            return _secrets(template, parameter, missing)
        value = lookup(name)
        return (
            _reveal(value, template, name)
            if parameter is not None and parameter.secrets and name == "args"
            else value
        )

    try:
        return evaluate(seen)
    except EvaluationError as error:
        if missing and error.type == "UndefinedName":
            raise missing[0] from error
        if "secrets" in template.names or ("args" in template.names and error.type == "TemplateError"):
            # What went wrong may quote the value.
            message = "a value that may hold a secret cannot be made here; the details are withheld"
            raise ActionError(error.type, message, retryable=False) from None
        raise ActionError(error.type, error.message, retryable=False) from error


def _secrets(template: Template, parameter: Parameter | None, missing: list[ActionError]) -> dict[str, str]:
    """The secrets that the template names, as plain values where the parameter may carry them."""
    names = {access[1] for access in template.reads if access[0] == "secrets" and len(access) > 1}
    if parameter is None:
        return {name: SecretReference(name) for name in names}
    if not parameter.secrets:
        raise _wrong("`secrets` cannot be used here")
    found = {}
    for name in sorted(names):
        try:
            found[name] = resolve_secret(name)
        except ActionError as error:
            # One that exists and cannot be had must not look like one that is missing, which `default` provides for.
            if error.type != "ParameterError":
                raise
            missing.append(error)
    return found


def _reveal(value: Any, template: Template, name: str) -> Any:
    """`value` with the secrets that were passed by reference, as far as the template reads it."""
    for access in template.reads:
        if access[0] == name:
            value = _reveal_at(value, access[1:])
    return value


def _reveal_at(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, SecretReference):
        return value.reveal()
    if isinstance(value, Mapping):
        keys = path[:1] or tuple(value)
        return {**value, **{key: _reveal_at(value[key], path[1:]) for key in keys if key in value}}
    if isinstance(value, list):
        return [_reveal_at(item, ()) for item in value]
    return value


def _is_statement(value: Any) -> bool:
    from noetl.executor.model.sql import Sql

    return isinstance(value, Sql)


def _sql(text: str, parameter: Parameter | None, lookup: Lookup) -> Sql:
    from noetl.executor.model.sql import Bind, Sql, SqlIdentifier

    if not has_template(text):
        return Sql((text,))
    rendered: list[str | Bind | SqlIdentifier] = []
    for part, value in _parts(text, parameter, lookup):
        if isinstance(part, str):
            rendered.append(part)
        elif part.is_raw:
            rendered.append(to_text(value))
        elif part.is_identifier:
            rendered.append(SqlIdentifier(to_text(value)))
        else:
            rendered.append(Bind(str(value) if isinstance(value, str) else value))
    if not any(isinstance(part, str) and part.strip() for part in rendered):
        raise _wrong("a statement cannot come from data: write it out, or say `| raw`")
    return Sql(tuple(rendered))


def _shell(text: str, parameter: Parameter | None, lookup: Lookup) -> Any:
    parts = _parts(text, parameter, lookup)
    values = [value for part, value in parts if isinstance(part, Expression)]
    if parse_template(text).is_expression and isinstance(values[0], list):
        return [to_text(item) for item in values[0]]
    return "".join(
        part if isinstance(part, str) else to_text(value) if part.is_raw else shlex.quote(to_text(value))
        for part, value in parts
    )


def _url(text: str, parameter: Parameter | None, lookup: Lookup) -> Any:
    lexer = UrlLexer()
    address = ""
    places: list[tuple[int, int]] = []
    for part, value in _parts(text, parameter, lookup):
        if isinstance(part, str):
            lexer.feed(part)
            address += part
        elif part.is_raw or lexer.component is UrlComponent.ORIGIN:
            if value is None or isinstance(value, dict | list):
                raise _wrong(
                    f"{{{{ {part.source} }}}} is {describe_kind_of(value)}, which cannot be a part of an address"
                )
            address += to_text(value)
        else:
            encoded = _url_value(part, value, lexer.component)
            if lexer.component is UrlComponent.PATH:
                places.append((len(address), len(address) + len(encoded)))
            address += encoded
    for start, end in places:
        _check_segment(address, start, end)
    return address.strip() if parse_template(text).is_expression else address


def _url_value(part: Expression, value: Any, place: UrlComponent) -> str:
    if place is UrlComponent.PATH:
        if value is None:
            raise _wrong(f"{{{{ {part.source} }}}} is none, which cannot be a part of a path")
        if ".." in to_text(value).replace("\\", "/").split("/"):
            raise _wrong(f"{{{{ {part.source} }}}} has `..` in it, which a path must not climb by")
    return quote(to_text(value), safe="")


def _check_segment(address: str, start: int, end: int) -> None:
    """Refuse what only together with its neighbours is a segment that climbs."""
    first = address.rfind("/", 0, start) + 1
    last = min((at for mark in "/?#" if (at := address.find(mark, end)) >= 0), default=len(address))
    if address[first:last].lower().replace("%2e", ".") in (".", ".."):
        raise _wrong("a template makes a `.` or `..` of a part of the path, which it must not climb by")
