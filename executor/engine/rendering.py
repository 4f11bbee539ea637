"""Rendering of parameters: evaluate the templates of a playbook as the sink of each parameter requires.

A sink is a language into which a value is inserted. Values are bound in SQL, quoted in shell commands, and
percent-encoded in URLs, so that data cannot become code.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from noetl.executor.engine.failed_expression import expression_error
from noetl.executor.errors import ActionError
from noetl.executor.model.json_length import TooLongError
from noetl.executor.model.json_values import MAX_ARGUMENT, MAX_URL, to_text
from noetl.executor.security.secret_access import SecretAccess
from noetl.executor.security.secret_sources import SecretReference
from noetl.planner.catalogue import ActionDeclaration, Destination, Kind, Parameter, Sink
from noetl.planner.diagnostics.wording import quote_or_describe, quote_text
from noetl.planner.frozen import frozen, replace
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

_ARGUMENT_PROBLEM = (
    f"an argument of a command has at most {MAX_ARGUMENT:,} characters: pass long data in `stdin` or a file"
)


@frozen
class _Reader:
    """The names that templates read, and the secrets if the value is a parameter of an action."""

    lookup: Lookup
    secrets: SecretAccess | None = None

    def with_names(self, names: Mapping[str, Any]) -> _Reader:
        """Return a reader that reads `names` first."""
        lookup = self.lookup
        return _Reader(lambda name: names[name] if name in names else lookup(name), self.secrets)


@shared_budget()
def render_parameters(
    declaration: ActionDeclaration, parameters: Mapping[str, Any], lookup: Lookup, secrets: SecretAccess
) -> dict[str, Any]:
    """Return all parameters of an action, rendered, and checked against its declaration.

    The parameter that names the destination comes first: a secret that must not go there is not revealed.
    An optional parameter that renders to None is left out, unless None is an allowed value. A choice is
    returned as declared, whatever its case was.

    Raises:
        ActionError: a parameter has no value or an invalid value; the message names it. It is retryable only
            if a secret is temporarily unavailable.
    """
    reader = _Reader(lookup, secrets)
    rendered: dict[str, Any] = {}
    destination = declaration.destination
    if destination is None:
        secrets.set_destination(lambda: (f"action:{declaration.type}",))
    elif destination.parameter in parameters:
        name = destination.parameter
        rendered[name] = _render_parameter(declaration, name, parameters[name], reader)
        _set_destination(declaration, destination, rendered[name], secrets)
    else:
        secrets.set_destination(tuple)
    for name, value in parameters.items():
        if name not in rendered:
            rendered[name] = _render_parameter(declaration, name, value, reader)
    return check_kinds(declaration, {name: rendered[name] for name in parameters})


def _render_parameter(declaration: ActionDeclaration, name: str, value: Any, reader: _Reader) -> Any:
    try:
        return _render(value, declaration.parameters.get(name), reader)
    except ActionError as error:
        raise error.at_key(name).with_key_in_message() from error


def _set_destination(
    declaration: ActionDeclaration, destination: Destination, value: Any, secrets: SecretAccess
) -> None:
    """Set the destination of the secrets of an action, from the value of the parameter that names it.

    Raises:
        ActionError: the value is invalid, or a secret in it must not go there.
    """
    parameter = declaration.parameters[destination.parameter]
    shown = f"the server in `{destination.parameter}`" if parameter.secrets else None
    secrets.set_destination(
        lambda: destination.hosts(_check_value(destination.parameter, value, parameter)), shown
    )


@shared_budget()
def render(
    value: Any, parameter: Parameter | None, lookup: Lookup, secrets: SecretAccess | None = None
) -> Any:
    """Return `value` with all templates in it evaluated, at any depth, within one budget. Keys stay
    unchanged.

    The result has the form that the sink of the parameter needs: an `Sql` object, a quoted command, an
    encoded URL. Secrets are revealed if the parameter accepts them and `secrets` is given, unknown if not,
    and references without a parameter. A template that reads a deferred name of its parameter becomes a
    function of these names, which are keyword arguments. An action that is a parameter is returned unchanged;
    it is rendered when it is performed.

    Raises:
        ActionError: `UndefinedName`, `TemplateError`, `LimitExceeded`, `ParameterError`, or the error of a
            source of secrets.
    """
    return _render(value, parameter, _Reader(lookup, secrets))


def render_at_key(key: str, value: Any, lookup: Lookup) -> Any:
    """Return `value` rendered as `render` does without a parameter. An error names the key.

    Raises:
        ActionError: as `render`.
    """
    try:
        return render(value, None, lookup)
    except ActionError as error:
        raise error.at_key(key).with_key_in_message() from error


def _render(value: Any, parameter: Parameter | None, reader: _Reader) -> Any:
    if parameter is not None and Kind.ACTION in parameter.kinds:
        return value
    if parameter is not None and parameter.fields:
        return _render_fields(value, parameter.fields, reader)
    if isinstance(value, str):
        return _render_text(value, parameter, reader)
    if parameter is not None and parameter.sink is Sink.SHELL and isinstance(value, list):
        word = replace(parameter, sink=Sink.PLAIN)
        return [_to_argument(_render(item, word, reader)) for item in value]
    if isinstance(value, dict):
        return dict(_render_entries(value.items(), parameter, reader))
    if isinstance(value, list):
        return [item for _, item in _render_entries(enumerate(value), parameter, reader)]
    return value


def _render_entries(
    entries: Iterable[tuple[Any, Any]], parameter: Parameter | None, reader: _Reader
) -> Iterator[tuple[Any, Any]]:
    """Yield the entries of a mapping or list, rendered. An error names the key of its entry."""
    for key, item in entries:
        try:
            yield key, _render(item, parameter, reader)
        except ActionError as error:
            raise error.at_key(key) from error


def check_kinds(declaration: ActionDeclaration, rendered: Mapping[str, Any]) -> dict[str, Any]:
    """Check rendered parameters against the declaration, and return them as `render_parameters` does.

    Raises:
        ActionError: `ParameterError`; a parameter is missing, of the wrong kind, or excluded by another one.
    """
    checked = _check_parameters(declaration.type, declaration.parameters, rendered)
    if declaration.one_of and sum(name in checked for name in declaration.one_of) != 1:
        raise _parameter_error(
            f"`{declaration.type}` must have exactly one of {', '.join(f'`{n}`' for n in declaration.one_of)}"
        )
    if sum(name in checked for name in declaration.at_most_one) > 1:
        names = " and ".join(f"`{name}`" for name in declaration.at_most_one)
        raise _parameter_error(f"`{declaration.type}` must not have {names} together")
    return checked


def _check_parameters(
    owner: str, parameters: Mapping[str, Parameter], rendered: Mapping[str, Any], noun: str = "parameter"
) -> dict[str, Any]:
    """Return the checked parameters of an action type, or the checked fields of a parameter."""
    checked = {}
    for name, value in rendered.items():
        parameter = parameters.get(name)
        if parameter is None:
            raise _parameter_error(f"unknown {noun} `{name}` of `{owner}`")
        if value is None and not parameter.required and Kind.ANY not in parameter.kinds:
            continue
        checked[name] = _check_value(name, value, parameter)
    for name, parameter in parameters.items():
        if parameter.required and name not in checked:
            raise _parameter_error(f"missing {noun} `{name}` of `{owner}`")
        for required in parameter.requires if name in checked else ():
            if required not in checked:
                raise _parameter_error(f"missing {noun} `{required}`, which `{name}` requires")
    return checked


def _check_value(name: str, value: Any, parameter: Parameter) -> Any:
    """Return the value of one parameter, checked."""
    plain = "" if parameter.sink is Sink.SQL and _is_sql(value) else value
    if not callable(value) and not any(is_of_kind(plain, kind) for kind in parameter.kinds):
        raise _parameter_error(
            f"`{name}` must be {describe_kinds(parameter.kinds)}, not {describe_kind_of(value)}"
        )
    if parameter.fields:
        checked: Any = _check_parameters(name, parameter.fields, value, "field")
    else:
        checked = _find_choice(name, value, parameter) if parameter.choices else value
    if (
        parameter.rejection_reason is not None
        and not callable(value)
        and (reason := parameter.rejection_reason(value)) is not None
    ):
        shown = describe_kind_of(value) if parameter.secrets else quote_or_describe(value)
        raise _parameter_error(f"`{name}` cannot be {shown}: {reason}")
    return checked


def _find_choice(name: str, value: Any, parameter: Parameter) -> Any:
    if not isinstance(value, str):
        return value
    for choice in parameter.choices:
        if len(value) == len(choice) and value.lower() == choice.lower():
            return choice
    raise _parameter_error(f"`{name}` must be one of {', '.join(parameter.choices)}, not {quote_text(value)}")


def _parameter_error(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)


def _render_fields(value: Any, fields: Mapping[str, Parameter], reader: _Reader) -> Any:
    if isinstance(value, str) and has_template(value):
        raise _parameter_error("it must be a literal mapping, not a template")
    if not isinstance(value, dict):
        return value
    rendered = {}
    for key, item in value.items():
        try:
            rendered[key] = _render(item, fields.get(key), reader)
        except ActionError as error:
            raise error.at_key(key) from error
    return rendered


def _render_text(text: str, parameter: Parameter | None, reader: _Reader) -> Any:
    if parameter is not None and parameter.deferred_names and _reads_any(text, parameter.deferred_names):
        return _render_deferred(text, parameter, reader)
    sink = Sink.PLAIN if parameter is None else parameter.sink
    if sink is Sink.SQL:
        return _render_sql(text, parameter, reader)
    if not has_template(text):
        return text
    if sink is Sink.SHELL:
        return _render_shell(text, parameter, reader)
    if sink is Sink.URL:
        return _render_url(text, parameter, reader)
    return _evaluate(text, parameter, reader)


def _reads_any(text: str, names: tuple[str, ...]) -> bool:
    return has_template(text) and not parse_template(text).names.isdisjoint(names)


def _render_deferred(text: str, parameter: Parameter, reader: _Reader) -> Callable[..., Any]:
    return lambda **names: _evaluate(text, parameter, reader.with_names(names))


def _evaluate(text: str, parameter: Parameter | None, reader: _Reader) -> Any:
    template = parse_template(text)
    value = _with_secrets(template, parameter, reader, template.evaluate)
    if parameter is None and "secrets" in template.names and not isinstance(value, SecretReference):
        raise _parameter_error("a secret must be passed alone: add text to it where it is used")
    return str(value) if isinstance(value, str) and not isinstance(value, SecretReference) else value


def _evaluate_parts(
    text: str, parameter: Parameter | None, reader: _Reader
) -> list[tuple[str | Expression, Any]]:
    """Return the parts of a text for a sink, each expression with its value."""
    template = parse_template(text)
    if template.parts is None:
        raise _parameter_error("`{% %}` is not allowed here")
    values = iter(_with_secrets(template, parameter, reader, template.values))
    return [(part, None if isinstance(part, str) else next(values)) for part in template.parts]


def _with_secrets(template: Template, parameter: Parameter | None, reader: _Reader, evaluate: Any) -> Any:
    """Return evaluate(lookup), with the secrets that the parameter may read.

    Raises:
        ActionError: the template has no value. If it may contain a secret, the message has no details.
    """
    missing: list[ActionError] = []

    def value_of(name: str) -> Any:
        if name == "secrets":
            return _find_secrets(template, parameter, reader.secrets, missing)
        value = reader.lookup(name)
        if parameter is None or not parameter.secrets or reader.secrets is None or name != "args":
            return value
        return _reveal_reads(value, template, name, reader.secrets)

    try:
        return evaluate(value_of)
    except EvaluationError as error:
        if missing and error.type == "UndefinedName":
            raise missing[0] from error
        if "secrets" in template.names or ("args" in template.names and error.type == "TemplateError"):
            # The message of the template error may quote the value.
            message = "a template that may contain a secret failed; the details are withheld"
            withheld = EvaluationError(error.type, message)
            raise expression_error(withheld, template, reader.lookup) from None
        raise expression_error(error, template, reader.lookup) from error


def _find_secrets(
    template: Template, parameter: Parameter | None, secrets: SecretAccess | None, missing: list[ActionError]
) -> dict[str, str]:
    """Return the secrets that the template names: values if the parameter accepts secrets, else references.

    Add the errors of unknown secrets to `missing`.
    """
    names = {access[1] for access in template.reads if access[0] == "secrets" and len(access) > 1}
    if parameter is None:
        return {name: SecretReference(name) for name in names}
    if not parameter.secrets or secrets is None:
        raise _parameter_error("`secrets` is not allowed here")
    values = {}
    for name in sorted(names):
        try:
            values[name] = secrets.reveal(name)
        except ActionError as error:
            # A temporarily unavailable secret must not count as missing: `default` replaces missing secrets.
            if error.type != "ParameterError":
                raise
            missing.append(error)
    return values


def _reveal_reads(value: Any, template: Template, name: str, secrets: SecretAccess) -> Any:
    """Return `value` with the secret references revealed that the template reads under `name`."""
    for access in template.reads:
        if access[0] == name:
            value = _reveal_at(value, access[1:], secrets)
    return value


def _reveal_at(value: Any, path: tuple[str, ...], secrets: SecretAccess) -> Any:
    if isinstance(value, SecretReference):
        return secrets.reveal(value.name)
    if isinstance(value, Mapping):
        keys = path[:1] or tuple(value)
        return {**value, **{key: _reveal_at(value[key], path[1:], secrets) for key in keys if key in value}}
    if isinstance(value, list):
        return [_reveal_at(item, (), secrets) for item in value]
    return value


def _is_sql(value: Any) -> bool:
    from noetl.executor.model.sql import Sql

    return isinstance(value, Sql)


def _render_sql(text: str, parameter: Parameter | None, reader: _Reader) -> Sql:
    from noetl.executor.model.sql import MAX_STATEMENT, Bind, Sql, SqlIdentifier

    if not has_template(text):
        return Sql((text,))
    rendered: list[str | Bind | SqlIdentifier] = []
    left = MAX_STATEMENT
    for part, value in _evaluate_parts(text, parameter, reader):
        if isinstance(part, str):
            rendered.append(part)
        elif part.is_raw or part.is_identifier:
            try:
                inserted = to_text(value, left)
            except TooLongError:
                raise _parameter_error(f"the statement is longer than {MAX_STATEMENT:,} characters") from None
            left -= len(inserted)
            rendered.append(inserted if part.is_raw else SqlIdentifier(inserted))
        else:
            rendered.append(Bind(str(value) if isinstance(value, str) else value))
    if not any(isinstance(part, str) and part.strip() for part in rendered):
        raise _parameter_error("a statement cannot come from data: write it as text, or use `| raw`")
    return Sql(tuple(rendered))


def _render_shell(text: str, parameter: Parameter | None, reader: _Reader) -> Any:
    parts = _evaluate_parts(text, parameter, reader)
    values = [value for part, value in parts if isinstance(part, Expression)]
    if parse_template(text).is_expression and isinstance(values[0], list):
        return [_to_argument(item) for item in values[0]]
    command = ""
    for part, value in parts:
        if isinstance(part, str):
            command += part
        else:
            argument = _to_argument(value)
            command += argument if part.is_raw else shlex.quote(argument)
        if len(command) > MAX_ARGUMENT:
            raise _parameter_error(_ARGUMENT_PROBLEM)
    return command


def _to_argument(value: Any) -> str:
    try:
        return to_text(value, MAX_ARGUMENT)
    except TooLongError:
        raise _parameter_error(_ARGUMENT_PROBLEM) from None


def _to_url_text(part: Expression, value: Any) -> str:
    try:
        return to_text(value, MAX_URL)
    except TooLongError:
        raise _parameter_error(f"{{{{ {part.source} }}}} is longer than {MAX_URL:,} characters") from None


def _render_url(text: str, parameter: Parameter | None, reader: _Reader) -> Any:
    lexer = UrlLexer()
    url = ""
    path_spans: list[tuple[int, int]] = []
    for part, value in _evaluate_parts(text, parameter, reader):
        if isinstance(part, str):
            lexer.feed(part)
            url += part
        elif part.is_raw or lexer.component is UrlComponent.ORIGIN:
            if value is None or isinstance(value, dict | list):
                raise _parameter_error(
                    f"{{{{ {part.source} }}}} is {describe_kind_of(value)}; a URL needs text"
                )
            url += _to_url_text(part, value)
        else:
            encoded = _encode_url_value(part, value, lexer.component)
            if lexer.component is UrlComponent.PATH:
                path_spans.append((len(url), len(url) + len(encoded)))
            url += encoded
        if len(url) > MAX_URL:
            raise _parameter_error(f"the URL is longer than {MAX_URL:,} characters")
    for start, end in path_spans:
        _check_path_segment(url, start, end)
    return url.strip() if parse_template(text).is_expression else url


def _encode_url_value(part: Expression, value: Any, place: UrlComponent) -> str:
    text = _to_url_text(part, value)
    if place is UrlComponent.PATH:
        if value is None:
            raise _parameter_error(f"{{{{ {part.source} }}}} is none; the path of a URL needs text")
        if ".." in text.replace("\\", "/").split("/"):
            message = f"{{{{ {part.source} }}}} contains `..`, which must not be in the path of a URL"
            raise _parameter_error(message)
    return quote(text, safe="")


def _check_path_segment(url: str, start: int, end: int) -> None:
    """Check that the path segment around an inserted value is not `.` or `..`, in plain or encoded form."""
    segment_start = url.rfind("/", 0, start) + 1
    segment_end = min((i for mark in "/?#" if (i := url.find(mark, end)) >= 0), default=len(url))
    if url[segment_start:segment_end].lower().replace("%2e", ".") in (".", ".."):
        raise _parameter_error(
            "a template makes a path segment `.` or `..`, which must not be in the path of a URL"
        )
