"""Facts about failed expressions in error records."""

from __future__ import annotations

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.engine.failed_expression import MAX_NAMES, describe_expression, name_parameter
from noetl.executor.errors import ActionError
from noetl.planner.templates.template import EvaluationError, parse_template


def raise_lost(name: str) -> object:
    if name == "lost":
        raise EvaluationError("PayloadLost", "gone")
    if name == "refused":
        raise ActionError("Timeout", "late")
    return {"n": 1, "now": lambda: None}[name]


def test_names_have_their_values_and_functions_are_left_out() -> None:
    template = parse_template("{{ n + x.y + lost + refused + secrets.k | length + now() }}")
    assert describe_expression(template, raise_lost)["values"] == {"n": "1", "x.y": "undefined"}


def test_the_number_of_names_and_the_text_are_bounded() -> None:
    names = " + ".join(f"name_{n}" for n in range(30))
    no_names: dict[str, object] = {}
    template = parse_template(f"{{{{ {names} ~ '{'x' * 500}' }}}}")
    described = describe_expression(template, no_names.__getitem__)
    assert len(described["values"]) == MAX_NAMES
    assert len(described["expression"]) == 500


@pytest.mark.parametrize(
    ("type", "message", "parameters", "place"),
    [
        ("ParameterError", "`url` has no host", {"url": "{{ n }}"}, ("url", "{{ n }}", {"n": "1"})),
        ("ForbiddenAddress", "`h` is forbidden", {"url": "{{ n }}"}, ("url", "{{ n }}", {"n": "1"})),
        ("ParameterError", "`body` is long", {"body": "{{ n }}"}, ("body", "{{ n }}", None)),
        ("ParameterError", "`url` has no host", {"url": "http:"}, None),
        ("ParameterError", "no host", {"url": "{{ n }}"}, None),
        ("HTTPStatus", "`url` is unknown", {"url": "{{ n }}"}, None),
    ],
)
def test_a_refused_parameter_has_its_expression(
    type: str, message: str, parameters: dict[str, str], place: tuple[str, str, object] | None
) -> None:
    """Values are left out if the parameter may contain secrets."""
    error = name_parameter(ActionError(type, message), catalogue()["http"], parameters, raise_lost)
    found = error.place
    assert (None if not found else (found["key"], found["expression"], found.get("values"))) == place


def test_an_error_with_a_place_keeps_it() -> None:
    error = ActionError("ParameterError", "`url` is wrong").at_key("url")
    assert name_parameter(error, catalogue()["http"], {"url": "{{ n }}"}, raise_lost) is error
